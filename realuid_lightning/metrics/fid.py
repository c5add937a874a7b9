"""The Fréchet distance of features, as a metric."""

from torch import Tensor

from realuid_lightning.metrics.base import Metric, Sample
from realuid_lightning.metrics.frechet import covariance_root, moments, root_trace


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
        self._root: tuple[Tensor, Tensor] | None = None  # for one real sample, which is compared with many

    def figures(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return ``fid``."""
        covariance, mean = moments(real.sums)
        other, other_mean = moments(generated.sums)
        if self._root is None or self._root[0] is not real.sums.outer:
            self._root = real.sums.outer, covariance_root(covariance)
        distance = (mean - other_mean).square().sum() + covariance.trace() + other.trace()
        return {"fid": (distance - 2 * root_trace(self._root[1], other)).item()}
