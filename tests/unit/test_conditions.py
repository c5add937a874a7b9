"""Conditions of every form: labels, a tensor, a dict of tensors."""

import pytest
import torch

from realuid_lightning import conditions
from realuid_lightning.data import Batch

FORMS = {
    "labels": torch.arange(6) % 3,
    "tensor": torch.arange(24.0).view(6, 2, 2),
    "dict": {"text": torch.arange(30.0).view(6, 5), "mask": torch.arange(6) % 2 == 0},
}


def equal(a, b):
    return all(map(torch.equal, conditions.tensors(a), conditions.tensors(b)))


@pytest.mark.parametrize("y", FORMS.values(), ids=FORMS)
def test_rows_and_joined_undo_each_other(y):
    parts = [conditions.rows(y, slice(0, 2)), conditions.rows(y, slice(2, 6))]
    assert [conditions.size(part) for part in parts] == [2, 4]
    assert type(conditions.joined(parts)) is type(y)
    assert equal(conditions.joined(parts), y)
    chosen = torch.tensor([5, 0, 5])
    assert equal(conditions.rows(y, chosen), conditions.map_tensors(y, lambda part: part[chosen]))
    mask = torch.tensor([True, False, False, False, False, True])
    assert equal(conditions.rows(y, mask), conditions.rows(y, torch.tensor([0, 5])))


def test_no_condition_stays_none():
    assert conditions.rows(None, slice(2)) is conditions.joined([None, None]) is None
    assert conditions.tensors(None) == []


@pytest.mark.parametrize("y", FORMS.values(), ids=FORMS)
def test_batches_split_every_form(y):
    batch = Batch(y=y, z=torch.arange(6.0))
    assert batch.size == 6
    parts = batch.chunk(3)
    assert equal(conditions.joined([part.y for part in parts]), y)
    assert torch.equal(torch.cat([part.z for part in parts]), batch.z)
