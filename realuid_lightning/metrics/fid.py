"""The Fréchet distance of features, as a metric."""

from torch import Tensor

from realuid_lightning.metrics.base import Metric, Sample
from realuid_lightning.metrics.distances import Last
from realuid_lightning.metrics.frechet import covariance_root, moments, root_trace
from realuid_lightning.metrics.sums import FeatureStatistics


class FID(Metric):
    """Fréchet distance between the Gaussians with the moments of real and of generated features (arXiv 1706.08500).

    It sees mean and covariance only: whatever else differs costs nothing.

    Example:
        >>> import torch
        >>> real = torch.tensor([[-1.0], [1.0]])
        >>> round(FID().compute(Sample.of(real), Sample.of(real + 3))["fid"], 6)
        9.0
    """

    def __init__(self) -> None:
        self.better = {"fid": "min"}
        self._of_real = Last(_moments_and_root)

    def figures(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return ``fid``."""
        covariance, mean, root = self._of_real(real.sums)
        other, other_mean = moments(generated.sums)
        distance = (mean - other_mean).square().sum() + covariance.trace() + other.trace()
        return {"fid": (distance - 2 * root_trace(root, other)).item()}


def _moments_and_root(sums: FeatureStatistics) -> tuple[Tensor, Tensor, Tensor]:
    covariance, mean = moments(sums)
    return covariance, mean, covariance_root(covariance)
