"""The Fréchet distance of features, as a metric."""

from torch import Tensor, nn

from realuid_lightning.metrics.base import Metric, Sample
from realuid_lightning.metrics.distances import Last
from realuid_lightning.metrics.frechet import covariance_root, moments, root_trace
from realuid_lightning.metrics.published import read_moments
from realuid_lightning.metrics.sums import FeatureStatistics


class FID(Metric):
    """Fréchet distance between the Gaussians with the moments of real and of generated features (arXiv 1706.08500).

    It sees mean and covariance only: whatever else differs costs nothing.

    Args:
        statistics: ``.npz`` file with ``mu`` and ``sigma`` of the features of real samples, as others publish them,
            which stand in for those of the reference data; these when None.

    Raises:
        UserError: If the file cannot be read, or holds something else.

    Example:
        >>> import torch
        >>> real = torch.tensor([[-1.0], [1.0]])
        >>> round(FID().compute(Sample.of(real), Sample.of(real + 3))["fid"], 6)
        9.0
    """

    def __init__(self, statistics: str | None = None) -> None:
        self.better = {"fid": "min"}
        self.published = None if statistics is None else read_moments(statistics)
        self._of_real = Last(self._moments_and_root)

    def fault(self, features: nn.Module, samples: int) -> str | None:
        """Refuse statistics of other features."""
        if self.published is not None and len(self.published[1]) != features.num_features:
            known = len(self.published[1])
            return f"FID needs statistics of {features.num_features} features, but those of the file have {known}"
        return super().fault(features, samples)

    def figures(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return ``fid``."""
        covariance, mean, root = self._of_real(real.sums)
        other, other_mean = moments(generated.sums)
        distance = (mean - other_mean).square().sum() + covariance.trace() + other.trace()
        return {"fid": (distance - 2 * root_trace(root, other)).item()}

    def _moments_and_root(self, sums: FeatureStatistics) -> tuple[Tensor, Tensor, Tensor]:
        covariance, mean = moments(sums) if self.published is None else self.published
        covariance, mean = covariance.to(sums.total.device), mean.to(sums.total.device)
        return covariance, mean, covariance_root(covariance)
