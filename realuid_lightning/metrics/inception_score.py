"""The Inception score, by any classifier."""

from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.metrics.base import Metric, Sample


class InceptionScore(Metric):
    """Exponential of the mean KL divergence of a sample's class probabilities from their mean (arXiv 1606.03498).

    It lies between 1 and the number of classes, and is high when every sample is clearly of a class, and all classes
    are as frequent. It does not look at real samples.

    Args:
        splits: Number of parts, at least 1, over whose scores the mean is taken.

    Raises:
        UserError: If ``splits`` is out of range.

    Example:
        >>> sample = Sample.of(torch.zeros(6, 2), 100 * torch.eye(3).repeat(2, 1))
        >>> round(InceptionScore(splits=1).compute(sample, sample)["inception_score"], 6)
        3.0
    """

    logits = True

    def __init__(self, splits: int = 10) -> None:
        faults = Faults("InceptionScore")
        faults.unless(splits >= 1, f"splits must be at least 1, got {splits}")
        faults.raise_any()
        self.splits, self.fewest = splits, max(2, splits)
        self.better = {"inception_score": "max"}

    def figures(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return ``inception_score``."""
        del real
        logits, splits = generated.logits.double(), self.splits
        ends = [part * len(logits) // splits for part in range(splits + 1)]
        scores = [_score(logits[start:end]) for start, end in pairwise(ends)]
        return {"inception_score": torch.stack(scores).mean().item()}


def _score(logits: Float64[Tensor, "n k"]) -> Float64[Tensor, ""]:
    logs = logits.log_softmax(1)
    mean = logs.exp().mean(0)
    divergence: Tensor = (logs.exp() * (logs - mean.clamp(min=torch.finfo(mean.dtype).tiny).log())).sum(1)
    return divergence.mean().exp()
