"""Conditions of every form pass through training, evaluation and prediction: the network alone looks inside."""

import numpy as np
import pytest
import torch
from helpers import fit, same, trainer, weights
from torch import nn

from realuid_lightning.data import MatchingDataModule, MemorySource
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation import PredictionWriter
from realuid_lightning.modules import RealUIDModule, TeacherModule, Warmup
from realuid_lightning.networks import MLP
from realuid_lightning.recorded import Recorded

FORMS = {
    "labels": (lambda y: y, lambda y: y),
    "tensor": (lambda y: y[:, None].double(), lambda y: y[:, 0].long()),
    "dict": (lambda y: {"ones": y % 10, "tens": (y // 10)[:, None]}, lambda y: y["ones"] + 10 * y["tens"][:, 0]),
}
"""What becomes of the numbers 0 to 19, and how they are read."""


class Told(Recorded, nn.Module):
    """A network that is told a number."""

    def __init__(self, form: str):
        super().__init__()
        torch.manual_seed(0)
        self.form, self.shape, self.network = form, (2,), MLP([2], 16, 1, num_classes=20)
        nn.init.normal_(self.network.out[-1].weight, std=0.2)
        if form == "labels":
            self.num_classes = 20

    def forward(self, t, x, y=None):
        return self.network(t, x, FORMS[self.form][1](y))


class Numbered(MemorySource):
    """Points with numbers, in one of the forms."""

    shape = (2,)

    def __init__(self, form):
        self.form = form

    @property
    def num_classes(self):
        return 20 if self.form == "labels" else None

    def load(self):
        return torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), FORMS[self.form][0](
            torch.arange(60) % 20
        )


def data(form, **options):
    return MatchingDataModule(Numbered(form), 8, labels=True, eval_samples=24, predict_seeds="3-26", **options)


def teacher(form):
    return TeacherModule(Told(form), optimizer=torch.optim.SGD, ema=[0.5], sampling_steps=[2], eval_batch_size=7)


def distillation(form):
    options = {"alpha": 0.9, "beta": 0.94, "fake_steps": 2, "ema": [0.5], "eval_batch_size": 7}
    options |= {"fake_schedule": Warmup, "generator_schedule": Warmup, "sampling_steps": 2, "accumulate": 2}
    return RealUIDModule(Told(form), None, **options)


def trained(make, form, folder, **options):
    """Return the weights after a run, and the samples that it predicts."""
    made = make(form)
    fit(made, data(form, **options), folder, limit_val_batches=None, val_check_interval=1, check_val_every_n_epoch=None)
    run = trainer(folder, callbacks=[PredictionWriter(str(folder / form), "npz")])
    samples = torch.cat(run.predict(made, data(form)))
    with np.load(folder / form / "samples.npz") as archive:
        assert set(archive) == {"index", "samples"} | ({"labels"} if form == "labels" else set())
    return weights(made), samples


@pytest.mark.parametrize("make", [teacher, distillation])
def test_the_form_does_not_matter(make, tmp_path):
    states, samples = zip(*(trained(make, form, tmp_path) for form in FORMS), strict=True)
    start = weights(make("dict"))
    for state, drawn in zip(states, samples, strict=True):
        assert same(state, states[0])
        assert torch.equal(drawn, samples[0])
        assert drawn.isfinite().all()
    assert not same(states[0], start)
    other, _ = trained(make, "dict", tmp_path, on_device=True)
    assert same(other, states[0])


def test_the_numbers_are_heard():
    generator, z, renoise = distillation("dict").generator, torch.zeros(2, 2), torch.zeros(2, 1, 2)
    conditions = (FORMS["dict"][0](torch.tensor(numbers)) for numbers in ((0, 11), (10, 11)))
    one, two = (generator(z, y, renoise=renoise) for y in conditions)
    assert not torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


def test_networks_of_classes_are_told_of_other_conditions(tmp_path):
    made = RealUIDModule(MLP([2], 16, 1, num_classes=20), None)
    with pytest.raises(UserError, match="the network expects one of 20 classes, but Numbered has no class labels"):
        fit(made, data("dict"), tmp_path)
    with pytest.raises(UserError, match=r"data.labels is true, but the network has no classes"):
        fit(RealUIDModule(MLP([2], 16, 1), None), data("dict"), tmp_path)
