"""Files of generated samples: what ``realuid predict`` leaves."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import UInt8
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image
from torch import Tensor

from realuid_lightning.atomic import replacing
from realuid_lightning.data import Batch
from realuid_lightning.metrics import to_bytes

Row = tuple[Tensor, Tensor, Tensor | None]


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
            labels = batch.y.cpu() if isinstance(batch.y, Tensor) and batch.y.dtype == torch.int64 else None
            self._rows.append((batch.index.cpu(), samples.cpu(), labels))
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


def _gathered(rows: list[Row]) -> list[Row]:
    """Return the rows of all processes, in rank order."""
    if not dist.is_available() or not dist.is_initialized():
        return rows
    everyone: list[list[Row]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, rows)
    return [row for rows in everyone for row in rows]


def write_png(image: UInt8[Tensor, "c h w"], target: Path) -> None:
    """Write an image of 1 or 3 channels, atomically."""
    with replacing(target) as file:
        as_image(image).save(file)


def as_image(image: UInt8[Tensor, "c h w"]) -> Image.Image:
    """Return an image of 1 or 3 channels as Pillow has it."""
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
