"""Sums over feature vectors, of which mean and covariance are made."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class FeatureStatistics(NamedTuple):
    """Sums over feature vectors, as torchmetrics' FID keeps them.

    Attributes:
        total: Sum of the vectors, ``(F,)`` float64.
        outer: Sum of their outer products, ``(F, F)`` float64.
        count: Number of vectors, int64 scalar.
    """

    total: Tensor
    outer: Tensor
    count: Tensor  # type: ignore[assignment]

    @classmethod
    def of(cls, vectors: Float[Tensor, "n f"]) -> "FeatureStatistics":
        """Return the sums over the rows.

        Example:
            >>> FeatureStatistics.of(torch.ones(3, 2)).total
            tensor([3., 3.], dtype=torch.float64)
        """
        wide = vectors.double()
        return cls(wide.sum(0), wide.T @ wide, torch.tensor(len(vectors), device=vectors.device))

    def __add__(self, other: "FeatureStatistics") -> "FeatureStatistics":  # type: ignore[override]
        """Return the sums over both sets."""
        return FeatureStatistics(self.total + other.total, self.outer + other.outer, self.count + other.count)

    def sound(self, width: int) -> bool:
        """Return whether these are finite sums over two or more vectors of length ``width``."""
        shapes = [tuple(part.shape) for part in self]
        fitting = shapes == [(width,), (width, width), ()] and bool(self.count >= 2)
        return fitting and bool(self.total.isfinite().all() and self.outer.isfinite().all())
