"""What all metrics share: the order of samples, samples that are not finite, and what cannot be computed."""

import math

import torch
from torch import nn

from realuid_lightning.metrics import FID, Metric, Sample, drawn_order


def draws(count=40, width=3, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


class Mean(Metric):
    logits, fewest = True, 5

    def __init__(self):
        self.better = {"mean": "max", "spread": "min"}

    def figures(self, real, generated):
        return {"mean": generated.logits.mean().item(), "spread": generated.logits.std().item()}


def test_the_order_is_a_permutation_and_always_the_same():
    order = drawn_order(100)
    assert torch.equal(order, drawn_order(100))
    assert torch.equal(order.sort().values, torch.arange(100))
    assert not torch.equal(order, torch.arange(100))


def test_a_sample_sees_vectors_and_logits_in_one_order():
    vectors = draws()
    sample = Sample.of(vectors, 2 * vectors)
    torch.testing.assert_close(sample.logits, 2 * sample.vectors)
    assert torch.equal(sample.vectors, vectors[drawn_order(40)])
    assert Sample.of(vectors).logits.shape == (40, 0)


def test_figures_have_names_and_a_sense():
    assert Mean().names == ("mean", "spread")
    assert set(Mean().compute(Sample.of(draws(), draws()), Sample.of(draws(), draws()))) == {"mean", "spread"}


def test_samples_that_are_not_finite_or_too_few_have_no_figures():
    good, broken = draws(), draws()
    broken[3, 1] = math.nan
    for real, generated in [
        (Sample.of(good), Sample.of(broken)),
        (Sample.of(broken), Sample.of(good)),
        (Sample.of(good), Sample.of(good, broken)),
        (Sample.of(good), Sample.of(good[:4])),
    ]:
        figures = Mean().compute(real, generated)
        assert list(figures) == ["mean", "spread"]
        assert all(map(math.isnan, figures.values()))


def test_what_cannot_be_computed_is_said():
    class Classifier(nn.Module):
        def logits(self, vectors):
            return vectors

    assert Mean().fault(Classifier(), 5) is None
    assert "at least 5 samples" in Mean().fault(Classifier(), 4)
    assert "Identity have no method logits" in Mean().fault(nn.Identity(), 5)
    assert FID().fault(nn.Identity(), 2) is None
