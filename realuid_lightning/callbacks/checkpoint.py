"""When checkpoints are written and which are kept."""

from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from realuid_lightning.errors import Faults, UserError


class RunCheckpoint(ModelCheckpoint):
    """Keeps the newest state as ``last.ckpt`` and the best ones by one metric; the final step is always saved.

    Checkpoints are written after each validation, into ``checkpoints`` in the run folder.

    Args:
        monitor: Metric to choose by, such as ``fid/ema_0.999``; only ``last.ckpt`` is kept when None.
        mode: Whether a low (``min``) or a high (``max``) metric is good.
        keep: Number of best checkpoints that are kept, at least 0; -1 keeps all.
        every: Steps after which ``last.ckpt`` is written between validations, too; not at all when None.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        keep: int = 1,
        every: int | None = None,
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            save_top_k=keep if monitor is not None else 0,
            save_last=True,
            filename="best_step_{step:08d}",
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
        )
        faults = Faults("RunCheckpoint")
        faults.unless(keep >= -1, f"keep must be at least 0, or -1 for all, got {keep}")
        faults.unless(every is None or every >= 1, f"every must be at least 1 step, or null, got {every}")
        faults.raise_any()
        self.every = every

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to begin a new run where another one's checkpoints are.

        Raises:
            UserError: If the run folder holds checkpoints and none of them is resumed.
        """
        super().setup(trainer, pl_module, stage)
        folder = Path(self.dirpath or ".")
        if stage == "fit" and trainer.ckpt_path is None and any(folder.glob("*.ckpt")):
            raise UserError(
                f"{folder} holds the checkpoints of a run. Resume it with --ckpt_path last, choose another folder with "
                "--trainer.default_root_dir, or remove it"
            )

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Save the newest state where ``every`` says so."""
        if self.every is not None and trainer.global_step % self.every == 0:
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final step, unless that has just been done."""
        super().on_train_end(trainer, pl_module)
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        if self.dirpath is not None and self._last_global_step_saved != trainer.global_step:
            self._last_global_step_saved = trainer.global_step
            trainer.save_checkpoint(Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}.ckpt")
