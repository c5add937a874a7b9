"""The Fréchet distance between Gaussians, by symmetric eigenvalues in float64."""

import torch
from jaxtyping import Float64
from torch import Tensor

from realuid_lightning.metrics.sums import FeatureStatistics

Matrix = Float64[Tensor, "f f"]


def covariance_root(covariance: Matrix) -> Matrix:
    """Return the symmetric square root of a covariance; eigenvalues that rounding has made negative count as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root


def root_trace(root: Matrix, covariance: Matrix) -> Float64[Tensor, ""]:
    """Return the trace of ``(A B)^(1/2)``, given ``A^(1/2)`` and ``B``.

    ``A B`` has the eigenvalues of the symmetric ``A^(1/2) B A^(1/2)``, and these are found several times faster, to
    full precision, and never complex. A covariance that is not finite, that of a diverged model, has none: NaN.
    """
    if not covariance.isfinite().all():
        return covariance.new_full((), torch.nan)
    values: Tensor = torch.linalg.eigvalsh(root @ covariance @ root)
    return values.clamp(min=0).sqrt().sum()


def moments(statistics: FeatureStatistics) -> tuple[Matrix, Float64[Tensor, " f"]]:
    """Return covariance (with ``n - 1``, ``n`` at least 2) and mean of feature vectors."""
    total, outer, count = statistics
    mean = total / count
    return (outer - count * torch.outer(mean, mean)) / (count - 1), mean
