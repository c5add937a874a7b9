"""The one batch type that all data sets, modules and callbacks share."""

from typing import NamedTuple

from jaxtyping import Float32, UInt8
from torch import Tensor

from realuid_lightning.conditions import map_tensors, tensors


class Batch(NamedTuple):
    """Everything one loss needs, along one leading batch dimension ``B``.

    The loader fills what it knows; the module draws what is still ``None`` (``MatchingModule.draw``). A batch that
    comes with every field filled determines the loss completely.

    Attributes:
        x1: Real samples, ``(B, *D)``; images in [-1, 1].
        y: The condition: class labels, ``(B,)`` int64, a tensor ``(B, ...)``, a dict of such tensors, or None.
        x0: Source end of the path: Gaussian noise, or a source-domain sample, ``(B, *D)``.
        z: Latent input of the one-step generator, ``(B, *D)``.
        t: Time in [0, 1], ``(B,)``; 0 at the source, 1 at the data.
        eps: Noise of paths with a positive ``std``, ``(B, *D)``.
        index: Global sample index of an evaluation batch, ``(B,)`` int64: it names the latent and the file.
        renoise: Noise of the later steps of a generator of ``K`` steps, ``(B, K - 1, *D)``.
        t_judged: Time at which a discriminator looks, ``(B,)``.
    """

    x1: Tensor | None = None
    y: Tensor | None = None
    x0: Tensor | None = None
    z: Tensor | None = None
    t: Tensor | None = None
    eps: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]
    renoise: Tensor | None = None
    t_judged: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of samples ``B``."""
        return next(len(part) for field in self for part in tensors(field))

    def chunk(self, count: int) -> list["Batch"]:
        """Split into ``count`` batches of equal size, in order.

        Raises:
            ValueError: If ``count`` does not divide the batch.
        """
        if self.size % count:
            raise ValueError(f"a batch of {self.size} samples can not be split into {count} equal micro-batches")
        width = self.size // count
        return [self.rows(start, start + width) for start in range(0, self.size, width)]

    def rows(self, start: int, stop: int) -> "Batch":
        """Return samples ``start`` to ``stop - 1`` of every field."""
        return Batch(*(map_tensors(field, lambda part: part[start:stop]) for field in self))


def to_floats(x: UInt8[Tensor, "b c h w"]) -> Float32[Tensor, "b c h w"]:
    """Map bytes 0..255 linearly onto [-1, 1]."""
    return x.float().div_(127.5).sub_(1)
