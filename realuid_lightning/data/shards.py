"""Images in tar archives of WebDataset, read by index where they lie."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from realuid_lightning.conditions import Condition
from realuid_lightning.data.archives import archives, content, entries, parsed, tensor, written
from realuid_lightning.data.files import opened_in, reported
from realuid_lightning.data.folder import ImageFiles
from realuid_lightning.data.folders import folder_at
from realuid_lightning.errors import Faults, UserError, printable


class Shards(ImageFiles):
    """The images of WebDataset archives, read where they lie: a sample is all members whose names agree up to a dot.

    An index of the archives is made when they are first used, and samples are read by it in any order. So training
    shuffles all samples, not those of a buffer, and resumes as exactly as from memory, with any number of processes and
    workers. Nothing is unpacked: names lead nowhere. Nothing is unpickled: archives with pickles are refused.

    Args:
        pattern: The archives, uncompressed: ``data/train-*.tar`` or ``data/train-{0000..0127}.tar``.
        size: Height and width of a sample in pixels; images are cropped and resized as those of ``ImageFolder``.
        channels: 1 (grey) or 3 (RGB).
        tensors: Members that are a sample's condition, ``.npy`` files such as ``text.npy``: a dict of tensors by the
            names without ``.npy``. Without any, the condition is the class of the member ``cls``, if samples have it.
        texts: Member with a caption in UTF-8, such as ``txt``, for an encoder of ``Latents``.
        num_classes: Number of classes; one more than the largest ``cls`` when None.
        unreadable: As in ``ImageFolder``.
        in_memory: As in ``ImageFolder``.

    Raises:
        UserError: If arguments are out of range (at once); or archives are missing, damaged or hold pickles, or a
            sample lacks a member, or has several images (when first used).

    Example:
        >>> Shards("data/train-{0000..0127}.tar", size=64).shape  # archives are read when it is first used
        (3, 64, 64)
    """

    _or_skip = ", or set unreadable: skip"

    def __init__(
        self,
        pattern: str,
        size: int,
        channels: int = 3,
        tensors: Sequence[str] = (),
        texts: str | None = None,
        num_classes: int | None = None,
        unreadable: Literal["raise", "skip"] = "raise",
        in_memory: bool = False,
    ) -> None:
        self.pattern = folder_at(pattern)
        super().__init__(str(self.pattern.parent), size, channels, unreadable, in_memory)
        faults = Faults("Shards")
        faults.unless(all(name.endswith(".npy") for name in tensors), f"tensors must be .npy members, got {tensors}")
        faults.unless(num_classes is None or num_classes >= 1, f"num_classes must be at least 1, got {num_classes}")
        faults.raise_any()
        self.tensors, self.caption, self._classes = tuple(tensors), texts, num_classes

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None without ``cls``, or with ``tensors``; makes the index."""
        y = self._listing[1]
        return None if y is None else self._classes or int(y.max()) + 1

    def files(self) -> list[str]:
        """Return the names of the archives."""
        return [path.name for path in archives(self.pattern)]

    def listing(self) -> tuple[list[str], Int64[Tensor, "n"] | None]:
        """Return where samples are, in the order of the archives, and their labels."""
        names, labels, wanted = [], [], [*self.tensors, *([] if self.caption is None else [self.caption])]
        for path in reported(list(archives(self.pattern)), f"archives {self.pattern} are indexed"):
            for entry in entries(path):
                faults = Faults(f"Shards: {path}, sample {printable(entry.key)!r}")
                faults.unless(len(entry.image) == 1, f"expected one image, got {entry.image or list(entry.spans)}")
                missing = [kind for kind in wanted if kind not in entry.spans]
                faults.unless(not missing, f"expected members {missing}, got {list(entry.spans)}")
                faults.raise_any()
                names.append(written(path.name, entry, [*entry.image, *wanted]))
                labels.append(entry.label)
        return names, self._labels(names, labels)

    def _labels(self, names: list[str], labels: list[int | None]) -> Int64[Tensor, "n"] | None:
        if not names:
            raise UserError(f"Shards: there are no samples in {self.pattern}")
        if self.tensors or all(label is None for label in labels):
            return None
        if None in labels:
            raise UserError(f"Shards: {self.place(names[labels.index(None)])} has no cls, but other samples have")
        y = torch.tensor(cast(list[int], labels))
        if self._classes is not None and int(y.max()) >= self._classes:
            raise UserError(f"Shards: num_classes is {self._classes}, but there is a class {int(y.max())}")
        return y

    @contextmanager
    def opened(self, name: str) -> Iterator[Image.Image]:
        """Open the image of a sample."""
        archive, _, spans = parsed(name)
        with opened_in(io.BytesIO(content(self.root / archive, spans[0]))) as image:
            yield image

    def place(self, name: str) -> str:
        """Return archive and key."""
        archive, key, _ = parsed(name)
        return f"{self.root / archive}, sample {printable(key)!r}"

    def get(self, index: Int64[Tensor, "b"]) -> tuple[UInt8[Tensor, "b c h w"], Condition | None]:
        """Return images and labels, or other conditions; errors as in ``ImageFiles``."""
        x, y = super().get(index)
        return x, self.conditions(index) if self.tensors else y

    def conditions(self, index: Int64[Tensor, "b"]) -> Condition | None:
        """Return conditions without decoding images."""
        if not self.tensors:
            y = self.labels()
            return None if y is None else y[index]
        rows = [[self._member(i, 1 + place) for place in range(len(self.tensors))] for i in index.tolist()]
        return {
            kind.removesuffix(".npy"): _stacked(kind, [row[place] for row in rows])
            for place, kind in enumerate(self.tensors)
        }

    def texts(self, index: Int64[Tensor, "b"]) -> list[str] | None:
        """Return captions, or None."""
        if self.caption is None:
            return None
        return [self._read(i, -1).decode(errors="replace").strip() for i in index.tolist()]

    def _read(self, i: int, place: int) -> bytes:
        name = self._files.names[i]
        archive, _, spans = parsed(name)
        try:
            return content(self.root / archive, spans[place])
        except OSError as error:
            raise UserError(f"Shards: {self.place(name)} cannot be read ({error}): copy the archive again") from error

    def _member(self, i: int, place: int) -> Tensor:
        try:
            return tensor(self._read(i, place))
        except UserError:
            raise
        except Exception as error:  # whatever a broken file makes numpy raise
            raise UserError(
                f"Shards: {self.place(self._files.names[i])}: {self.tensors[place - 1]} must hold numbers, as "
                f"numpy.save writes them ({error}): pack it anew"
            ) from error

    def _preparation(self) -> tuple[object, ...]:
        return ("-".join((*self.tensors, self.caption or "", str(self._classes or ""))).replace("/", "_"),)


def _stacked(kind: str, parts: list[Tensor]) -> Tensor:
    if len({(part.dtype, part.shape) for part in parts}) > 1:
        forms = sorted({f"{part.dtype} {tuple(part.shape)}" for part in parts})
        raise UserError(f"Shards: {kind} must have one type and shape in all samples, got {' and '.join(forms[:2])}")
    return torch.stack(parts)
