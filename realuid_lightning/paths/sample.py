"""What paths and networks hand to each other: a draw from a path, and the call of a network there."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from realuid_lightning.conditions import Condition

Samples = Float[Tensor, "b *d"]
Times = Float[Tensor, " b"]


@runtime_checkable
class Network(Protocol):
    """A network of a framework: ``prediction = network(t, xt, y)``."""

    def __call__(self, t: Times, x: Samples, y: Condition | None = None) -> Samples:
        """Predict the target at ``(t, xt)``, given labels or None."""
        ...


class PathSample(NamedTuple):
    """A draw from the path and what the network has to predict there.

    Attributes:
        t: Time, ``(B,)``.
        xt: Point on the path, ``(B, *D)``.
        target: Conditional target ``c = f_t(xt | x1, x0)``, ``(B, *D)``.
    """

    t: Tensor
    xt: Tensor
    target: Tensor


def expand(t: Times, like: Samples) -> Tensor:
    """Reshape a value per sample, ``(B,)``, to ``(B, 1, ..., 1)`` of the rank of ``like``.

    Example:
        >>> import torch
        >>> expand(torch.zeros(5), torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 1, 1, 1])
    """
    return t.reshape(-1, *[1] * (like.ndim - 1))
