"""Named data sets: digits, Fashion-MNIST, CIFAR-10 and CelebA."""

import gzip
import zlib
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from realuid_lightning.atomic import replacing
from realuid_lightning.data.files import centre
from realuid_lightning.data.folder import ImageFiles
from realuid_lightning.data.folders import folder_at
from realuid_lightning.data.source import MemorySource, Source
from realuid_lightning.errors import Faults, UserError

Images = tuple[UInt8[Tensor, "n c h w"], Int64[Tensor, "n"]]

_DIGITS = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}


class Digits(MemorySource):
    """Scikit-learn's 1,797 handwritten digits, 8 x 8 and grey, 10 classes; part of its wheel.

    Args:
        part: ``all`` of them, or those of ``even`` (899) or ``odd`` (898) index: a part to train on, and one held out.

    Raises:
        UserError: If there is no such part.

    Example:
        >>> digits = Digits()
        >>> digits.setup()
        >>> len(digits), digits.shape, digits.num_classes
        (1797, (1, 8, 8), 10)
        >>> x, y = digits.get(torch.tensor([0, 1]))  # bytes, and labels
        >>> x.dtype, y
        (torch.uint8, tensor([0, 1]))
    """

    shape = (1, 8, 8)
    num_classes = 10
    part: Literal["all", "even", "odd"] = "all"  # also of a subclass with arguments of its own

    def __init__(self, part: Literal["all", "even", "odd"] = "all") -> None:
        faults = Faults("Digits")
        faults.unless(part in _DIGITS, f"part must be one of {', '.join(_DIGITS)}, got {part!r}")
        faults.raise_any()
        self.part = part

    def load(self) -> Images:
        """Read the images, scaled from 0..16 to 0..255."""
        from sklearn.datasets import load_digits  # a second to import, so only when used

        data, y = load_digits(return_X_y=True)
        x = torch.from_numpy(data).mul(255 / 16).round().to(torch.uint8)
        which = _DIGITS[self.part]
        return x.view(-1, 1, 8, 8)[which], torch.from_numpy(y).long()[which]


class Downloadable(Source):
    """A source whose files torchvision can download, in torchvision's own layout.

    Attributes:
        home: The folder torchvision calls ``root``.
        download: Download into ``home`` what is missing.
        layout: What ``home`` must hold, in words.
    """

    home: Path
    download: bool
    layout: str

    @abstractmethod
    def open(self, download: bool) -> Any:
        """Return torchvision's data set."""

    def prepare(self) -> None:
        """Download what is missing, if asked to.

        Raises:
            UserError: If the download fails.
        """
        if not self.download:
            return
        try:
            self.open(download=True)
        except Exception as error:  # whatever a network, a disk or an archive can raise
            raise UserError(
                f"{type(self).__name__}: the download into {self.home.absolute()} failed ({_reason(error)}): check the "
                f"network, or fetch {self.layout} by other means and set download: false"
            ) from None

    def missing(self, why: object) -> UserError:
        """Return the error that says what is missing, and how to mend it."""
        return UserError(
            f"{type(self).__name__}: no complete data in {self.home.absolute()} ({_reason(why)}): expected "
            f"{self.layout}; set root to the folder that holds it, or download: true"
        )


class TorchvisionSource(Downloadable, MemorySource):
    """A data set of 10 classes that torchvision reads whole.

    Args:
        root: The folder torchvision calls ``root``.
        train: The training split, or the test split.
        download: Download into ``root`` what is missing.
    """

    num_classes = 10

    def __init__(self, root: str = "data", train: bool = True, download: bool = False) -> None:
        self.home, self.train, self.download = folder_at(root), train, download

    def opened(self) -> Any:
        """Return torchvision's data set without downloading.

        Raises:
            UserError: If files are missing or corrupt.
        """
        try:
            return self.open(download=False)
        except Exception as error:  # whatever a broken file makes torchvision raise
            raise self.missing(error) from None


class FashionMNIST(TorchvisionSource):
    """Zalando's 60,000 + 10,000 grey images of clothes, 10 classes.

    Args:
        root: Folder that holds ``FashionMNIST/raw``.
        train: The training split, or the test split.
        download: Download into ``root`` what is missing.
        size: 28 (as published) or 32 (with two black pixels on every side, so that the size halves more often).

    Raises:
        UserError: If ``size`` is neither (at once), or the files are missing (when first used).

    Example:
        >>> FashionMNIST(root="data", size=32).shape
        (1, 32, 32)
    """

    layout = "FashionMNIST/raw/ with four idx files such as train-images-idx3-ubyte (or .gz)"

    def __init__(
        self, root: str = "data", train: bool = True, download: bool = False, size: Literal[28, 32] = 32
    ) -> None:
        super().__init__(root, train, download)
        faults = Faults("FashionMNIST")
        faults.unless(size in (28, 32), f"size must be 28 or 32 pixels, got {size}")
        faults.raise_any()
        self.size = size

    @property
    def shape(self) -> tuple[int, ...]:
        """``(1, size, size)``."""
        return (1, self.size, self.size)

    def prepare(self) -> None:
        """Unpack ``.gz`` files that lie there packed; then download what is still missing, if asked to.

        Raises:
            UserError: If a file is damaged, or the download fails.
        """
        for packed in sorted((self.home / "FashionMNIST" / "raw").glob("*.gz")):
            if packed.with_suffix("").exists():
                continue
            try:
                with gzip.open(packed) as source, replacing(packed.with_suffix("")) as target:
                    target.write_bytes(source.read())
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(
                    f"FashionMNIST: {packed} cannot be unpacked ({error}); copy or download it again"
                ) from None
        super().prepare()

    def open(self, download: bool) -> Any:
        """Return torchvision's data set."""
        from torchvision import datasets

        return datasets.FashionMNIST(self.home, self.train, download=download)

    def load(self) -> Images:
        """Read all images."""
        data = self.opened()
        margin = (self.size - 28) // 2
        return torch.nn.functional.pad(data.data[:, None], [margin] * 4), data.targets


