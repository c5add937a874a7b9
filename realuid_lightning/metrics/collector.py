"""From batches on several processes to what metrics see."""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from realuid_lightning.metrics.base import Sample, drawn_order
from realuid_lightning.metrics.sums import FeatureStatistics


class Collector:
    """Takes the feature vectors of samples, which come in batches of any size to any process.

    Args:
        width: Length ``F`` of a feature vector.
        listed: Number of samples that will come.
        taken: Number of those that are taken, the first of them in ``drawn_order``; all at most.
        vectors: Number of those again whose vectors are kept.
        classes: Number ``K`` of logits that come with each vector; 0 for none.
        device: Where everything is kept.

    Example:
        >>> collector = Collector(width=1, listed=3, taken=3, vectors=3)
        >>> collector.add(torch.arange(3), torch.tensor([[0.0], [1.0], [5.0]]))
        >>> collector.gather().sums.total
        tensor([6.], dtype=torch.float64)
    """

    def __init__(
        self, width: int, listed: int, taken: int, vectors: int, classes: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self._place = drawn_order(listed).argsort().to(device)
        self.taken, self.vectors = min(taken, listed), vectors
        nowhere = torch.empty(0, dtype=torch.int64, device=device)
        self._kept = [(nowhere, torch.empty(0, width, dtype=torch.float64, device=device))]
        self._logits = [(nowhere, torch.empty(0, classes, dtype=torch.float64, device=device))]
        self.sums = FeatureStatistics.of(self._kept[0][1])

    def add(
        self, index: Int64[Tensor, " b"], vectors: Float[Tensor, "b f"], logits: Float[Tensor, "b k"] | None = None
    ) -> None:
        """Take a batch.

        Args:
            index: Places of the samples among those that are listed, from 0.
            vectors: Their feature vectors.
            logits: Their logits, where there are any.
        """
        place = self._place[index]
        chosen = place < self.taken
        place, vectors = place[chosen], vectors[chosen].double()
        self.sums += FeatureStatistics.of(vectors)
        if logits is not None:
            self._logits.append((place, logits[chosen].double()))
        kept = place < self.vectors
        self._kept.append((place[kept], vectors[kept]))

    def gather(self) -> Sample:
        """Return what all processes have taken; all of them must ask."""
        sums = FeatureStatistics(*map(_over_processes, self.sums))
        return Sample(sums, _in_order(self._kept), _in_order(self._logits))


def _over_processes(part: Tensor) -> Tensor:
    total = part.clone()
    if _shared():
        dist.all_reduce(total)
    return total


def _in_order(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the rows of all processes, in the order of their places."""
    place, rows = (torch.cat(side) for side in zip(*parts, strict=True))
    if _shared():
        place, rows = (torch.cat(gather_all_tensors(side)) for side in (place, rows))
    return rows[place.argsort()]


def _shared() -> bool:
    return dist.is_available() and dist.is_initialized()
