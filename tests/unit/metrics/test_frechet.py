"""The Fréchet distance by symmetric eigenvalues against closed forms and scipy."""

import pytest
import torch
from scipy import linalg

from realuid_lightning.metrics import covariance_root, root_trace


def factor(size, rank, seed):
    return torch.randn(size, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(size, rank, seed):
    return factor(size, rank, seed) @ factor(size, rank, seed).T


def test_a_root_squares_to_its_covariance():
    matrix = covariance(6, 9, 0)
    root = covariance_root(matrix)
    torch.testing.assert_close(root @ root, matrix, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(root, root.T)


@pytest.mark.parametrize("ranks", [(9, 9), (4, 9), (9, 2), (3, 3)])
def test_the_trace_is_the_nuclear_norm_of_the_factors(ranks):
    """Of A = F F^T and B = G G^T it is the sum of the singular values of F^T G, whatever the ranks."""
    one, two = factor(6, ranks[0], 1), factor(6, ranks[1], 2)
    expected = torch.linalg.svdvals(one.T @ two).sum().item()
    assert root_trace(covariance_root(one @ one.T), two @ two.T).item() == pytest.approx(expected, rel=1e-6)


def test_the_trace_is_that_of_the_root_of_the_product():
    """scipy's root exists for products of full rank only: that of a singular one is up to rounding."""
    left, right = covariance(6, 9, 1), covariance(6, 9, 2)
    expected = linalg.sqrtm((left @ right).numpy()).trace().real
    assert root_trace(covariance_root(left), right).item() == pytest.approx(expected, rel=1e-6)


def test_commuting_covariances_have_the_closed_form():
    left, right = (torch.tensor(values, dtype=torch.float64) for values in ([1.0, 4.0, 0.0], [9.0, 0.25, 2.0]))
    found = root_trace(covariance_root(left.diag()), right.diag())
    assert found.item() == pytest.approx((left * right).sqrt().sum().item(), rel=1e-12)


def test_no_distance_of_what_is_not_finite():
    broken = covariance(6, 9, 0)
    broken[0, 0] = torch.inf
    assert root_trace(covariance_root(covariance(6, 9, 1)), broken).isnan()
