"""The Fréchet distance between Gaussians, by symmetric eigenvalues in float64."""

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from realuid_lightning.lightning_internals import without_warning
from realuid_lightning.metrics.reference import FeatureStatistics

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


class FrechetDistance(FrechetInceptionDistance):
    """torchmetrics' metric against fixed real statistics, whose covariance has its root taken once for all.

    Args:
        features: Extractor of features.
        reference: This process' share of the statistics of real samples.
        root: Square root of their covariance, over all processes.
    """

    def __init__(self, features: nn.Module, reference: FeatureStatistics, root: Matrix) -> None:
        super().__init__(feature=features)
        self.root = root
        self.orig_dtype = torch.float64  # a process without samples would have no dtype to return
        self.real_features_sum, self.real_features_cov_sum, self.real_features_num_samples = reference
        without_warning(self)

    def compute(self) -> Tensor:
        """Return the distance of everything that all processes have seen; a scalar, float64."""
        real, mean_real = moments(
            FeatureStatistics(self.real_features_sum, self.real_features_cov_sum, self.real_features_num_samples)
        )
        fake, mean_fake = moments(
            FeatureStatistics(self.fake_features_sum, self.fake_features_cov_sum, self.fake_features_num_samples)
        )
        distance = (mean_real - mean_fake).square().sum() + real.trace() + fake.trace()
        return distance - 2 * root_trace(self.root, fake)


def moments(statistics: FeatureStatistics) -> tuple[Matrix, Float64[Tensor, " f"]]:
    """Return covariance (with ``n - 1``, ``n`` at least 2) and mean of feature vectors."""
    total, outer, count = statistics
    mean = total / count
    return (outer - count * torch.outer(mean, mean)) / (count - 1), mean
