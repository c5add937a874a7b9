"""CelebA."""

from typing import Any, Literal

from PIL import Image

from realuid_lightning.data.files import centre
from realuid_lightning.data.folder import ImageFiles
from realuid_lightning.data.folders import folder_at
from realuid_lightning.data.sources import Downloadable
from realuid_lightning.errors import Faults


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
