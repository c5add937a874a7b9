"""What metrics see depends on the samples alone: not on batches, nor on the order in which they come."""

import pytest
import torch

from realuid_lightning.metrics import Collector, Sample, drawn_order

COUNT = 23


def rows(width=3, seed=0):
    return torch.randn(COUNT, width, generator=torch.Generator().manual_seed(seed))


def collected(index, size, **options):
    collector = Collector(**{"width": 3, "listed": COUNT, "taken": COUNT, "vectors": COUNT, "classes": 2, **options})
    for part in index.split(size):
        collector.add(part, rows()[part], rows(2, 1)[part])
    return collector.gather()


def same(one, two):
    torch.testing.assert_close(list(one.sums), list(two.sums), rtol=1e-12, atol=1e-12)
    return torch.equal(one.vectors, two.vectors) and torch.equal(one.logits, two.logits)


@pytest.mark.parametrize("size", [1, 5, COUNT])
@pytest.mark.parametrize("order", [torch.arange(COUNT), torch.arange(COUNT).flip(0)])
def test_batches_and_order_do_not_matter(order, size):
    assert same(collected(order, size), Sample.of(rows().double(), rows(2, 1).double()))


def test_the_first_in_drawn_order_are_taken_and_kept():
    found, order = collected(torch.arange(COUNT), 4, taken=9, vectors=5), drawn_order(COUNT)
    torch.testing.assert_close(found.sums.total, rows()[order[:9]].double().sum(0))
    assert found.sums.count == 9
    assert torch.equal(found.vectors, rows()[order[:5]].double())
    assert torch.equal(found.logits, rows(2, 1)[order[:9]].double())


def test_what_is_not_asked_for_is_not_kept():
    collector = Collector(width=3, listed=COUNT, taken=COUNT, vectors=0)
    collector.add(torch.arange(COUNT), rows())
    found = collector.gather()
    assert found.vectors.shape == (0, 3)
    assert found.logits.shape == (0, 0)
    assert found.sound()


def test_nothing_is_no_sound_sample():
    found = Collector(width=3, listed=COUNT, taken=COUNT, vectors=4).gather()
    assert not found.sound()
    assert found.sums.count == 0
