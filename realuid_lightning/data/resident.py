"""Training samples held on the device: the loader passes codes, which the device looks up."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from realuid_lightning.conditions import Condition, map_tensors, tensors
from realuid_lightning.data.batch import Batch
from realuid_lightning.data.checks import conditions_at, samples_at
from realuid_lightning.data.source import Samples, Source
from realuid_lightning.data.stream import Codes, Order, PairStream, Positions, RealStream, Stream, decoded
from realuid_lightning.errors import UserError

PART = 4096
"""Samples brought to the device at once, so that host memory never holds all of them twice."""


class CodedBatch(NamedTuple):
    """Which samples a batch has, as it travels to the device: codes are those of ``Order``.

    Attributes:
        x1: Codes of real samples, ``(B,)`` int64.
        x0: Codes of source ends, ``(B,)`` int64, or None.
    """

    x1: Codes
    x0: Codes | None = None


class CodeStream(Stream[CodedBatch]):
    """An endless stream of codes; it holds no samples, and is sent to loader processes in their place.

    Args:
        ends: Order of the real samples.
        origins: Order of the source ends, if there are any.
    """

    def __init__(self, ends: Order, origins: Order | None = None) -> None:
        self.ends, self.origins = ends, origins

    def __getitems__(self, positions: Positions | Sequence[int]) -> CodedBatch:
        """Return what is at ``positions``."""
        return CodedBatch(self.ends.codes(positions), None if self.origins is None else self.origins.codes(positions))


class Resident:
    """All samples that a stream draws from, held on a device as their sources give them.

    What it returns equals what the stream returns, bit for bit.

    Args:
        stream: The stream.
        device: Where its samples are to be held.

    Raises:
        UserError: If the device has too little memory.

    Attributes:
        codes: The stream with codes in place of samples.
    """

    def __init__(self, stream: RealStream | PairStream, device: torch.device) -> None:
        ends, origins = (stream.ends, stream.origins) if isinstance(stream, PairStream) else (stream, None)
        self.codes = CodeStream(ends.order, None if origins is None else origins.order)
        self._ends = _Held(ends, device)
        self._origins = None if origins is None else _Held(origins, device)

    def batch(self, coded: CodedBatch) -> Batch:
        """Return the samples that ``coded`` stands for, once it has come to the device."""
        x1, y = self._ends.get(coded.x1)
        x0 = None if self._origins is None or coded.x0 is None else self._origins.get(coded.x0)[0]
        return Batch(x1=x1, y=y, x0=x0)


class _Held:
    """The samples of one stream's source, and their conditions if the stream gives them."""

    def __init__(self, stream: RealStream, device: torch.device) -> None:
        source, self.flip = stream.source, stream.order.flip
        self.x: Tensor = _on(device, source, lambda index: samples_at(source, index)[0])
        self.y = _on(device, source, lambda index: conditions_at(source, index)) if stream.labels else None

    def get(self, codes: Codes) -> tuple[Samples, Condition | None]:
        """Look up and mirror; nothing here lets the host wait for the device."""
        index, mirrored = decoded(codes)
        x = self.x.index_select(0, index)
        if self.flip:
            x = torch.where(mirrored.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
        return x, map_tensors(self.y, lambda part: part.index_select(0, index))


def _on(device: torch.device, source: Source, read: Callable[[Int64[Tensor, "b"]], Any]) -> Any:
    """Return on ``device`` what ``read`` returns of all samples of ``source``, a tensor or a dict of tensors."""
    count, one = len(source), read(torch.tensor([0]))
    try:
        held = map_tensors(one, lambda part: part.new_empty(count, *part.shape[1:], device=device))
    except torch.OutOfMemoryError:
        size = count * sum(part.nbytes for part in tensors(one)) / 2**30
        raise UserError(
            f"MatchingDataModule: {device} has no room for the {size:.1f} GiB of training samples of "
            f"{type(source).__name__}: set on_device: false"
        ) from None
    for first in range(0, count, PART):
        some = read(torch.arange(first, min(first + PART, count)))
        for all_of_it, part in [(held[key], some[key]) for key in held] if isinstance(held, dict) else [(held, some)]:
            all_of_it[first : first + PART] = part
    return held
