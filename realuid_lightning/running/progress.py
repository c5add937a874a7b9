"""Progress in the terminal: generator updates, losses, the last Fréchet distance."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class MatchingProgressBar(RichProgressBar):
    """Rich progress whose total is ``max_steps`` (the training stream has no end of its own).

    Figures are read from the device at the trainer's log interval only, since reading waits for the device. So losses
    are taken from what modules log: Lightning reads at every step what is logged with ``prog_bar``.

    Args:
        refresh_rate: Steps between two drawings; 0 shows nothing.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=True)

    @property
    def total_train_batches(self) -> int | float:
        """Number of training steps of the whole run; infinite without ``max_steps``."""
        return self.trainer.max_steps if self.trainer.max_steps > 0 else super().total_train_batches

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return losses and distances under short names."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        logged = trainer.callback_metrics.items()
        losses = {name.removeprefix("train/"): value.item() for name, value in logged if name.startswith("train/")}
        return {**losses, **items}

    def _update_metrics(self, trainer: Trainer, pl_module: LightningModule) -> None:
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0 says never
        if trainer.validating or (interval > 0 and trainer.global_step % interval == 0):
            super()._update_metrics(trainer, pl_module)

    def _get_train_description(self, current_epoch: int) -> str:
        del current_epoch
        module = self.trainer.lightning_module
        return "Generator updates" if getattr(module, "role", None) == "generator" else "Updates"
