"""The condition ``y``: what a network is told beside time and place, in whatever form it takes it.

Labels ``(B,)``, a tensor ``(B, ...)``, or a dict of such tensors, as text embeddings and their mask are. Nothing but
the network looks inside; all others hand it on, and choose or join its rows by the functions below.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

Condition = Shaped[Tensor, "b ..."] | dict[str, Shaped[Tensor, "b ..."]]
"""Labels, a tensor, or a dict of tensors; the samples come first in each."""


def map_tensors(field: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return ``function`` of a tensor, or of each tensor of a dict; None stays None.

    Example:
        >>> map_tensors({"text": torch.ones(2, 3)}, lambda part: 2 * part[:1])
        {'text': tensor([[2., 2., 2.]])}
    """
    if field is None:
        return None
    return {key: function(part) for key, part in field.items()} if isinstance(field, dict) else function(field)


def map_pairs(one: Condition, other: Condition, function: Callable[[Tensor, Tensor], Tensor]) -> Condition:
    """Return ``function`` of two conditions of one form: of both tensors, or of those that bear one name."""
    if isinstance(one, dict):
        return {key: function(part, cast(dict[str, Tensor], other)[key]) for key, part in one.items()}
    return function(one, cast(Tensor, other))


def tensors(field: Condition | None) -> list[Tensor]:
    """Return the tensors of a condition, or of another field of a batch: none, one, or those of a dict."""
    if field is None:
        return []
    return list(field.values()) if isinstance(field, dict) else [field]


def size(y: Condition) -> int:
    """Return the number of samples ``B`` that a condition is for."""
    return len(tensors(y)[0])


def rows(y: Condition | None, which: Int64[Tensor, "n"] | Bool[Tensor, "b"] | slice) -> Condition | None:
    """Return what belongs to the samples ``which``: indices, a mask, or a slice."""
    return cast(Condition | None, map_tensors(y, lambda part: part[which]))


def joined(parts: Sequence[Condition | None]) -> Condition | None:
    """Return conditions of one form one after the other; None if they are None."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, dict):
        return {key: torch.cat([cast(dict[str, Tensor], part)[key] for part in parts]) for key in first}
    return torch.cat(cast(list[Tensor], list(parts)))
