"""What a metric is: a function of the features of real and of generated samples, taken once for all metrics."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from realuid_lightning.metrics.sums import FeatureStatistics
from realuid_lightning.recorded import Recorded
from realuid_lightning.seeding import keyed_generator

ORDER = 0x02DE2

Better = Literal["min", "max"]
"""Whether a low or a high figure is good."""


def drawn_order(count: int) -> Int64[Tensor, " n"]:
    """Return the order in which metrics see ``count`` samples: a permutation of their indices, always the same.

    Data may be listed class by class, and metrics that take fewer than all samples take the first.
    """
    return torch.randperm(count, generator=keyed_generator(ORDER, count))


class Sample(NamedTuple):
    """What metrics see of a set of samples, real or generated: the same whatever batches and processes it came in.

    Attributes:
        sums: Sums over the feature vectors of all samples, float64.
        vectors: Feature vectors ``(n, F)`` in ``drawn_order`` of all samples' indices, as the extractor gave them: of
            as many first ones as the metrics ask for, all if there are fewer; ``(0, F)`` if none asks.
        logits: Logits of a classifier ``(n, K)`` in the same order, of all samples; ``(n, 0)`` where no metric asks.
    """

    sums: FeatureStatistics
    vectors: Float[Tensor, "n f"]
    logits: Float[Tensor, "n k"]

    @classmethod
    def of(cls, vectors: Float[Tensor, "n f"], logits: Float[Tensor, "n k"] | None = None) -> "Sample":
        """Return what metrics see of feature vectors, and of logits, that are all at hand, by their index.

        Example:
            >>> Sample.of(torch.ones(3, 2)).sums.total
            tensor([3., 3.], dtype=torch.float64)
        """
        order = drawn_order(len(vectors)).to(vectors.device)
        empty = vectors.new_zeros(len(vectors), 0)
        return cls(FeatureStatistics.of(vectors), vectors[order], empty if logits is None else logits[order])

    def sound(self) -> bool:
        """Return whether these are two or more samples, all of them finite."""
        return self.sums.sound(self.vectors.shape[1]) and bool(self.logits.isfinite().all())


class Metric(Recorded, ABC):
    """A figure, or several, of generated samples beside real ones; a subclass gives ``better`` and ``figures``.

    The figures are a deterministic function: what is drawn for them comes from a generator of its own with a fixed
    seed, and distances are taken in float64, on the device of the samples.

    Attributes:
        better: Names of the figures, as in the log (``fid`` becomes ``fid/ema_0.999``), each with whether a low
            (``min``) or a high (``max``) figure is good.
        vectors: Number of feature vectors of either side that it asks for: 0 for none.
        logits: Whether it asks for a classifier's logits.
        fewest: Number of samples of either side that it needs, at least 2.

    Example:
        >>> class MeanDistance(Metric):
        ...     def __init__(self) -> None:
        ...         self.better = {"mean_distance": "min"}
        ...     def figures(self, real, generated):
        ...         means = [side.sums.total / side.sums.count for side in (real, generated)]
        ...         return {"mean_distance": (means[0] - means[1]).norm().item()}
        >>> MeanDistance().compute(Sample.of(torch.zeros(4, 2)), Sample.of(torch.ones(3, 2)))
        {'mean_distance': 1.4142135623730951}
    """

    better: Mapping[str, Better]
    vectors: int = 0
    logits: bool = False
    fewest: int = 2

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the figures."""
        return tuple(self.better)

    def fault(self, features: nn.Module, samples: int) -> str | None:
        """Return why this metric cannot be computed, or None if it can.

        Args:
            features: The extractor.
            samples: Number of samples of the smaller side.
        """
        name, extractor = type(self).__name__, type(features).__name__
        if samples < self.fewest:
            return f"{name} needs at least {self.fewest} samples, real and generated, but there are {samples}"
        if self.logits and not callable(getattr(features, "logits", None)):
            return (
                f"{name} needs the logits of a classifier, but features {extractor} have no method logits(vectors): "
                "choose features that classify, or leave this metric out"
            )
        return None

    def compute(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return the figures by their names; NaN where samples are not finite, or fewer than ``fewest``."""
        enough = min(int(side.sums.count) for side in (real, generated)) >= self.fewest
        if enough and real.sound() and generated.sound():
            return self.figures(real, generated)
        return dict.fromkeys(self.better, math.nan)

    @abstractmethod
    def figures(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return the figures of samples that are finite, by their names."""
