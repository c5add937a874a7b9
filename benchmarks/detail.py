"""How much fine detail samples have, which distances of features hardly see: kept samples against real images.

The detail of an image is the mean square of what averaging blocks of 2 x 2 pixels takes away, with pixels in [0, 1]:
images of half the size, enlarged, have none, and noise has much. For each grid of samples that `make results` has kept,
and for the real images that they compare with, mean and standard error over images are printed, and the Wasserstein
distance between the details of samples and real images.

Usage: python benchmarks/detail.py docs/results/fashion_mnist_coarse
"""

import argparse
import math
from pathlib import Path

import torch
from frameworks import line
from jaxtyping import Float
from parts.kept import cells_of
from results import grids, tiles
from scipy.stats import wasserstein_distance
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from realuid_lightning.cli.plan import checked_fit
from realuid_lightning.errors import UserError

REAL = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, help="what is kept of the runs of a data set")
    options = parser.parse_args()
    try:
        print("\n".join(table(options.place)))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


def table(place: Path) -> list[str]:
    """Return a row for the real images and one a grid, in Markdown.

    Raises:
        UserError: If no samples are kept there, or the data are not to be had.
    """
    cells = cells_of(place)
    if not any(map(grids, cells)):
        raise UserError(f"{place} keeps no grids of samples: they are kept of seed 0")
    images = reference(cells[0].run.folder / "config.yaml")
    real, side = detail(images), images.shape[-1]
    lines = [line(["", "images", "detail", "distance from real"]), line(["---"] * 4), row("real", real, real)]
    for cell in cells:
        for name, grid in grids(cell).items():
            drawn = tiles(grid, cell)
            scale = drawn.shape[-1] // side  # small images are drawn with pixels of several
            lines.append(row(f"`{cell.row}`, {name}", detail(drawn[..., ::scale, ::scale] / 255), real))
    return lines


def row(name: str, values: Tensor, real: Tensor) -> str:
    """Return what was found of images in a line of the table, in thousandths."""
    error = f" ± {1e3 * values.std() / math.sqrt(len(values)):.2g}" if len(values) > 1 else ""
    distance = wasserstein_distance(values, real)
    return line([name, str(len(values)), f"{1e3 * values.mean():.3g}{error}", f"{1e3 * distance:.3g}"])


def reference(config: Path) -> Float[Tensor, "b c h w"]:
    """Return images of the data that a run's figures compare with, evenly spread over them, in [0, 1]."""
    source = checked_fit(["--config", str(config), "--trainer.accelerator=cpu"]).datamodule.reference
    source.setup()
    images, _ = source.get(torch.linspace(0, len(source) - 1, min(REAL, len(source))).long())
    return images / 255


def detail(images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Return the detail of each image; an odd side without its last line."""
    images = images[..., : images.shape[-2] // 2 * 2, : images.shape[-1] // 2 * 2]
    coarse = interpolate(avg_pool2d(images, 2), scale_factor=2)
    return (images - coarse).square().flatten(1).mean(1)


if __name__ == "__main__":
    main()
