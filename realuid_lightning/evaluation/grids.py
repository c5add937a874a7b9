"""Grids of generated samples from fixed latents, drawn while a model trains."""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchvision.utils import make_grid

from realuid_lightning.data import Batch, MatchingDataModule
from realuid_lightning.errors import Faults
from realuid_lightning.evaluation.base import SamplerCallback, steps_made
from realuid_lightning.evaluation.writer import as_image, write_png
from realuid_lightning.metrics import to_bytes

SMALLEST_SIDE = 32
"""Images are enlarged to at least this many pixels, so that a person sees something."""

DENSITY_BINS = 64
"""Cells of a density along each axis, which reaches from -3 to 3."""


class SampleGrid(SamplerCallback):
    """Draws the first validation latents' samples of every sampler, as PNG files and into loggers that take pictures.

    The latents are the same at every step, so the pictures of a run show one set of samples getting better. Images
    become a grid, planar points a density; other data are not drawn. Source ends that come from data are drawn beside
    them as ``source``, and what these should become as ``truth``, where that is known.

    Args:
        count: Number of samples, at least 1; at most those of process 0 are shown.
    """

    def __init__(self, count: int = 64) -> None:
        faults = Faults("SampleGrid")
        faults.unless(count >= 1, f"count must be at least 1, got {count}")
        faults.raise_any()
        self.count = count
        self._samples: dict[str, list[Tensor]] = {}

    def see(self, trainer: Trainer, pl_module: LightningModule, samples: dict[str, Tensor], batch: Batch) -> None:
        """Keep what belongs to the picture."""
        if trainer.is_global_zero and batch.index is not None:
            chosen = batch.index < self.count
            if bool(chosen.any()):
                for name, made in (samples | _ends(batch, pl_module)).items():
                    self._samples.setdefault(name, []).append(made[chosen].cpu())

    def conclude(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``samples/NAME/step_N.png`` into the run folder, and hand the same picture to the loggers."""
        step = steps_made(trainer, pl_module)
        folder = Path(trainer.default_root_dir) / "samples"
        for name, parts in self._samples.items():
            samples = torch.cat(parts)
            if samples.isnan().any():
                rank_zero_warn(f"samples/{name}: no picture at step {step}, for there are NaN among the samples")
                continue
            picture = None if trainer.fast_dev_run else draw(samples)  # type: ignore[attr-defined]
            if picture is None:
                continue
            write_png(picture, folder / name / f"step_{step:08d}.png")
            for logger in trainer.loggers:
                show(logger, f"samples/{name}", picture, step)
        self._samples.clear()


def show(logger: Logger, name: str, picture: Tensor, step: int) -> None:
    """Hand a picture, ``(C, H, W)`` uint8, to a logger: as Weights & Biases or as TensorBoard takes it, if it does."""
    if hasattr(logger, "log_image"):
        logger.log_image(name, [as_image(picture)], step=step)
    elif add_image := getattr(getattr(logger, "experiment", None), "add_image", None):
        add_image(name, picture, step)


def _ends(batch: Batch, pl_module: LightningModule) -> dict[str, Tensor]:
    """Return what to compare samples with: the data that they were made from, and those that they belong to."""
    if batch.x0 is None:
        return {}
    data = getattr(pl_module.trainer, "datamodule", None)
    x0 = data.decode(batch.x0) if isinstance(data, MatchingDataModule) else batch.x0
    return {"source": x0} if batch.x1 is None else {"source": x0, "truth": batch.x1}


def draw(samples: Float[Tensor, "b *d"]) -> Tensor | None:
    """Turn samples into one picture, ``(C, H, W)`` uint8: images to a square grid, planar points to a density.

    Args:
        samples: Images in [-1, 1], ``(B, C, H, W)`` with 1 or 3 channels, or points ``(B, 2)``.

    Returns:
        The picture, or None for other data.
    """
    if samples.ndim == 4 and samples.shape[1] in (1, 3):
        scale = max(1, -(-SMALLEST_SIDE // samples.shape[-1]))
        large = to_bytes(samples).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        grid: Tensor = make_grid(large, nrow=math.ceil(math.sqrt(len(samples))), padding=2)
        return grid
    if samples.ndim == 2 and samples.shape[1] == 2:
        counts = torch.histogramdd(samples.double(), bins=[DENSITY_BINS] * 2, range=[-3.0, 3.0] * 2).hist
        picture = (255 * counts / counts.max().clamp(min=1)).to(torch.uint8).T.flip(0)
        return picture.repeat_interleave(4, 0).repeat_interleave(4, 1)[None]
    return None
