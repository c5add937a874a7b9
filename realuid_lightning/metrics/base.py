"""What a metric is: a function of the features of real and of generated samples, which are taken once for all of them."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from realuid_lightning.metrics.reference import FeatureStatistics
from realuid_lightning.recorded import Recorded


class Sample(NamedTuple):
    """What metrics see of a set of samples, real or generated: the same whatever batches and processes it came in.

    Attributes:
        sums: Sums over the feature vectors of all samples, float64.
        vectors: Feature vectors ``(n, F)`` in the order of the samples' indices, as the extractor gave them: of as many
            first samples as the metrics ask for, all if there are fewer; ``(0, F)`` if none asks.
        logits: Logits of a classifier ``(n, K)`` in the same order, of all samples; ``(n, 0)`` where no metric asks.
    """

    sums: FeatureStatistics
    vectors: Float[Tensor, "n f"]
    logits: Float[Tensor, "n k"]

    @classmethod
    def of(cls, vectors: Float[Tensor, "n f"], logits: Float[Tensor, "n k"] | None = None) -> "Sample":
        """Return what metrics see of feature vectors that are all at hand.

        Example:
            >>> Sample.of(torch.ones(3, 2)).sums.total
            tensor([3., 3.], dtype=torch.float64)
        """
        wide = vectors.double()
        count = torch.tensor(len(vectors), device=vectors.device)
        sums = FeatureStatistics(wide.sum(0), wide.T @ wide, count)
        return cls(sums, vectors, vectors.new_zeros(len(vectors), 0) if logits is None else logits)


class Metric(Recorded, ABC):
    """A figure, or several, of generated samples beside real ones.

    ``compute`` is a deterministic function: what it draws, it draws from a generator of its own with a fixed seed, and
    it takes distances in float64, on the device of the samples.

    Attributes:
        names: Names of the figures, as in the log: ``fid`` becomes ``fid/ema_0.999``.
        better: Whether a low (``min``) or a high (``max``) figure is good.
        vectors: Number of feature vectors of either side that it asks for: 0 for none.
        logits: Whether it asks for a classifier's logits.
    """

    names: tuple[str, ...]
    better: ClassVar[Literal["min", "max"]] = "min"
    vectors: int = 0
    logits: ClassVar[bool] = False

    @abstractmethod
    def compute(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return the figures by their names; NaN where samples are not finite."""
