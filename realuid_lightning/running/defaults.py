"""What every run has, from Python and from the command line."""

from typing import Literal

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from realuid_lightning.checkpoints import AtomicCheckpointIO
from realuid_lightning.evaluation import Diagnostics, FidelityCallback, MetricsCallback, SampleGrid, TimeCurves
from realuid_lightning.metrics import Metric
from realuid_lightning.running.checkpoint import RunCheckpoint
from realuid_lightning.running.failure import FailureNotice
from realuid_lightning.running.preemption import Preemption
from realuid_lightning.running.progress import MatchingProgressBar
from realuid_lightning.running.record import FitRecord


class AtomicCheckpoints(Callback):
    """Gives the trainer ``AtomicCheckpointIO``, unless it has a plugin of the user's own for its checkpoints."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the place of Lightning's own, before a checkpoint is read."""
        del pl_module, stage
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def default_callbacks(
    features: nn.Module | None = None,
    metrics: list[Metric] | None = None,
    grid: int = 64,
    monitor: str | None = None,
    mode: Literal["min", "max"] = "min",
    every: int | None = 1000,
    progress: bool = True,
) -> list[Callback]:
    """Return the callbacks that make a ``Trainer`` of one's own as good as the command line.

    Checkpoints are written atomically, into ``checkpoints`` of the trainer's ``default_root_dir``, which is
    the run's folder; ``trainer.fit(module, data, ckpt_path="last")`` goes on from there, or begins. Signals that stop
    the run save it first (from ``setup`` on), one process that fails ends all, and a folder serves one run at a time.
    What it runs on and how long it takes goes to ``fits.json``.
    Validation measures ``metrics``, likeness to the truth of paired data, and signs of divergence, and draws
    samples; each is described by its class.

    Args:
        features: Extractor of what is measured, ``(B, *D)`` to ``(B, F)``; TF-Inception when None.
        metrics: What is measured; the Fréchet distance, ``FID``, when None.
        grid: Number of samples in a picture, at least 1.
        monitor: Metric to keep the best checkpoint by, such as ``fid/ema_0.999``; only the last one is kept when None.
        mode: Whether a low (``min``) or a high (``max``) metric is good.
        every: Steps after which the last checkpoint is written between validations, too; not at all when None.
        progress: Show a progress bar; False goes with ``Trainer(enable_progress_bar=False)``.

    Raises:
        UserError: If an argument is out of range.

    Example:
        >>> from lightning import Trainer
        >>> from realuid_lightning.metrics import RawFeatures
        >>> callbacks = default_callbacks(features=RawFeatures([1, 8, 8]), monitor="fid/ema_0.999")
        >>> trainer = Trainer(default_root_dir="runs/digits", max_steps=1000, callbacks=callbacks)
    """
    callbacks = [MetricsCallback(features, metrics), SampleGrid(grid), RunCheckpoint(monitor, mode, every=every)]
    return [*callbacks, *standing_callbacks(), *([MatchingProgressBar()] if progress else [])]


def standing_callbacks() -> list[Callback]:
    """Return those of them that have no options, without the progress bar."""
    measures = [FidelityCallback(), Diagnostics(), TimeCurves()]
    return [*measures, AtomicCheckpoints(), FailureNotice(), FitRecord(), Preemption()]
