"""Image pairs: a source whose images are degraded, so that each one belongs to its original."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from realuid_lightning.conditions import Condition
from realuid_lightning.data.source import Labels, Source
from realuid_lightning.errors import Faults
from realuid_lightning.fingerprint import fingerprint
from realuid_lightning.recorded import Recorded

Images = UInt8[Tensor, "b c h w"]

GREY = 128
"""What an inpainting box is filled with: the byte above the middle of 0..255."""


class Degradation(Recorded, ABC):
    """A fixed loss of information, from images to images of the same shape: the same image always gives the same.

    One of your own subclasses this and is named in YAML by its class path.
    """

    @abstractmethod
    def __call__(self, x: Images) -> Images:
        """Degrade each image by itself, and leave ``x`` as it is.

        Args:
            x: Images, ``(B, C, H, W)`` uint8 in 0..255.

        Returns:
            Images of the same shape and type.
        """

    def faults(self, shape: tuple[int, ...]) -> list[str]:
        """Return what speaks against images of ``shape``, ``(C, H, W)``: nothing unless a subclass says so."""
        del shape
        return []

    def fingerprint(self) -> str:
        """Return class and arguments as a short text, with a hash of the code where that is not this package's.

        Raises:
            NoFingerprintError: If something in it cannot be read.
        """
        own = [] if type(self).__module__.startswith("realuid_lightning.") else [fingerprint(self)[:12]]
        return "-".join([type(self).__name__, *(str(argument) for argument in self._arguments.values()), *own])


class Inpainting(Degradation):
    """Hides a box: all channels of its pixels become mid-grey (128).

    Its edges are rounded to whole pixels. Flipped pairs are flipped after this, so the box goes along.

    Args:
        top: Upper edge as a fraction of the height, in [0, 1].
        left: Left edge as a fraction of the width, in [0, 1].
        height: Height as a fraction of the image's, in (0, 1]; ``top + height`` is at most 1.
        width: Width as a fraction of the image's, in (0, 1]; ``left + width`` is at most 1.

    Raises:
        UserError: If the box does not lie in the image; all faults at once.

    Example:
        >>> Inpainting(top=0.5, left=0.0, height=0.5, width=1.0)(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
        tensor([[[[  0,   0],
                  [128, 128]]]], dtype=torch.uint8)
    """

    def __init__(self, top: float = 0.25, left: float = 0.25, height: float = 0.5, width: float = 0.5) -> None:
        faults = Faults("Inpainting")
        for start, begin, length, extent in (("top", top, "height", height), ("left", left, "width", width)):
            faults.unless(0 <= begin <= 1, f"{start} must be in [0, 1], got {begin}")
            faults.unless(0 < extent <= 1, f"{length} must be in (0, 1], got {extent}")
            # Decimal fractions such as 0.7 + 0.3 may exceed 1 by a rounding error.
            inside = begin + extent <= 1 + 1e-9
            faults.unless(inside, f"{start} + {length} must be at most 1, got {begin} + {extent}")
        faults.raise_any()
        self.top, self.left, self.height, self.width = top, left, height, width

    def __call__(self, x: Images) -> Images:
        """Return the images with the box filled."""
        rows, columns = self._box(x.shape[-2:])
        hidden = x.clone()
        hidden[..., rows, columns] = GREY
        return hidden

    def faults(self, shape: tuple[int, ...]) -> list[str]:
        """Refuse a box that comes to no pixel."""
        height, width = (span.stop - span.start for span in self._box(shape[-2:]))
        if height and width:
            return []
        return [f"Inpainting hides {height} x {width} pixels of images of shape {shape}: make the box larger"]

    def _box(self, size: tuple[int, ...]) -> tuple[slice, slice]:
        height, width = size
        return (
            slice(round(self.top * height), round((self.top + self.height) * height)),
            slice(round(self.left * width), round((self.left + self.width) * width)),
        )


class SuperResolution(Degradation):
    """Takes detail away: each block of ``factor x factor`` pixels becomes its rounded mean (area down, nearest up).

    Args:
        factor: Side of a block in pixels, at least 2; it must divide height and width.

    Raises:
        UserError: If ``factor`` is out of range.

    Example:
        >>> SuperResolution(factor=2)(torch.tensor([[[[0, 10], [20, 30]]]], dtype=torch.uint8))
        tensor([[[[15, 15],
                  [15, 15]]]], dtype=torch.uint8)
    """

    def __init__(self, factor: int = 4) -> None:
        faults = Faults("SuperResolution")
        faults.unless(factor >= 2, f"factor must be at least 2, got {factor}")
        faults.raise_any()
        self.factor = factor

    def __call__(self, x: Images) -> Images:
        """Return the images made of blocks."""
        small = F.avg_pool2d(x.float(), self.factor).round().to(x.dtype)
        return small.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    def faults(self, shape: tuple[int, ...]) -> list[str]:
        """Refuse images that do not split into whole blocks."""
        if all(side % self.factor == 0 for side in shape[-2:]):
            return []
        return [f"SuperResolution: factor must divide height and width, got {self.factor} for images of shape {shape}"]


class Sketch(Degradation):
    """Keeps the edges alone: the Sobel gradient's magnitude, bright on black, alike in all channels.

    The gradient is that of the channels' mean, with borders continued; the strongest edge of each image becomes 255,
    and an image of one colour becomes black.
    """

    def __call__(self, x: Images) -> Images:
        """Return the edges."""
        # Sums of whole numbers, which are exact: an image's edges do not depend on its batch.
        strength = _sobel(F.pad(x.double().sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate"))
        peak = strength.amax((-2, -1), keepdim=True).clamp(min=1)  # no weaker edge than 1 exists
        return (255 * strength / peak).round().to(x.dtype).expand_as(x).contiguous()


def _sobel(grey: Float[Tensor, "b 1 h w"]) -> Tensor:
    """Return the gradient's magnitude inside a border of one pixel, in Sobel's own scale."""
    across, down = grey[..., 2:] - grey[..., :-2], grey[..., 2:, :] - grey[..., :-2, :]
    across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return (across.square() + down.square()).sqrt()


class Degraded(Source):
    """The images of another source, degraded: sample i is what becomes of that source's sample i.

    As the ``origin`` of a ``MatchingDataModule`` it makes pairs for bridges: restoring from degraded images.

    Args:
        source: The originals, images.
        how: What is done to each image, when it is read.

    Raises:
        UserError: If ``source`` has no images, or ``how`` does not suit their shape.

    Example:
        >>> from realuid_lightning.data import Digits, MatchingDataModule
        >>> data = MatchingDataModule(Digits(), origin=Degraded(Digits(), Inpainting()))
        >>> data.translates
        True
    """

    def __init__(self, source: Source, how: Degradation) -> None:
        faults = Faults("Degraded")
        images = len(source.shape) == 3
        faults.unless(images, f"source must have images (C, H, W), but its samples have shape {source.shape}")
        faults.unless(source.original is source, "images are degraded before they are encoded: Latents(Degraded(...))")
        for fault in how.faults(source.shape) if images else []:
            faults.unless(False, fault)
        faults.raise_any()
        self.source, self.how, self.in_memory = source, how, source.in_memory

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, H, W)``, that of the originals."""
        return self.source.shape

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the originals, or None."""
        return self.source.num_classes

    def __len__(self) -> int:
        return len(self.source)

    def get(self, index: Int64[Tensor, "b"]) -> tuple[Images, Condition | None]:
        """Return the degraded images at ``index``, and the originals' conditions."""
        x, y = self.source.get(index)
        return self.how(x), y

    def labels(self) -> Labels | None:
        """Return the labels of all originals, or None."""
        return self.source.labels()

    def conditions(self, index: Int64[Tensor, "b"]) -> Condition | None:
        """Return the originals' conditions."""
        return self.source.conditions(index)

    def fingerprint(self) -> str:
        """Return the originals' fingerprint, and what is done to them with which arguments."""
        return "-".join([type(self).__name__, self.how.fingerprint(), self.source.fingerprint()])

    def prepare(self) -> None:
        """Download the originals, if asked to."""
        self.source.prepare()

    def setup(self) -> None:
        """Read the originals, if they are held in memory."""
        self.source.setup()
