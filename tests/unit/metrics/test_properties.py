"""What figures must be of samples in another order, equal ones, repeated ones and far ones, and arguments in range."""

import math

import pytest
import torch

from realuid_lightning.errors import UserError
from realuid_lightning.fingerprint import fingerprint
from realuid_lightning.metrics import FID, KID, MMD, PRDC, InceptionScore, Metric, Modes, Sample, Wasserstein
from realuid_lightning.metrics.distances import FEW, squared_distances
from realuid_lightning.recorded import rebuild

WHOLE = [FID(), KID(2, 300, samples=300), InceptionScore(1), PRDC(), Wasserstein(), MMD(), Modes()]
"""Metrics that see all of 300 samples."""
IN_ALL_WIDTHS = pytest.mark.parametrize("width", [2, FEW + 4])


def draws(seed, width=4, count=300):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(vectors):
    return Sample.of(vectors, 2 * vectors)


def figures(metric, real, generated):
    return metric.compute(of(real), of(generated))


@pytest.mark.parametrize("metric", WHOLE, ids=lambda metric: type(metric).__name__)
def test_order_does_not_matter_and_the_same_is_found_again(metric):
    real, generated = draws(0), 0.5 + draws(1)
    expected = figures(metric, real, generated)
    assert tuple(expected) == metric.names
    assert figures(metric, real, generated) == expected
    assert figures(metric, real.flip(0), generated.flip(0)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", WHOLE, ids=lambda metric: type(metric).__name__)
def test_a_metric_is_built_again_from_its_record(metric):
    again = rebuild(metric.recorded(), Metric)
    real, generated = draws(0), 0.5 + draws(1)
    assert figures(again, real, generated) == figures(metric, real, generated)
    assert fingerprint(again) == fingerprint(rebuild(metric.recorded(), Metric))  # which has computed nothing yet


@pytest.mark.parametrize("metric", WHOLE, ids=lambda metric: type(metric).__name__)
def test_other_real_samples_are_not_taken_for_the_last(metric):
    figures(metric, draws(0), draws(1))
    fresh = rebuild(metric.recorded(), Metric)
    assert figures(metric, 3 + draws(2), draws(1)) == figures(fresh, 3 + draws(2), draws(1))


@pytest.mark.parametrize("metric", [PRDC(), MMD(), Wasserstein()], ids=lambda metric: type(metric).__name__)
def test_as_many_of_either_side_are_compared(metric):
    real, generated = of(draws(0)), of(draws(1, count=200))
    expected = metric.compute(real._replace(vectors=real.vectors[:200]), generated)
    metric.compute(real, real)
    assert metric.compute(real, generated) == expected


@IN_ALL_WIDTHS
def test_equal_samples(width):
    real = draws(0, width)
    same = real.flip(0)
    assert figures(PRDC(), real, same) == {"precision": 1, "recall": 1, "density": 1, "coverage": 1}
    assert figures(Wasserstein(), real, same) == {"w2": 0}
    assert figures(MMD([0.1, 1.0]), real, same) == pytest.approx({"mmd_0.1": 0, "mmd_1": 0}, abs=1e-12)
    assert figures(Modes(), real, same) == {"modes": width, "modes_tv": 0}
    assert figures(KID(50, 100), real, same)["kid"] < 0.02


@IN_ALL_WIDTHS
def test_samples_that_are_all_one(width):
    real = draws(0, width)
    one = real[:1].expand(300, -1)
    assert figures(PRDC(), real, one)["precision"] == 1
    assert figures(PRDC(), real, one)["recall"] == 0
    assert figures(PRDC(), real, one)["coverage"] < 0.2
    assert set(figures(PRDC(), one, one).values()) == {0}  # all balls are empty
    assert figures(Wasserstein(), one, one) == {"w2": 0}
    assert figures(Modes(), real, one)["modes"] == 1
    assert figures(InceptionScore(), real, one)["inception_score"] == pytest.approx(1)


@IN_ALL_WIDTHS
def test_samples_that_repeat_are_at_no_distance(width):
    """A pair fills no ball; six equal points, more than k, do."""
    points = draws(0, width, 60)
    for times, share in ((2, 1), (6, 0)):
        repeated = points.repeat(times, 1)
        assert figures(PRDC(k=5), repeated, repeated.flip(0))["coverage"] == share


@IN_ALL_WIDTHS
def test_places_far_from_the_origin_and_from_each_other(width):
    real, generated = draws(0, width), draws(1, width)
    where = 1e4 * (torch.arange(300) % 2)[:, None]  # two clusters
    near = [figures(PRDC(), real[::2], generated[::2]), figures(PRDC(), real[1::2], generated[1::2])]
    apart = figures(PRDC(), 1e6 + where + real, 1e6 + where + generated)
    for name, figure in apart.items():
        assert figure == pytest.approx((near[0][name] + near[1][name]) / 2, abs=1e-12)


def test_distances_by_products_are_those_by_differences():
    x, y = draws(0, FEW + 1), draws(1, FEW + 1)
    y[:100] = x[:100]
    expected = (x[:, None] - y).square().sum(2)
    torch.testing.assert_close(squared_distances(x, y), expected, rtol=1e-12, atol=0)


def test_the_wasserstein_distance_of_a_shift_is_its_length():
    real = draws(0, 3)
    assert figures(Wasserstein(), real, real + 2)["w2"] == pytest.approx(2 * math.sqrt(3))
    assert figures(Wasserstein(100), real, real[:50] + 2)["w2"] > 2 * math.sqrt(3) - 1  # of other numbers, too


def test_a_small_bandwidth_sees_thin_bands():
    """The moments of a wide and of a thin band differ by little; at its width the discrepancy is far from the floor."""
    x = 10 * torch.rand(2, 3000, generator=torch.Generator().manual_seed(0)).double()
    noise = 0.05 * draws(0, 3, 3000)
    real, other, thin = (torch.stack([x, width * n], 1) for x, width, n in zip(
        (x[0], x[1], x[1]), (1, 1, 0.5), noise.T, strict=True
    ))  # fmt: skip
    floor, found = (figures(MMD([0.05, 5.0]), real, side) for side in (other, thin))
    assert found["mmd_0.05"] > 2 * floor["mmd_0.05"]
    assert found["mmd_5"] < 1.5 * floor["mmd_5"]


def test_a_mode_needs_a_tenth_of_its_share():
    real, most = torch.eye(4).repeat(100, 1), torch.eye(4)[[0]]
    for stray, modes in ((5, 1), (10, 2)):
        generated = torch.cat([most.repeat(400 - stray, 1), torch.eye(4)[[1]].repeat(stray, 1)])
        found = Modes().compute(Sample.of(real, real), Sample.of(generated, generated))
        assert found == {"modes": modes, "modes_tv": pytest.approx(0.75 - stray / 400)}


def test_a_mode_that_real_samples_lack_does_not_count():
    real, generated = torch.eye(3)[:2].repeat(10, 1), torch.eye(3)[1:].repeat(10, 1)
    found = Modes().compute(Sample.of(real, real), Sample.of(generated, generated))
    assert found == {"modes": 1, "modes_tv": 0.5}


def test_subsets_of_the_kernel_distance_are_drawn():
    real, generated = draws(0, count=1000), 0.5 + draws(1, count=1000)
    exact = figures(KID(1, 1000, samples=1000), real, generated)["kid"]
    assert figures(KID(200, 200, samples=1000), real, generated)["kid"] == pytest.approx(exact, rel=0.1)
    assert figures(KID(1, 200, samples=1000), real, generated)["kid"] != pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: KID(0, 1, 0, 0), ["subsets must", "subset_size must", "degree must", "samples must"]),
        (lambda: InceptionScore(0), ["splits must be at least 1, got 0"]),
        (lambda: PRDC(0, 0), ["k must be at least 1", "samples must be more than k"]),
        (lambda: Wasserstein(1), ["samples must be at least 2"]),
        (lambda: MMD([0.0], 1), ["bandwidths must be a list of positive", "samples must"]),
        (lambda: MMD([]), ["bandwidths must be a list"]),
        (lambda: MMD([1.0, 1.0]), ["bandwidths must differ"]),
        (lambda: MMD([math.nan]), ["bandwidths must be a list of positive"]),
        (lambda: Modes(0.0), ["share must be in (0, 1], got 0"]),
    ],
)
def test_arguments_out_of_range_are_refused(build, words):
    with pytest.raises(UserError) as refused:
        build()
    assert all(word in str(refused.value) for word in words)
