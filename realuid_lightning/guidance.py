"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): answers that lean away from those without a condition.

A prediction is linear in the score, so that of ``guided`` belongs to the score of ``p(x) (p(x | y) / p(x))^scale``, at
each time, on every path between noise and data.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from realuid_lightning.conditions import Condition, joined, map_pairs
from realuid_lightning.errors import UserError
from realuid_lightning.networks import unconditional
from realuid_lightning.paths import Network, expand
from realuid_lightning.paths.sample import Times

Caller = TypeVar("Caller", bound=Network)


def guided(network: Caller, scale: Times | None, null: Condition | None) -> Caller:
    """Return a network that answers ``f(t, x, null) + scale (f(t, x, y) - f(t, x, null))``, by one call of ``network``.

    Args:
        network: The network ``f``. It may judge as well (``HeadedNetwork``): logits are those of ``y``, as ever.
        scale: Guidance of each sample, ``(B,)``; 1 leaves the answer as it is. With None, the network is returned.
        null: The condition of no condition, as ``unconditional`` gives it for these samples.

    Returns:
        A function that is called as the network, with the rows of several points, ``(K B,)``, one after the other.

    Example:
        >>> def network(t, x, y=None):
        ...     return y[:, None].float()
        >>> led = guided(network, torch.tensor([1.0, 3.0]), null=torch.tensor([0, 0]))
        >>> led(torch.zeros(2), torch.zeros(2, 1), torch.tensor([5, 5]))
        tensor([[ 5.],
                [15.]])
    """
    if scale is None:
        return network
    ask: Any = network

    def lead(t: Tensor, x: Tensor, y: Condition | None = None, **rows: int) -> Any:
        count = rows.get("predicted", len(t))  # rows to predict for come first, those to judge last
        points = count // len(scale)
        if points == 0:
            return ask(t, x, y, **rows)
        twice = {**rows, "predicted": 2 * count} if rows else {}
        answer = ask(torch.cat([t[:count], t]), torch.cat([x[:count], x]), joined([null] * points + [y]), **twice)
        prediction, *logits = answer if rows else (answer,)
        without, told = prediction.chunk(2)
        leaning = torch.lerp(without, told, expand(scale.repeat(points), told).to(told.dtype))
        return (leaning, *logits) if rows else leaning

    return cast(Caller, lead)


def drawn_scale(scale: float | tuple[float, float], like: Times, rng: torch.Generator | None = None) -> Times:
    """Return the scale of each sample: the number itself, or a uniform draw from a range.

    Args:
        scale: A number, or both ends of a range.
        like: A tensor ``(B,)`` of the type and on the device that are wanted.
        rng: Generator on that device; torch's global one when None. A number draws nothing.
    """
    if not isinstance(scale, Sequence):
        return torch.full_like(like, scale)
    low, high = scale
    return low + (high - low) * torch.rand(like.shape, generator=rng, device=like.device, dtype=like.dtype)


def scale_faults(scale: float | tuple[float, float] | None) -> Iterator[str]:
    """Yield what is wrong with a scale, or with a range of them."""
    ends = [] if scale is None else scale if isinstance(scale, Sequence) else [scale, scale]
    if scale is not None and not (len(ends) == 2 and 0 <= ends[0] <= ends[1] < math.inf):
        yield f"guidance must be a number of at least 0, or the two ends of a range of these, got {scale}"


def null_faults(network: nn.Module) -> Iterator[str]:
    """Yield why a network knows no condition that says nothing, as far as that can be told without one."""
    if hasattr(network, "num_classes") or not hasattr(network, "unconditional"):
        try:
            unconditional(network, torch.zeros(1, dtype=torch.int64))
        except UserError as error:
            yield str(error)


def dropped(y: Condition, null: Condition, which: Bool[Tensor, "b"]) -> Condition:
    """Return conditions of which those of the samples ``which`` are those of ``null``.

    Example:
        >>> dropped(torch.tensor([0, 1]), torch.tensor([9, 9]), torch.tensor([False, True]))
        tensor([0, 9])
    """
    return map_pairs(y, null, lambda told, none: torch.where(_spread(which, told), none, told))


def _spread(which: Bool[Tensor, "b"], like: Tensor) -> Tensor:
    """Reshape a choice of samples to the rank of what they have, ``(B, 1, ..., 1)``."""
    return which.reshape(-1, *[1] * (like.ndim - 1))
