"""Which samples come when: training data as an endless stream, reference data once each.

The stream is addressed by position, and everything about a position (its sample, its flip) is a function of the seed
and the position alone. Resuming is starting at a later position, and sharding is sharing the positions out.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from realuid_lightning.data.batch import Batch
from realuid_lightning.data.checks import samples_at
from realuid_lightning.data.source import Samples, Source
from realuid_lightning.errors import UserError
from realuid_lightning.seeding import keyed_generator, mix, mix_array

# What a draw is for; keys of its own for each purpose.
ORDER = 0x0D0E2
FLIP = 0xF11B
ORIGIN = 0x0416E

MOST_INDICES = 10**8
"""Samples of one evaluation or prediction: their indices alone take eight bytes each, and again to be sorted."""

Positions = Int64[np.ndarray, "b"]
Codes = Int64[Tensor, "b"]
B = TypeVar("B")


class Order:
    """Which sample comes at which position of an endless stream: every epoch a new permutation of the data set.

    Position ``p`` holds sample ``permutation(seed, p // N)[p % N]`` of the data set's ``N``.

    Args:
        count: Number of samples ``N`` in the data set.
        seed: Decides the order and the flips.
        flip: Mirror each image with probability one half, decided anew at every position.
    """

    def __init__(self, count: int, seed: int, flip: bool = False) -> None:
        self.count, self.seed, self.flip = count, seed, flip
        self._permutation: tuple[int, Tensor] = (-1, torch.empty(0))

    def codes(self, positions: Positions | Sequence[int]) -> Codes:
        """Return the index of the sample at each position; ``~index``, which is negative, where it is mirrored."""
        places = np.asarray(positions, dtype=np.int64)
        index = self._indices(places)
        if not self.flip:
            return index
        mirrored = torch.from_numpy(mix_array(mix(self.seed, FLIP), places) % 2 == 1)
        return torch.where(mirrored, ~index, index)

    def _indices(self, positions: Positions) -> Int64[Tensor, "b"]:
        epochs, places = np.divmod(positions, self.count)
        indices = torch.empty(len(positions), dtype=torch.int64)
        for epoch in np.unique(epochs):
            chosen = torch.from_numpy(epochs == epoch)
            indices[chosen] = self._permuted(int(epoch))[torch.from_numpy(places)[chosen]]
        return indices

    def _permuted(self, epoch: int) -> Int64[Tensor, "n"]:
        if self._permutation[0] != epoch:
            generator = keyed_generator(self.seed, ORDER, epoch)
            self._permutation = (epoch, torch.randperm(self.count, generator=generator))
        return self._permutation[1]


def decoded(codes: Codes) -> tuple[Int64[Tensor, "b"], Bool[Tensor, "b"]]:
    """Return the indices of the samples that ``Order.codes`` names, and which of them are mirrored."""
    mirrored = codes < 0
    return torch.where(mirrored, ~codes, codes), mirrored


class Stream(Dataset[B], ABC):
    """An endless stream, of which a loader without batches of its own takes as many positions at once as it wants."""

    @abstractmethod
    def __getitems__(self, positions: Positions | Sequence[int]) -> B:
        """Return what is at ``positions``, as one batch."""

    def __getitem__(self, positions: Positions | Sequence[int]) -> B:
        """Return the same."""
        return self.__getitems__(positions)


class RealStream(Stream[Batch]):
    """An endless stream of real samples, in the order and with the flips of ``Order``.

    Args:
        source: Where samples come from.
        seed: Decides the order and the flips.
        flip: Mirror each image left to right with probability one half, decided anew at every position.
        labels: Fill ``y`` with conditions.
    """

    def __init__(self, source: Source, seed: int, flip: bool = False, labels: bool = False) -> None:
        self.source, self.order, self.labels = source, Order(len(source), seed, flip), labels

    def __getitems__(self, positions: Positions | Sequence[int]) -> Batch:
        """Return the samples at ``positions`` as one batch: ``x1`` as the source gives it, ``y`` if asked for."""
        index, mirrored = decoded(self.order.codes(positions))
        x, y = samples_at(self.source, index, self.labels)
        if self.order.flip:
            x = _flipped(x, mirrored)
        return Batch(x1=x, y=y if self.labels else None)


class PairStream(Stream[Batch]):
    """An endless stream of both ends of a path: real samples ``x1``, and ``x0`` from a data set of source ends.

    Args:
        source: Where ``x1`` and conditions come from.
        origin: Where ``x0`` comes from; when paired, as long as ``source``.
        seed: Decides the order and the flips.
        flip: Mirror images left to right with probability one half; pairs are mirrored together.
        labels: Fill ``y`` with conditions.
        paired: Let sample i of ``origin`` come with sample i of ``source``; otherwise its order and its flips are
            independent.
    """

    def __init__(
        self, source: Source, origin: Source, seed: int, flip: bool = False, labels: bool = False, paired: bool = True
    ) -> None:
        self.ends = RealStream(source, seed, flip, labels)
        # The same seed gives data sets of the same length the same order and the same flips.
        self.origins = RealStream(origin, seed if paired else mix(seed, ORIGIN), flip)

    def __getitems__(self, positions: Positions | Sequence[int]) -> Batch:
        """Return the samples at ``positions`` as one batch: both ends as the sources give them, ``y`` if asked for."""
        return self.ends.__getitems__(positions)._replace(x0=self.origins.__getitems__(positions).x1)


class StreamSampler(DistributedSampler[Positions]):
    """An endless sequence of batches of stream positions, shared out among processes without overlap.

    Batch ``k`` consists of micro-batches ``m = k * micro_batches + j``; of micro-batch ``m``, rank ``r`` of ``W`` takes
    positions ``(m * W + r) * batch_size + i``. So ``W`` processes see together, micro-batch by micro-batch, what one
    process with ``W`` times the batch size sees. It is torch's ``DistributedSampler`` in kind alone: Lightning puts one
    in the place of any other sampler.

    Args:
        batch_size: Samples in one micro-batch of one process.
        micro_batches: Micro-batches in one batch (one training step).
        rank: This process, 0 to ``world_size - 1``.
        world_size: Number of processes.
        start: The first batch to yield, or a function that tells it whenever iteration begins.
    """

    def __init__(
        self,
        batch_size: int,
        micro_batches: int = 1,
        rank: int = 0,
        world_size: int = 1,
        start: int | Callable[[], int] = 0,
    ) -> None:
        self.batch_size, self.micro_batches = batch_size, micro_batches
        self.rank, self.world_size, self.start = rank, world_size, start

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the stream has no epochs."""

    def __len__(self) -> int:
        raise TypeError("the stream has no end")

    def __iter__(self) -> Iterator[Positions]:
        k = self.start() if callable(self.start) else self.start
        while True:
            yield self.batch(k)
            k += 1

    def batch(self, k: int) -> Positions:
        """Return the ``micro_batches * batch_size`` positions of batch ``k``, one micro-batch after the other."""
        m = k * self.micro_batches + np.arange(self.micro_batches, dtype=np.int64)
        first = (m * self.world_size + self.rank) * self.batch_size
        return (first[:, None] + np.arange(self.batch_size, dtype=np.int64)).reshape(-1)


class RealSequence(Dataset[Batch]):
    """Each real sample once, in order: this rank's share, for reference statistics.

    Args:
        source: Where samples come from.
        rank: This process, 0 to ``world_size - 1``.
        world_size: Number of processes.
    """

    def __init__(self, source: Source, rank: int = 0, world_size: int = 1) -> None:
        self.source, self.indices = source, share(len(source), rank, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, places: Sequence[int]) -> Batch:
        """Return the samples at ``places`` of this rank's share, with conditions where there are any."""
        index = self.indices.start + torch.tensor(places)
        x, y = samples_at(self.source, index)
        return Batch(x1=x, y=y, index=index)


def _flipped(x: Samples, which: Bool[Tensor, "b"]) -> Samples:
    """Return the images, those of ``which`` mirrored; ``x`` may be the source's own, and stays as it is."""
    rows, flipped = which.nonzero().squeeze(1), x.clone()
    # numpy writes rows of bytes several times as fast as torch, and torch.where takes ten times as long.
    flipped.numpy()[rows.numpy()] = x.index_select(0, rows).flip(-1).numpy()
    return flipped


def share(count: int, rank: int, world_size: int) -> range:
    """Return rank's contiguous share of ``range(count)``; shares differ by at most one and may be empty."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def parse_indices(text: str) -> Int64[Tensor, "n"]:
    """Parse sample indices such as ``"0-63,100,200-299"`` (ranges include both ends), in the order given.

    Raises:
        UserError: If the text is malformed, has a range that runs backwards, names an index twice, or names more than
            10^8 or one of more than 18 digits.
    """
    if not isinstance(text, str):
        raise UserError(f"expected text such as '0-63,100,200-299', got {text!r}: put it in quotes")
    ranges: list[range] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        numbers = [first, last] if dash else [first, first]
        digits = all(number.isascii() and number.isdigit() for number in numbers)
        if digits and any(len(number.lstrip("0")) > 18 for number in numbers):
            raise UserError(f"indices may have at most 18 digits, got {part.strip()[:60]!r}")
        if not digits or int(numbers[1]) < int(first):
            raise UserError(f"expected indices such as 0-63,100,200-299, got {part.strip()!r} in {text!r}")
        ranges.append(range(int(first), int(numbers[1]) + 1))
    count = sum(map(len, ranges))
    if count > MOST_INDICES:
        raise UserError(f"at most {MOST_INDICES} samples can be asked for at once, but {text!r} names {count}")
    indices = torch.cat([torch.arange(r.start, r.stop) for r in ranges])
    ordered = indices.sort().values
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise UserError(f"each index may be named once, but {text!r} names {twice[0]} more often")
    return indices
