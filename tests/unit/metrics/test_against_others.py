"""Figures of 5,000 samples against implementations by others, or formulas written anew on distances by scipy."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import mmd2

from realuid_lightning.metrics import KID, MMD, PRDC, InceptionScore, Sample, Wasserstein
from realuid_lightning.metrics.kid import SUBSETS
from realuid_lightning.seeding import keyed_generator

COUNT, WIDTH = 5000, 20  # dimensions enough that distances are taken by products


def draws(seed, count=COUNT):
    generator = torch.Generator().manual_seed(seed)
    return 100 + (1 + 0.1 * seed) * torch.randn(count, WIDTH, generator=generator) + 0.05 * seed


@pytest.fixture(scope="module")
def sides():
    return Sample.of(draws(0)), Sample.of(draws(1))


@pytest.fixture(scope="module")
def distances(sides):
    """Between real samples, real and generated, and generated ones, by differences in float64."""
    real, generated = (side.vectors.double().numpy() for side in sides)
    return cdist(real, real), cdist(real, generated), cdist(generated, generated)


def test_precision_recall_density_and_coverage(sides, distances):
    within_real, between, within = distances
    k = 5
    real_radii, radii = (np.partition(each, k, axis=1)[:, k] for each in (within_real, within))
    in_real_ball, in_ball = between < real_radii[:, None], between < radii
    expected = {
        "precision": in_real_ball.any(0).mean(),
        "recall": in_ball.any(1).mean(),
        "density": in_real_ball.sum(0).mean() / k,
        "coverage": (between.min(1) < real_radii).mean(),
    }
    assert PRDC(k).compute(*sides) == pytest.approx(expected, rel=1e-12)
    assert all(0.1 < figure < 0.99 for figure in expected.values())


def test_maximum_mean_discrepancy(sides, distances):
    def mean(each, bandwidth):
        return np.exp(-(each**2) / (2 * bandwidth**2)).mean()

    def mmd(bandwidth):
        within_real, between, within = (mean(each, bandwidth) for each in distances)
        return within_real + within - 2 * between

    expected = {"mmd_0.5": mmd(0.5), "mmd_4": mmd(4)}
    assert MMD([0.5, 4.0]).compute(*sides) == pytest.approx(expected, rel=1e-6)


def test_wasserstein_distance():
    real, generated = draws(0, 700), draws(1, 700)
    cost = cdist(real.double(), generated.double(), "sqeuclidean")
    expected = cost[linear_sum_assignment(cost)].mean() ** 0.5
    for scale in (1e-4, 1, 1e4):  # the simplex has a tolerance of its own, which must not matter
        found = Wasserstein().compute(Sample.of(scale * real.double()), Sample.of(scale * generated.double()))
        assert found["w2"] == pytest.approx(scale * expected, rel=1e-6)


def test_kernel_distance():
    sides = [Sample.of(draws(seed).double() - 100) for seed in (0, 1)]
    generator, estimates = keyed_generator(SUBSETS), []
    for _ in range(3):
        x, y = (side.vectors[torch.randperm(COUNT, generator=generator)[:1000]].numpy() for side in sides)
        estimates.append(mmd2(*((one @ other.T / WIDTH + 1) ** 3 for one, other in ((x, x), (x, y), (y, y)))))
    assert KID(subsets=3).compute(*sides)["kid"] == pytest.approx(np.mean(estimates), rel=1e-6)


@pytest.mark.parametrize("splits", [1, 7])
def test_inception_score(splits):
    logits = 3 * draws(0) - 300
    sample = Sample.of(draws(0), logits)
    expected = isc_features_to_metric(sample.logits, splits, shuffle=False)["inception_score_mean"]
    assert InceptionScore(splits).compute(sample, sample)["inception_score"] == pytest.approx(expected, rel=1e-6)
