"""Image files: decoding, unreadable ones, and folders whose subfolders are classes."""

import hashlib
import math
import os
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor

from realuid_lightning.conditions import Condition
from realuid_lightning.data.files import (
    EXTENSIONS,
    PART,
    Names,
    centre,
    content_hashes,
    converted,
    images_below,
    opened,
    reported,
)
from realuid_lightning.data.folders import folder_at
from realuid_lightning.data.memory import lacking
from realuid_lightning.data.sharing import by_one
from realuid_lightning.data.source import Labels, Source
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.fingerprint import fingerprint


class _Files(NamedTuple):
    """Readable files, their labels, and their pixels when these are held in memory."""

    names: Names
    y: Int64[Tensor, "n"] | None
    images: UInt8[Tensor, "n c h w"] | None


class ImageFiles(Source):
    """Square images decoded from files, on access or once: what ``ImageFolder`` and ``CelebA`` share.

    A subclass says which files (``listing``) and which part of each image (``crop``).

    Args:
        root: Folder that file names are relative to.
        size: Height and width of a sample in pixels.
        channels: 1 (grey) or 3 (RGB); files of any mode are converted, transparency is dropped.
        unreadable: What to do about files that cannot be decoded: ``raise``, or ``skip`` them, for which all files are
            decoded once in ``setup``.
        in_memory: Decode all files once, in ``setup``, and hold them as bytes.

    Raises:
        UserError: If arguments are out of range; all faults at once.
    """

    resample = Image.Resampling.BICUBIC
    _or_skip = ""  # what an error message may add for classes that offer it

    def __init__(
        self, root: str, size: int, channels: int = 3, unreadable: str = "raise", in_memory: bool = False
    ) -> None:
        faults = Faults(type(self).__name__)
        faults.unless(size >= 1, f"size must be at least 1 pixel, got {size}")
        faults.unless(channels in (1, 3), f"channels must be 1 or 3, got {channels}")
        faults.unless(unreadable in ("raise", "skip"), f"unreadable must be raise or skip, got {unreadable!r}")
        faults.raise_any()
        self.root, self.size, self.channels = folder_at(root), size, channels
        self.unreadable, self.in_memory = unreadable, in_memory

    @abstractmethod
    def listing(self) -> tuple[list[str], Int64[Tensor, "n"] | None]:
        """Return file names relative to ``root`` in a fixed order, and labels or None; reads no image."""

    def files(self) -> Sequence[str]:
        """Return the names of the files below ``root`` that hold the samples."""
        return self._files.names

    def opened(self, name: str) -> AbstractContextManager[Image.Image]:
        """Open the image that ``listing`` has this name for: here the file of this name below ``root``."""
        return opened(self.root / name)

    def place(self, name: str) -> str:
        """Return where it is, for messages."""
        return str(self.root / name)

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the square part of ``image`` to use: here the largest one in the middle."""
        side = min(image.size)
        return centre(image, side)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(channels, size, size)``."""
        return (self.channels, self.size, self.size)

    def __len__(self) -> int:
        return len(self._files.names)

    def setup(self) -> None:
        """List the files; decode them as well if they are to be held in memory, or bad ones to be skipped.

        Process 0 lists them for all, so that all have the same, and looks for bad ones.
        """
        if self.in_memory:
            vars(self)["_listing"] = by_one(lambda: self._listing)
            self.__len__()
        else:
            vars(self)["_listing"], vars(self)["_files"] = by_one(lambda: (self._listing, self._files))

    def labels(self) -> Labels | None:
        """Return all labels, or None."""
        return self._files.y

    def get(self, index: Int64[Tensor, "b"]) -> tuple[UInt8[Tensor, "b c h w"], Condition | None]:
        """Return images and labels, decoded now unless they are held in memory.

        Raises:
            UserError: If a file cannot be decoded; the message names it.
        """
        names, y, images = self._files
        if images is None:
            x = torch.stack([self._decode(names[i]) for i in index.tolist()])
        else:
            x = images.index_select(0, index)
        return x, None if y is None else y[index]

    def fingerprint(self) -> str:
        """Return class, preparation, size, and a hash of file names and contents; wherever ``root`` lies.

        Contents are read once and known again by ``content_hashes``.

        Raises:
            UserError: If a file cannot be read; the message names it.
            NoFingerprintError: If a class of the user's own has code that cannot be read.
        """
        digest = hashlib.sha256()
        names = self.files()
        try:
            for name, content in zip(names, content_hashes(self.root, names), strict=True):
                digest.update(os.fsencode(name) + b"\0" + content)
        except OSError as error:
            raise self._unreadable(os.path.relpath(error.filename or self.root, self.root), error) from error
        own = type(self).__module__.startswith("realuid_lightning.")
        code = [] if own else [fingerprint(type(self))[:12]]  # how a file becomes a sample
        return self._named(digest.hexdigest(), *self._preparation(), *code)

    def _preparation(self) -> tuple[object, ...]:
        """Return what, beside ``shape``, decides how a file becomes a sample."""
        return ()

    @cached_property
    def _listing(self) -> tuple[Names, Int64[Tensor, "n"] | None]:
        names, y = self.listing()
        return Names(names), y

    @cached_property
    def _files(self) -> _Files:
        names, y = self._listing
        if not self.in_memory and self.unreadable == "raise":
            return _Files(names, y, None)
        images = self._room(len(names)) if self.in_memory else None
        keep = self._sift(names, *self._decode_all(names, images))
        if len(keep) == len(names):
            return _Files(names, y, images)
        return _Files(
            Names(names[i] for i in keep.tolist()),
            None if y is None else y[keep],
            None if images is None else images[keep],
        )

    def _room(self, count: int) -> UInt8[Tensor, "n c h w"]:
        lack = lacking(count * math.prod(self.shape))
        if lack:
            raise UserError(
                f"{type(self).__name__}: in_memory is true, and {count} images of shape {self.shape} {lack}: set "
                "in_memory: false"
            )
        return torch.empty(count, *self.shape, dtype=torch.uint8)

    def _decode_all(self, names: Names, images: UInt8[Tensor, "n c h w"] | None) -> tuple[Int64[Tensor, "bad"], str]:
        """Decode every file, into ``images`` if given; return the indices of bad ones, and the first fault."""

        def fault(i: int) -> str:
            try:
                pixels = self._decode(names[i])
            except UserError as error:
                return str(error)
            if images is not None:
                images[i] = pixels
            return ""

        def faults(start: int) -> list[tuple[int, str]]:
            part = range(start, min(start + PART, len(names)))
            return [(i, reason) for i, reason in zip(part, map(fault, part), strict=True) if reason]

        bad, first = [], ""
        with ThreadPoolExecutor() as threads:  # decoders release the interpreter lock
            parts = threads.map(faults, range(0, len(names), PART))
            for part in reported(parts, f"images in {self.root} are decoded", len(names), PART):
                bad += [i for i, _ in part]
                first = first or next((reason for _, reason in part), "")
        return torch.tensor(bad, dtype=torch.int64), first

    def _sift(self, names: Names, bad: Int64[Tensor, "bad"], first: str) -> Int64[Tensor, "good"]:
        """Return the indices of sound files; warn of the others or raise, as ``unreadable`` says."""
        sound = torch.ones(len(names), dtype=torch.bool)
        sound[bad] = False
        if not len(bad):
            return sound.nonzero().squeeze(1)
        found = f"{len(bad)} of {len(names)} images in {self.root} are unreadable ("
        found += ", ".join(names[i] for i in bad[:5].tolist()) + (", ...)" if len(bad) > 5 else ")")
        if self.unreadable == "raise":
            raise UserError(f"{type(self).__name__}: {found}: repair or remove them{self._or_skip}")
        if not sound.any():
            raise UserError(f"{type(self).__name__}: {found}, so none is left: check root; the first: {first}")
        rank_zero_warn(f"{type(self).__name__}: {found}; they are skipped")
        return sound.nonzero().squeeze(1)

    def _decode(self, name: str) -> UInt8[Tensor, "c h w"]:
        try:
            with self.opened(name) as image:
                return self._pixels(image)
        except Exception as error:  # PIL raises almost anything when a file is broken, or its EXIF is
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> UserError:
        return UserError(
            f"{type(self).__name__}: image {self.place(name)} cannot be read ({_reason(error)}): repair or remove it"
            + self._or_skip
        )

    def _pixels(self, image: Image.Image) -> UInt8[Tensor, "c h w"]:
        image = self.crop(converted(image, "L" if self.channels == 1 else "RGB"))
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), self.resample)  # PIL's resize is antialiased
        return torch.from_numpy(np.array(image)).reshape(self.size, self.size, self.channels).permute(2, 0, 1)


