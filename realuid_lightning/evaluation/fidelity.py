"""Likeness of every sampler's samples to the truth, where pairs tell it."""

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from realuid_lightning.data import Batch
from realuid_lightning.evaluation.base import SamplerCallback, steps_made
from realuid_lightning.evaluation.figures import record
from realuid_lightning.lightning_internals import without_warning

RANGE = (-1.0, 1.0)
"""Range of samples and truth; values outside are clipped."""

SMALLEST_SIDE = 3
"""Smaller images have no neighbourhood that a structural similarity could compare."""


class FidelityCallback(SamplerCallback):
    """Compares generated images with the truth ``x1`` that evaluation batches carry when data come in pairs.

    Logs for each sampler, over all samples of all processes:

    - ``psnr/NAME``: the peak signal-to-noise ratio in dB, of the mean squared error over all values of all samples.
    - ``ssim/NAME``: the mean structural similarity (Wang et al., 2004), with a Gaussian window of 11 x 11 pixels and
      standard deviation 1.5. Images with a side below 11 pixels have the largest odd window that fits, with a standard
      deviation in proportion, so their figures compare with those of images of their own size alone.

    Both figures and their step are added to ``fidelity.jsonl`` in the run folder (the trainer's ``default_root_dir``).
    Batches without a truth, data that are no images, and images below 3 pixels are passed over.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, tuple[PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure]] = {}
        self._count = 0  # samples of this process that have been compared

    def see(self, trainer: Trainer, pl_module: LightningModule, samples: dict[str, Tensor], batch: Batch) -> None:
        """Compare a batch of every sampler's samples."""
        del trainer
        truth = batch.x1
        if truth is None or truth.ndim != 4 or min(truth.shape[-2:]) < SMALLEST_SIDE:
            return
        self._count += len(truth)
        for name, made in samples.items():
            for metric in self._pair(name, min(truth.shape[-2:]), pl_module.device):
                metric.update(made.double(), truth.double())

    def conclude(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, log and store every sampler's figures."""
        # All processes ask, whether or not they have seen a truth themselves: figures are computed by all or by none.
        samples = int(trainer.strategy.reduce(torch.tensor(self._count, device=pl_module.device), reduce_op="sum"))
        names = list(self._metrics) or list(pl_module.evaluated())  # type: ignore[operator]
        for name in names if samples else []:
            figures = (metric.compute() for metric in self._pair(name, SMALLEST_SIDE, pl_module.device))
            psnr, ssim = (float(figure) for figure in figures)  # type: ignore[arg-type]  # no full images are asked for
            pl_module.log_dict({f"psnr/{name}": psnr, f"ssim/{name}": ssim}, sync_dist=True)
            if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                row = {
                    "step": steps_made(trainer, pl_module),
                    "sampler": name,
                    "psnr": psnr,
                    "ssim": ssim,
                    "samples": samples,
                }
                record(trainer, "fidelity.jsonl", row)
        self._metrics.clear()
        self._count = 0

    def _pair(
        self, name: str, side: int, device: torch.device
    ) -> tuple[PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure]:
        """Return a sampler's metrics; new ones suit images whose shorter side has ``side`` pixels."""
        if name not in self._metrics:
            psnr = PeakSignalNoiseRatio(RANGE)
            ssim = StructuralSimilarityIndexMeasure(sigma=window_std(side), data_range=RANGE)
            for metric in (psnr, ssim):
                metric.set_dtype(torch.float64).to(device)
                without_warning(metric)
            self._metrics[name] = (psnr, ssim)
        return self._metrics[name]


def window_std(side: int) -> float:
    """Return the standard deviation, in pixels, of the window for images of ``side`` pixels, at least 3.

    Torchmetrics makes the window ``2 * round(3.5 * std) + 1`` pixels wide.
    """
    return 1.5 if side >= 11 else (side - 1) // 2 / 3.5
