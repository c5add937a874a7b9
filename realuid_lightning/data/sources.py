"""Named data sets held in memory: digits, Fashion-MNIST and CIFAR-10; what can be downloaded."""

import gzip
import zlib
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from realuid_lightning.atomic import replacing
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
    """A data set of 10 classes that torchvision reads whole, in one of two sizes.

    Args:
        root: The folder torchvision calls ``root``.
        train: The training split, or the test split.
        download: Download into ``root`` what is missing.
        size: Height and width of a sample in pixels.

    Attributes:
        channels: Channels of a sample.
        sizes: What ``size`` may be.
    """

    num_classes = 10
    channels: int
    sizes: tuple[int, int]

    def __init__(self, root: str, train: bool, download: bool, size: int) -> None:
        faults = Faults(type(self).__name__)
        faults.unless(size in self.sizes, f"size must be {self.sizes[0]} or {self.sizes[1]} pixels, got {size}")
        faults.raise_any()
        self.home, self.train, self.download, self.size = folder_at(root), train, download, size

    @property
    def shape(self) -> tuple[int, ...]:
        """``(channels, size, size)``."""
        return (self.channels, self.size, self.size)

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

    channels, sizes = 1, (28, 32)
    layout = "FashionMNIST/raw/ with four idx files such as train-images-idx3-ubyte (or .gz)"

    def __init__(
        self, root: str = "data", train: bool = True, download: bool = False, size: Literal[28, 32] = 32
    ) -> None:
        super().__init__(root, train, download, size)

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

    channels, sizes = 3, (16, 32)
    layout = "cifar-10-batches-py/ with the unchanged files data_batch_1 to 5, test_batch and batches.meta"

    def __init__(
        self, root: str = "data", train: bool = True, download: bool = False, size: Literal[16, 32] = 32
    ) -> None:
        super().__init__(root, train, download, size)

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


def _reason(why: object) -> str:
    return " ".join(str(why).split()) or type(why).__name__
