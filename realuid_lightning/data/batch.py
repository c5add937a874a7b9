"""What a loader gives, and what a loss sees."""

from typing import NamedTuple, TypeVar

from jaxtyping import Float32, UInt8
from torch import Tensor

from realuid_lightning.conditions import Condition, map_tensors, tensors

Fields = TypeVar("Fields", "Batch", "Draws")


class Batch(NamedTuple):
    """What a loader gives, along one leading batch dimension ``B``; None where it gives nothing.

    Attributes:
        x1: Real samples, ``(B, *D)``; images in [-1, 1].
        y: The condition: class labels, ``(B,)`` int64, a tensor ``(B, ...)``, or a dict of such tensors.
        x0: Source end of the path, a sample of the source domain, ``(B, *D)``.
        z: Latent of the generator in evaluation, ``(B, *D)``.
        index: Global index of each sample in evaluation, ``(B,)`` int64: it names the latent and the file.
        t: Time, ``(B,)``, of a loader that prescribes draws, as when a run is replayed.
        key: What all that is random of a sample in evaluation is a function of, ``(B,)`` int64: its index, or a hash of
            seed and index; ``index`` when None.
    """

    x1: Tensor | None = None
    y: Condition | None = None
    x0: Tensor | None = None
    z: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]
    t: Tensor | None = None
    key: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of samples ``B``."""
        return next(len(part) for field in self for part in tensors(field))

    def chunk(self, count: int) -> list["Batch"]:
        """Split into ``count`` batches of equal size, in order.

        Raises:
            ValueError: If ``count`` does not divide the batch.
        """
        width = _part(self.size, count)
        return [self.rows(slice(start, start + width)) for start in range(0, self.size, width)]

    def rows(self, chosen: slice) -> "Batch":
        """Return the chosen samples of every field."""
        return _rows(self, chosen)


class Draws(NamedTuple):
    """What a loss sees: a batch with every draw made (``MatchingModule.draw``), which determines the loss.

    Attributes:
        x1: Real samples, ``(B, *D)``; None only where the loader has none, for losses that need none.
        x0: Source end of the path: Gaussian noise, or a sample of the source domain, ``(B, *D)``.
        z: Standard normal latent of the generator, ``(B, *D)``.
        t: Time, ``(B,)``; 0 at the source, 1 at the data.
        y: The condition, as in ``Batch``; None where networks take none.
        eps: Standard normal noise of the path, ``(B, *D)``; None where the path has none.
        renoise: Standard normal noise of the later steps of a generator of ``K`` steps, ``(B, K - 1, *D)``; None for
            one step.
        u: Further uniform draws in [0, 1), ``(B,)``, for objectives that look at times of their own; None without one.
        guidance: Scale of the teacher's guidance, ``(B,)``; None leaves it unguided.
        fake_guidance: That of the fake model, likewise.
        null: The condition that says nothing, in the form of ``y``; None where nothing is guided.
    """

    x1: Tensor | None
    x0: Tensor
    z: Tensor
    t: Tensor
    y: Condition | None = None
    eps: Tensor | None = None
    renoise: Tensor | None = None
    u: Tensor | None = None
    guidance: Tensor | None = None
    fake_guidance: Tensor | None = None
    null: Condition | None = None

    @property
    def size(self) -> int:
        """Number of samples ``B``."""
        return len(self.z)

    def rows(self, chosen: slice) -> "Draws":
        """Return the chosen samples of every field."""
        return _rows(self, chosen)

    def interleaved(self, count: int) -> list["Draws"]:
        """Split into ``count`` parts of equal size, of which part ``i`` has samples ``i``, ``i + count``, and so on.

        Each part is then a picture of the whole: also of the order in which a generator of several steps shares its
        steps out among the samples.

        Raises:
            ValueError: If ``count`` does not divide the batch.
        """
        if count == 1:
            return [self]
        _part(self.size, count)
        return [self.rows(slice(start, None, count)) for start in range(count)]


def _part(size: int, count: int) -> int:
    if size % count:
        raise ValueError(f"a batch of {size} samples cannot be split into {count} equal micro-batches")
    return size // count


def _rows(fields: Fields, chosen: slice) -> Fields:
    return type(fields)(*(map_tensors(field, lambda part: part[chosen]) for field in fields))


def to_floats(x: UInt8[Tensor, "b c h w"]) -> Float32[Tensor, "b c h w"]:
    """Map bytes 0..255 linearly onto [-1, 1].

    Example:
        >>> to_floats(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        tensor([[[[-1.,  1.]]]])
    """
    return x.float().div_(127.5).sub_(1)