class ImageFolder(ImageFiles):
    """All images below a folder, cropped to their middle square and resized (bicubic, antialiased) where needed.

    When all images lie in two or more subfolders of ``root``, these are the classes, numbered by sorted name; otherwise
    there are no labels. Files and folders whose names begin with a dot are passed over, as is what is no file (pipes,
    devices); links are followed, but not in circles. Formats are recognised by content: BMP, GIF, JPEG, PNG, PPM (and
    PGM), TIFF and WebP.

    Args:
        root: The folder.
        size: Height and width of a sample in pixels.
        channels: 1 (grey) or 3 (RGB); files of any mode are converted, transparency is dropped.
        unreadable: ``raise`` names the first unreadable file; ``skip`` decodes all once in ``setup``, drops the
            unreadable ones and warns of their number.
        in_memory: Decode all files once and hold them as bytes: ``channels * size * size`` bytes an image.

    Raises:
        UserError: If arguments are out of range (at once), or ``root`` holds no images (when first used).

    Example:
        >>> ImageFolder("photos", size=64).shape  # files are listed when it is first used
        (3, 64, 64)
    """

    _or_skip = ", or set unreadable: skip"

    def __init__(
        self,
        root: str,
        size: int,
        channels: int = 3,
        unreadable: Literal["raise", "skip"] = "raise",
        in_memory: bool = False,
    ) -> None:
        super().__init__(root, size, channels, unreadable, in_memory)

    @property
    def num_classes(self) -> int | None:
        """Number of class folders, or None without classes; lists the files."""
        return len(self.classes) or None

    @property
    def classes(self) -> list[str]:
        """Names of the class folders in the order of their labels; empty without classes."""
        names, y = self._listing
        if y is None:
            return []
        _, firsts = np.unique(y.numpy(), return_index=True)
        return [names[i].partition("/")[0] for i in firsts.tolist()]

    def listing(self) -> tuple[list[str], Int64[Tensor, "n"] | None]:
        """Return all image files below ``root`` by sorted name, and the labels their folders give."""
        if not self.root.is_dir():
            raise UserError(f"ImageFolder: root must be a folder of images, but there is no folder {self.root}")
        names = sorted(reported(images_below(self.root), f"images in {self.root} are listed"))
        if not names:
            raise UserError(
                f"ImageFolder: no images in {self.root}: expected files ending in {', '.join(sorted(EXTENSIONS))}"
            )
        folders = {name.rpartition("/")[0].partition("/")[0] for name in names}
        number = {folder: label for label, folder in enumerate(sorted(folders))}
        if "" in number or len(number) == 1:
            return names, None
        labels = np.fromiter((number[name.partition("/")[0]] for name in names), np.int64, len(names))
        return names, torch.from_numpy(labels)


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__}: {text}"
