"""Images in many-sample files: tar archives of WebDataset, and folders of Hugging Face's datasets."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from realuid_lightning.conditions import Condition
from realuid_lightning.data.archives import archives, content, entries, parsed, tensor, written
from realuid_lightning.data.files import opened_in, reported
from realuid_lightning.data.folder import ImageFiles
from realuid_lightning.data.folders import folder_at, user_cache
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


class DatasetsFolder(ImageFiles):
    """The images of a folder of Hugging Face's ``datasets`` (extra ``datasets``), which reads them from disk by index.

    The folder is what ``save_to_disk`` has written (Arrow), or a downloaded repository of Parquet files, which the
    library turns into Arrow files in the user's cache, once. No code of a repository is run, and nothing is downloaded.

    Args:
        root: The folder.
        size: Height and width of a sample in pixels; images are cropped and resized as those of ``ImageFolder``.
        channels: 1 (grey) or 3 (RGB).
        split: Which split, where the folder has several.
        image: Column of the images, whose bytes lie in the files.
        label: Column of class labels, integers; no labels when None, or when there is no such column.
        texts: Column of captions, for an encoder of ``Latents``.
        unreadable: As in ``ImageFolder``.
        in_memory: As in ``ImageFolder``.

    Raises:
        UserError: If arguments are out of range (at once); or datasets is not installed, the folder holds no such data,
            or they are damaged (when first used).

    Example:
        >>> DatasetsFolder("data/cats", size=64).shape  # the folder is read when it is first used
        (3, 64, 64)
    """

    _or_skip = ", or set unreadable: skip"

    def __init__(
        self,
        root: str,
        size: int,
        channels: int = 3,
        split: str = "train",
        image: str = "image",
        label: str | None = "label",
        texts: str | None = None,
        unreadable: Literal["raise", "skip"] = "raise",
        in_memory: bool = False,
    ) -> None:
        super().__init__(root, size, channels, unreadable, in_memory)
        self.split, self.image, self.label, self.caption = split, image, label, texts

    @property
    def num_classes(self) -> int | None:
        """Number of classes as the data say, or one more than the largest label; None without labels."""
        y = self._listing[1]
        if y is None:
            return None
        return getattr(self._table.features[self.label], "num_classes", None) or int(y.max()) + 1

    def files(self) -> list[str]:
        """Return the names of the Arrow or Parquet files."""
        home, kind = self._home()
        found = home.rglob("*.arrow") if kind == "arrow" else self._parquet(home)
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def listing(self) -> tuple[list[str], Int64[Tensor, "n"] | None]:
        """Return the numbers of all rows, and labels."""
        table = self._table
        names = [str(row) for row in range(len(table))]
        if not names:
            raise UserError(f"DatasetsFolder: there are no samples in {self.root}")
        if self.label is None or self.label not in table.column_names:
            return names, None
        y = np.asarray(table.with_format("numpy")[self.label][:])
        if y.dtype.kind not in "iu" or y.ndim != 1 or int(y.min()) < 0:
            raise UserError(f"DatasetsFolder: column {self.label} must hold classes from 0, got {y.dtype}, {y[:3]}")
        return names, torch.from_numpy(y.astype(np.int64))

    @contextmanager
    def opened(self, name: str) -> Iterator[Image.Image]:
        """Open the image of a row."""
        value = self._table[int(name)][self.image]
        found = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(found, bytes):
            raise OSError(f"column {self.image} must hold the bytes of images")
        with opened_in(io.BytesIO(found)) as image:
            yield image

    def place(self, name: str) -> str:
        """Return folder and row."""
        return f"{self.root}, row {name}"

    def texts(self, index: Int64[Tensor, "b"]) -> list[str] | None:
        """Return captions, or None."""
        if self.caption is None:
            return None
        rows = [int(self._files.names[i]) for i in index.tolist()]
        return [str(self._table[row][self.caption]) for row in rows]

    def _preparation(self) -> tuple[object, ...]:
        return (self.split, self.image, self.label, self.caption or "")

    def _home(self) -> tuple[Path, str]:
        """Return the folder of the split, and what it holds."""
        for home in (self.root, self.root / self.split):
            if (home / "state.json").is_file():
                return home, "arrow"
        return self.root, "parquet"

    def _parquet(self, home: Path) -> list[Path]:
        found = sorted(home.rglob("*.parquet"))
        return [path for path in found if self.split in (path.stem.partition("-")[0], path.parent.name)] or found

    @cached_property
    def _table(self) -> Any:
        """The library's table, with the columns that are used, images as bytes."""
        if not self.root.is_dir():
            raise UserError(f"DatasetsFolder: root must be a folder of datasets, but there is no folder {self.root}")
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                f"DatasetsFolder needs datasets ({error}): pip install 'realuid-lightning[datasets]'"
            ) from error
        if not self.files():
            raise UserError(f"DatasetsFolder: {self.root} holds neither Parquet files nor what save_to_disk writes")
        datasets.disable_progress_bars()
        with warnings.catch_warnings(action="ignore"):  # how it hashes what it reads is its own affair
            return self._chosen(datasets, self._opened_by(datasets))

    def _opened_by(self, datasets: Any) -> Any:
        home, kind = self._home()
        try:
            if kind == "arrow":
                return datasets.load_from_disk(str(home))
            files, cache = [str(path) for path in self._parquet(home)], str(user_cache() / "datasets")
            return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
        except Exception as error:  # of its own, of Arrow, of a disk
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"DatasetsFolder: {home} cannot be read ({reason}): download it again") from error

    def _chosen(self, datasets: Any, table: Any) -> Any:
        needed = [name for name in (self.image, self.caption) if name is not None]
        missing = [name for name in needed if name not in table.column_names]
        if missing:
            raise UserError(f"DatasetsFolder: {self.root} has no column {missing[0]}: it has {table.column_names}")
        columns = [name for name in (*needed, self.label) if name in table.column_names]
        table = table.select_columns(list(dict.fromkeys(columns)))
        if isinstance(table.features[self.image], datasets.Image):
            table = table.cast_column(self.image, datasets.Image(decode=False))
        return table


def _stacked(kind: str, parts: list[Tensor]) -> Tensor:
    if len({(part.dtype, part.shape) for part in parts}) > 1:
        forms = sorted({f"{part.dtype} {tuple(part.shape)}" for part in parts})
        raise UserError(f"Shards: {kind} must have one type and shape in all samples, got {' and '.join(forms[:2])}")
    return torch.stack(parts)
