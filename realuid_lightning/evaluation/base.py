"""What all callbacks share that look at what a module generates in evaluation."""

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from realuid_lightning.data import Batch


class SamplerCallback(Callback):
    """Base of callbacks that see the samples of every sampler, in validation and in test.

    A subclass overrides what it needs of the three methods below; none of them is called in Lightning's sanity check.
    """

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare an evaluation; called on all processes."""

    def see(self, trainer: Trainer, pl_module: LightningModule, samples: dict[str, Tensor], batch: Batch) -> None:
        """Look at a batch.

        Args:
            trainer: The trainer.
            pl_module: The module.
            samples: What every sampler has made, ``(B, *D)`` by its name.
            batch: What they were made from.
        """

    def conclude(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was found; called on all processes, also on one that has seen nothing."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call ``begin``."""
        if not trainer.sanity_checking:
            self.begin(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],  # type: ignore[override]
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Call ``see``."""
        del batch_idx, dataloader_idx
        if not trainer.sanity_checking:
            self.see(trainer, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call ``conclude``."""
        if not trainer.sanity_checking:
            self.conclude(trainer, pl_module)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]
    on_test_epoch_end = on_validation_epoch_end


def steps_made(trainer: Trainer, pl_module: LightningModule) -> int:
    """Return the training steps behind the weights that are evaluated."""
    return int(getattr(pl_module, "steps_made", trainer.global_step))
