"""How every objective sums: over the dimensions of a sample, then a mean over the batch, in at least float32."""

import torch
from torch import Tensor


def widen(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors in their common dtype, float32 at least: half precision is too coarse for sums."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of each sample, ``(B,)``, in at least float32."""
    left, right = widen(left, right)
    return (left * right).flatten(1).sum(1)


def expectation(value: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted mean over the batch; the weight is 1 when None."""
    if weight is None:
        return value.mean()
    if weight.shape != value.shape:  # a column would weigh every sample by the mean of all weights
        raise ValueError(f"weight must have shape {tuple(value.shape)}, one a sample, got {tuple(weight.shape)}")
    return (weight * value).mean()
