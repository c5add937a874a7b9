"""Distances between feature vectors in float64, a block of rows at a time, and what is known of real samples."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from realuid_lightning.metrics.base import Sample

T = TypeVar("T")

BLOCK = 2**19
"""Distances that are held at once: 4 MiB, which a processor's cache holds too."""
FEW = 16
"""Dimensions up to which distances are taken by differences."""
ROUNDING = 1e-12
"""Share of the squared norms below which a squared distance by products is rounding: for up to 4,000 dimensions."""


class Last(Generic[T]):
    """A function that remembers its last answer, for one real sample is compared with many generated ones.

    Its first argument is known by identity, and must not be changed in place; others are compared.

    Args:
        function: Gives the answer.
    """

    def __init__(self, function: Callable[..., T]) -> None:
        self.function = function
        self.known: tuple[object, tuple[int, ...], T] | None = None

    def __call__(self, asked: object, *others: int) -> T:
        """Return the function's answer."""
        if self.known is None or self.known[0] is not asked or self.known[1] != others:
            self.known = asked, others, self.function(asked, *others)
        return self.known[2]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy and a fingerprint see: not the answer."""
        return {"function": self.function, "known": None}


def equally_many(real: Sample, generated: Sample, most: int) -> int:
    """Return how many vectors of either side to compare: as many of each, and no more than ``most``.

    What samples score depends on both numbers, and a floor may come from another number of real samples.
    """
    return min(most, len(real.vectors), len(generated.vectors))


def centred(vectors: Float[Tensor, "n f"], *others: Float[Tensor, "_ f"]) -> list[Float64[Tensor, "_ f"]]:
    """Return vectors, and others beside them, in float64, less the mean of the first."""
    mean = vectors.double().mean(0)
    return [each.double() - mean for each in (vectors, *others)]


def row_blocks(x: Float64[Tensor, "n f"], y: Float64[Tensor, "m f"]) -> Iterator[tuple[slice, Float64[Tensor, "r m"]]]:
    """Yield the ``squared_distances`` of some vectors after the other, with which these are; ``y`` has one or more."""
    rows = max(1, BLOCK // len(y))
    for start in range(0, len(x), rows):
        block = slice(start, min(start + rows, len(x)))
        yield block, squared_distances(x[block], y)


def squared_distances(x: Float64[Tensor, "n f"], y: Float64[Tensor, "m f"]) -> Float64[Tensor, "n m"]:
    """Return squared Euclidean distances; equal vectors are at distance 0.

    In few dimensions they are taken by differences. In many, products are ten times faster, and in float64 exact to a
    1e-12th of the squared norms, so vectors should be ``centred``. What is less than that is rounding, and counts as 0:
    vectors nearer to each other than a millionth of their norm are taken for equal.

    Example:
        >>> squared_distances(torch.zeros(1, 2).double(), torch.tensor([[3.0, 4.0], [0.0, 0.0]]).double())
        tensor([[25.,  0.]], dtype=torch.float64)
    """
    if x.shape[1] <= FEW:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_()
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    squared = torch.addmm(norms, x, y.T, alpha=-2)
    return squared.masked_fill_(squared <= ROUNDING * norms, 0)
