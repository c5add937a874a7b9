"""Precision, recall, density and coverage."""

import torch
from jaxtyping import Float64
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.metrics.base import Metric, Sample
from realuid_lightning.metrics.distances import Last, centred, equally_many, row_blocks


class PRDC(Metric):
    """How samples lie among each other's ``k`` nearest neighbours.

    Around every sample is a ball, open, that reaches to its k-th nearest neighbour on its own side.

    - ``precision``: share of generated samples in a ball of a real one; ``recall``: share of real samples in a ball of
      a generated one (arXiv 1904.06991);
    - ``density``: number of real balls that a generated sample is in, divided by ``k``, 1 on the mean for equal
      distributions; ``coverage``: share of real balls that hold a generated sample (arXiv 2002.09797).

    Balls are open as in the authors' program for the latter, so a sample that is there more than ``k`` times has an
    empty one.

    Args:
        k: Which neighbour a ball reaches to, at least 1.
        samples: Most samples that are compared, more than ``k``: as many of either side.

    Raises:
        UserError: If arguments are out of range; all faults at once.

    Example:
        >>> points = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> real, generated = points[:500], points[500:].abs()  # which is one quadrant of four
        >>> figures = PRDC().compute(Sample.of(real), Sample.of(generated))
        >>> {name: round(figure, 1) for name, figure in figures.items()}
        {'precision': 1.0, 'recall': 0.3, 'density': 1.0, 'coverage': 0.3}
    """

    def __init__(self, k: int = 5, samples: int = 10_000) -> None:
        faults = Faults("PRDC")
        faults.unless(k >= 1, f"k must be at least 1, got {k}")
        faults.unless(samples > k, f"samples must be more than k ({k}), got {samples}")
        faults.raise_any()
        self.k, self.vectors, self.fewest = k, samples, k + 1
        self.better = dict.fromkeys(("precision", "recall", "density", "coverage"), "max")
        self._real_radii = Last(self._radii)

    def figures(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return ``precision``, ``recall``, ``density`` and ``coverage``."""
        count = equally_many(real, generated, self.vectors)
        real_radii, radii = self._real_radii(real.vectors, count), self._radii(generated.vectors, count)
        x, y = centred(real.vectors[:count], generated.vectors[:count])
        balls = torch.zeros(len(y), dtype=torch.int64, device=y.device)  # that each generated sample is in
        covered, recalled = balls.new_zeros(()), balls.new_zeros(())
        for block, distances in row_blocks(x, y):
            inside = distances < real_radii[block, None]
            balls += inside.sum(0)
            covered += inside.any(1).sum()
            recalled += (distances < radii).any(1).sum()
        return {
            "precision": (balls > 0).double().mean().item(),
            "recall": recalled.item() / len(x),
            "density": balls.double().mean().item() / self.k,
            "coverage": covered.item() / len(x),
        }

    def _radii(self, vectors: Tensor, count: int) -> Float64[Tensor, " n"]:
        """Return squared distances to the k-th nearest neighbour, the sample itself not counted."""
        (x,) = centred(vectors[:count])
        nearest = [distances.topk(self.k + 1, largest=False).values[:, -1] for _, distances in row_blocks(x, x)]
        return torch.cat(nearest)
