"""Images in the tables of Hugging Face's datasets, read by index."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from realuid_lightning.data.files import opened_in
from realuid_lightning.data.folder import ImageFiles
from realuid_lightning.data.folders import user_cache
from realuid_lightning.errors import UserError


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
