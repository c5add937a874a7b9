"""FID against scipy's root of the product, and the root that is taken once."""

import pytest
import torch
from scipy import linalg

from realuid_lightning.metrics import FID, Sample, fid


def draws(count, width, seed):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + 0.1 * seed


def by_scipy(real, generated):
    one, two = real.T.cov().numpy(), generated.T.cov().numpy()
    shift = (real.mean(0) - generated.mean(0)).square().sum().item()
    return shift + one.trace() + two.trace() - 2 * linalg.sqrtm(one @ two).trace().real


def test_it_is_the_distance_by_scipy():
    real, generated = draws(5000, 64, 1), draws(5000, 64, 2)
    found = FID().compute(Sample.of(real), Sample.of(generated))["fid"]
    assert found == pytest.approx(by_scipy(real, generated), rel=1e-6)


def test_equal_samples_in_another_order_are_at_no_distance():
    real = draws(200, 5, 1)
    assert FID().compute(Sample.of(real), Sample.of(real.flip(0)))["fid"] == pytest.approx(0, abs=1e-9)


def test_the_root_of_real_samples_is_taken_once_and_anew_for_others(monkeypatch):
    taken, root = [], fid.covariance_root
    monkeypatch.setattr(fid, "covariance_root", lambda covariance: taken.append(1) or root(covariance))
    metric, real, other = FID(), draws(50, 4, 1), draws(50, 4, 3)
    sample = Sample.of(real)
    for seed in (2, 4):
        generated = draws(60, 4, seed)
        found = metric.compute(sample, Sample.of(generated))["fid"]
        assert found == pytest.approx(by_scipy(real, generated), rel=1e-6)
    assert len(taken) == 1
    found = metric.compute(Sample.of(other), sample)["fid"]
    assert found == pytest.approx(by_scipy(other, real), rel=1e-6)
    assert len(taken) == 2
