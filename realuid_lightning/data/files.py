"""Image files on disk: which there are, how one is opened and converted, and what is in them."""

import errno
import os
import stat
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b, file_digest
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from jaxtyping import UInt64
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image, ImageOps, UnidentifiedImageError

from realuid_lightning.atomic import replacing
from realuid_lightning.data.folders import user_cache
from realuid_lightning.errors import UserError

T = TypeVar("T")

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened, by content: Pillow knows many more, and starts Ghostscript for one of them."""

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

PART = 1024
"""Files handed to a thread at once."""

LINKED = 100
"""Ways by which links may lead to one folder."""

PATIENCE = 10.0
"""Seconds of silence while many files are gone through."""

SETTLED = 2.0
"""Seconds after its last change from when on a file's times tell the next change, on any file system."""


class Names(Sequence[str]):
    """Many file names in little memory, which loader processes share: bytes, and where each name begins.

    Args:
        names: The names.
    """

    def __init__(self, names: Iterable[str]) -> None:
        joined, starts = bytearray(), array("q", [0])
        for name in names:
            joined += name.encode(errors="surrogateescape")
            starts.append(len(joined))
        self._bytes, self._starts = bytes(joined), np.frombuffer(starts, np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "list[str]": ...
    def __getitem__(self, place: int | slice) -> "str | list[str]":
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        first = place % len(self)
        return self._bytes[self._starts[first] : self._starts[first + 1]].decode(errors="surrogateescape")


def images_below(root: Path) -> Iterator[str]:
    """Yield the names of all image files below ``root``, relative to it and with ``/``, in no order.

    Hidden files and folders are passed over, as are pipes and devices. Links are followed, but not to a folder that
    holds them. A folder that cannot be read costs a warning.

    Raises:
        UserError: If links lead to one folder by more ways than anybody needs.
    """
    folders = [(str(root), "", frozenset[tuple[int, int]]())]
    listed: Counter[tuple[int, int]] = Counter()
    while folders:
        folder, prefix, above = folders.pop()
        try:
            here = os.stat(folder)
            entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except OSError as error:
            rank_zero_warn(f"the folder {folder} cannot be read ({error.strerror}); its images are passed over")
            continue
        if (here.st_dev, here.st_ino) in above:  # a link in a circle
            continue
        above = above | {(here.st_dev, here.st_ino)}
        listed[here.st_dev, here.st_ino] += 1
        if listed[here.st_dev, here.st_ino] > LINKED:  # 40 folders with two links each to the next are 2^40 folders
            raise UserError(f"the folder {os.path.realpath(folder)} is found by more than {LINKED} ways: remove links")
        for entry in entries:
            if entry.is_dir():
                folders.append((entry.path, f"{prefix}{entry.name}/", above))
            elif entry.name[entry.name.rfind(".") :].lower() in EXTENSIONS and _may_be_read(entry):
                yield prefix + entry.name


def _may_be_read(entry: "os.DirEntry[str]") -> bool:
    """Return whether this is a file, or a link to what is gone, which is reported when it is read."""
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def regular(path: str | Path) -> BufferedReader:
    """Open a file for reading.

    Raises:
        OSError: If there is none, or it is a pipe, a socket or a device, which may never end.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", str(path))
    return file


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image of one of the ``FORMATS``, whatever its name says.

    Raises:
        OSError: If it is no regular file, or its content is of no such format; Pillow raises others of broken ones.
    """
    with regular(path) as file, opened_in(file) as image:
        yield image


@contextmanager
def opened_in(file: BufferedReader | BytesIO) -> Iterator[Image.Image]:
    """Open the image in a file that has been opened, or in bytes as one; errors as in ``opened``."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise OSError(f"its content is of none of the formats {', '.join(FORMATS)}") from None
    with image:
        yield image


def content_hashes(root: Path, names: Sequence[str]) -> Iterator[bytes]:
    """Yield a hash of each file's content, 16 bytes.

    Each content is read once: its hash is kept in the user's cache, under a hash of the file's place, size, times of
    change and number on the disk. A file that has just changed is read again next time, for a change within a tick
    of the clock would not show.

    Raises:
        OSError: If a file cannot be read; its ``filename`` says which.
    """
    folder = os.path.abspath(root)
    table = user_cache() / "contents" / f"{blake2b(os.fsencode(folder), digest_size=16).hexdigest()}.npy"
    known = _read_table(table)
    keys = np.ascontiguousarray(known[:, 0])
    learned = array("Q")
    began = time.time()

    def contents(some: list[str]) -> list[bytes]:
        found = []
        for name in some:
            path = os.path.join(folder, name)
            state = os.stat(path)
            times = (state.st_mtime_ns, state.st_ctime_ns)
            identity = f"{path}\0{state.st_dev} {state.st_ino} {state.st_size} {times}"
            digest = blake2b(identity.encode(errors="surrogateescape"), digest_size=8).digest()
            key = int.from_bytes(digest, sys.byteorder)
            row = int(np.searchsorted(keys, np.uint64(key)))
            if row < len(keys) and int(keys[row]) == key:
                content = known[row, 1:].tobytes()
            else:
                with regular(path) as file:
                    content = file_digest(file, lambda: blake2b(digest_size=16)).digest()
                if max(times) / 1e9 + SETTLED < began:
                    learned.extend([key, *np.frombuffer(content, np.uint64).tolist()])
            found.append(content)
        return found

    try:
        with ThreadPoolExecutor() as threads:
            parts = threads.map(contents, (names[i : i + PART] for i in range(0, len(names), PART)))
            for part in reported(parts, f"files in {root} are known by their contents", len(names), PART):
                yield from part
    finally:  # what has been read need not be read again, even if a file was broken
        if learned:
            _write_table(table, np.concatenate([known, np.array(learned, np.uint64).reshape(-1, 3)]))


def _read_table(file: Path) -> UInt64[np.ndarray, "n 3"]:
    """Return keys, in order, and hashes; none if there is no such file, or it is broken."""
    try:
        with file.open("rb") as stream:
            table = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception:  # whatever a broken file makes numpy raise
        table = np.empty(0)
    sound = table.dtype == np.uint64 and table.ndim == 2 and table.shape[1] == 3
    return table if sound and bool((table[1:, 0] > table[:-1, 0]).all()) else np.empty((0, 3), np.uint64)


def _write_table(file: Path, table: UInt64[np.ndarray, "n 3"]) -> None:
    _, rows = np.unique(table[:, 0], return_index=True)
    try:
        with replacing(file) as target, target.open("wb") as stream:
            np.save(stream, table[rows])
    except OSError as error:
        rank_zero_warn(f"hashes of files are not kept ({error}), and files will be read again; set XDG_CACHE_HOME")


def reported(items: Iterable[T], done: str, total: int | None = None, worth: int = 1) -> Iterator[T]:
    """Yield the items, and say every ten seconds how far it has come: ``120,000 of 1,000,000 DONE``.

    Args:
        items: What to go through.
        done: What has become of them, in words.
        total: How many there are, if that is known.
        worth: How many each item counts for.
    """
    last = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - last > PATIENCE:
            last = time.monotonic()
            rank_zero_info(f"{number * worth:,}{'' if total is None else f' of {total:,}'} {done}")
        yield item


def centre(image: Image.Image, side: int) -> Image.Image:
    """Cut the middle square of ``side`` pixels."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image if image.size == (side, side) else image.crop((left, top, left + side, top + side))


def converted(image: Image.Image, mode: str) -> Image.Image:
    """Turn ``image`` upright and into ``mode``, where PIL's own conversion is wrong or warns too."""
    if "exif" in image.info:  # photographs lie on their side without this
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # PIL clips to 255 instead of scaling
        image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} has no fixed range; 8 or 16 bits a channel are needed")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