class CIFAR10(TorchvisionSource):
    """The 50,000 + 10,000 colour images of CIFAR-10, 10 classes.

    Args:
        root: Folder that holds ``cifar-10-batches-py``.
        train: The training split, or the test split.
        download: Download into ``root`` what is missing.
        size: 32 (as published) or 16 (means of 2 x 2 pixels, rounded to bytes), for experiments on small machines.

    Raises:
        UserError: If ``size`` is neither (at once), or the files are missing (when first used).

    Example:
        >>> source = CIFAR10(root="data", download=True)  # reads, and downloads, when it is first used
        >>> source.shape, source.num_classes
        ((3, 32, 32), 10)
    """

    layout = "cifar-10-batches-py/ with the unchanged files data_batch_1 to 5, test_batch and batches.meta"

    def __init__(
        self, root: str = "data", train: bool = True, download: bool = False, size: Literal[16, 32] = 32
    ) -> None:
        super().__init__(root, train, download)
        faults = Faults("CIFAR10")
        faults.unless(size in (16, 32), f"size must be 16 or 32 pixels, got {size}")
        faults.raise_any()
        self.size = size

    @property
    def shape(self) -> tuple[int, ...]:
        """``(3, size, size)``."""
        return (3, self.size, self.size)

    def open(self, download: bool) -> Any:
        """Return torchvision's data set."""
        from torchvision import datasets

        return datasets.CIFAR10(self.home, self.train, download=download)

    def load(self) -> Images:
        """Read all images."""
        data = self.opened()
        x = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        if self.size == 16:
            sums = x.view(-1, 3, 16, 2, 16, 2).sum((3, 5), dtype=torch.int16)
            x = ((sums + 2) // 4).to(torch.uint8)
        return x, torch.tensor(data.targets)


class CelebA(Downloadable, ImageFiles):
    """Aligned faces: the middle ``crop`` pixels, resized to ``size`` (bilinear, antialiased); without labels.

    Args:
        root: Folder that holds ``celeba/img_align_celeba`` and ``celeba/list_eval_partition.txt``.
        split: ``train`` (162,770 images), ``valid``, ``test`` or ``all``.
        size: Height and width of a sample in pixels.
        crop: Side of the square cut from the middle of the 178 x 218 original, in pixels.
        download: Download into ``root`` what is missing (needs the package ``gdown``).
        in_memory: Decode all files once and hold them as bytes (2 GB for the training split at size 64).

    Raises:
        UserError: If arguments are out of range (at once), or the files are missing (when first used).

    Example:
        >>> CelebA(root="data", size=64).shape
        (3, 64, 64)
    """

    num_classes = None
    resample = Image.Resampling.BILINEAR
    layout = "celeba/img_align_celeba/ with the jpg files, and celeba/list_eval_partition.txt"

    def __init__(
        self,
        root: str = "data",
        split: Literal["train", "valid", "test", "all"] = "train",
        size: int = 64,
        crop: int = 140,
        download: bool = False,
        in_memory: bool = False,
    ) -> None:
        faults = Faults("CelebA")
        faults.unless(split in (*_PARTS, "all"), f"split must be train, valid, test or all, got {split!r}")
        faults.unless(1 <= crop <= 178, f"crop must be 1 to 178 pixels, got {crop}")
        faults.unless(size >= 1, f"size must be at least 1 pixel, got {size}")
        faults.raise_any()
        self.home, self.split, self.side, self.download = folder_at(root), split, crop, download
        super().__init__(str(self.home / "celeba" / "img_align_celeba"), size, in_memory=in_memory)

    def open(self, download: bool) -> Any:
        """Return torchvision's data set; only to download, as its tables take long to read."""
        from torchvision import datasets

        return datasets.CelebA(self.home, download=download)

    def listing(self) -> tuple[list[str], None]:
        """Return the file names of the split."""
        table = self.home / "celeba" / "list_eval_partition.txt"
        try:
            rows = [line.split() for line in table.read_text().splitlines() if line.strip()]
            names = [name for name, part in rows if self.split == "all" or int(part) == _PARTS[self.split]]
        except (OSError, ValueError) as error:
            raise self.missing(error) from None
        if not (names and self.root.is_dir()):
            raise self.missing(f"no images of split {self.split} listed" if not names else f"no folder {self.root}")
        return names, None

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the middle ``crop`` pixels."""
        return centre(image, self.side)

    def _preparation(self) -> tuple[object, ...]:
        return (self.split, f"crop{self.side}")


_PARTS = {"train": 0, "valid": 1, "test": 2}


def _reason(why: object) -> str:
    return " ".join(str(why).split()) or type(why).__name__
