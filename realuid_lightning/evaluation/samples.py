"""Pictures of generated samples: fixed-latent grids during training, files in prediction."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, UInt8
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from realuid_lightning.atomic import replacing
from realuid_lightning.data import Batch
from realuid_lightning.errors import Faults
from realuid_lightning.metrics import to_bytes

Row = tuple[Tensor, Tensor, Tensor | None]

SMALLEST_SIDE = 32
"""Images are enlarged to at least this many pixels, so that a person sees something."""

DENSITY_BINS = 64
"""Cells of a density along each axis, which reaches from -3 to 3."""


class SampleGrid(Callback):
    """Draws the first validation latents' samples of every sampler, as PNG files and in TensorBoard.

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

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],  # type: ignore[override]
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what belongs to the picture."""
        del pl_module, batch_idx, dataloader_idx
        if trainer.is_global_zero and batch.index is not None:
            chosen = batch.index < self.count
            if bool(chosen.any()):
                for name, samples in (outputs | _ends(batch)).items():
                    self._samples.setdefault(name, []).append(samples[chosen].cpu())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``samples/NAME/step_N.png`` into the run folder, and the same picture to TensorBoard."""
        step = getattr(pl_module, "steps_made", trainer.global_step)
        idle = trainer.sanity_checking or trainer.fast_dev_run  # type: ignore[attr-defined]
        folder = Path(trainer.default_root_dir) / "samples"
        for name, parts in self._samples.items():
            samples = torch.cat(parts)
            if samples.isnan().any():
                rank_zero_warn(f"samples/{name}: no picture at step {step}, for there are NaN among the samples")
                continue
            picture = None if idle else draw(samples)
            if picture is None:
                continue
            write_png(picture, folder / name / f"step_{step:08d}.png")
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"samples/{name}", picture, step)
        self._samples.clear()

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]
    on_test_epoch_end = on_validation_epoch_end


class PredictionWriter(BasePredictionWriter):
    """Writes what ``realuid predict`` generates, named by global sample index.

    Args:
        folder: Where files go; ``samples`` in the run folder when None.
        format: ``png`` writes one image a sample, ``000042.png``; ``npz`` one file ``samples.npz`` with arrays
            ``index (N,)``, ``samples``, ``(N, H, W, C)`` uint8 for images or ``(N, *D)`` float32, and ``labels (N,)``
            if there are any.
    """

    def __init__(self, folder: str | None = None, format: Literal["png", "npz"] = "png") -> None:  # noqa: A002
        super().__init__(write_interval="batch")
        self.folder = folder
        self.format = format
        self._rows: list[Row] = []

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch of PNG files, or keep it for the npz file."""
        del pl_module, batch_indices, batch_idx, dataloader_idx
        assert batch.index is not None
        if self.format == "npz" or prediction.ndim != 4:
            samples = to_bytes(prediction).permute(0, 2, 3, 1) if prediction.ndim == 4 else prediction.float()
            self._rows.append((batch.index.cpu(), samples.cpu(), None if batch.y is None else batch.y.cpu()))
            return
        folder = self._target(trainer)
        for index, image in zip(batch.index.tolist(), to_bytes(prediction).cpu(), strict=True):
            write_png(image, folder / f"{index:06d}.png")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all processes and write the npz file in the order of their indices."""
        del pl_module
        rows, self._rows = _gathered(self._rows), []
        if not rows or not trainer.is_global_zero:
            return
        index = torch.cat([row[0] for row in rows])
        order = index.argsort()
        arrays = {"index": index[order].numpy(), "samples": torch.cat([row[1] for row in rows])[order].numpy()}
        labels = [row[2] for row in rows if row[2] is not None]
        if labels:
            arrays["labels"] = torch.cat(labels)[order].numpy()
        with replacing(self._target(trainer) / "samples.npz") as file, file.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    def _target(self, trainer: Trainer) -> Path:
        return Path(self.folder or Path(trainer.default_root_dir) / "samples")


def _ends(batch: Batch) -> dict[str, Tensor]:
    """Return what to compare samples with: the data that they were made from, and those that they belong to."""
    if batch.x0 is None:
        return {}
    return {"source": batch.x0} if batch.x1 is None else {"source": batch.x0, "truth": batch.x1}


def write_png(image: UInt8[Tensor, "c h w"], target: Path) -> None:
    """Write an image of 1 or 3 channels, whole or not at all."""
    pixels = image.permute(1, 2, 0).numpy()
    with replacing(target) as file:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file)


def _gathered(rows: list[Row]) -> list[Row]:
    """Return the rows of all processes, in rank order."""
    if not dist.is_available() or not dist.is_initialized():
        return rows
    everyone: list[list[Row]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, rows)
    return [row for rows in everyone for row in rows]


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
