"""A numerical guard: updates that would carry NaN or infinity into the weights are left out and counted."""

from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from realuid_lightning.errors import Faults, UserError


class UpdateGuard:
    """Leaves out updates with a non-finite loss or gradient norm, and ends a run that makes no others.

    In a training step: ``backward(guard.armed(loss))``, then ``guard.watch(name, norm, optimizer)`` with the norm of
    the gradients, then ``optimizer.step()``, which moves neither weights nor moments if that norm is not finite.
    The step counts all the same: the next draws, of data and noise alike, are keyed by its number and must be others;
    schedules and averages follow that count. ``guard.end_if_lost(trainer)`` ends the run when it is lost.

    Fused Adam and AdamW are told on the device, so that nothing waits for a verdict; any other optimizer loses its
    gradients, for which the verdict has to be read, once an update.

    All processes of a DDP come to the same verdict without a message of its own. The verdict rests on the gradients
    alone, which DDP has averaged: a NaN in the gradients of one process is a NaN in everyone's. A loss is that of one
    process, so ``armed`` turns a non-finite one into NaN gradients, which then travel like any others. That covers a
    loss that is infinite while its gradients happen to be finite.

    Args:
        max_skips: Greatest number of updates of one network, in a row, that are left out, at least 0; one more ends
            the run.

    Raises:
        UserError: If ``max_skips`` is negative.
    """

    def __init__(self, max_skips: int = 10) -> None:
        faults = Faults("UpdateGuard")
        faults.unless(max_skips >= 0, f"max_skips must be at least 0, got {max_skips}")
        faults.raise_any()
        self.max_skips = max_skips
        self.skipped = torch.zeros((), dtype=torch.int64)
        """Updates left out so far, of all networks; on the device of the gradients."""
        self._in_a_row: dict[str, Tensor] = {}

    @staticmethod
    def armed(loss: Tensor) -> Tensor:
        """Return the loss, with NaN gradients if it is not finite; a finite one and its gradients keep every bit."""
        # 0 * inf and 0 * nan are nan, and a factor of 1 changes nothing; no value is read, so nothing waits.
        return loss * (1 + 0 * loss.detach())

    def watch(self, network: str, norm: Tensor, optimizer: Optimizer | LightningOptimizer) -> None:
        """See to it that the optimizer's next step moves nothing if the gradients are not finite, and count it then.

        Args:
            network: Name of the network; updates in a row are counted for each one.
            norm: Norm of its gradients, before or after clipping, the same on all processes.
            optimizer: Its optimizer.
        """
        unsound = ~norm.detach().isfinite()
        bare = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        fused = all(group.get("fused") for group in bare.param_groups)  # a resumed state may differ from the config
        if fused and isinstance(bare, Adam | AdamW):  # fused SGD would begin with a momentum that nobody has set
            bare.found_inf = unsound.float()  # type: ignore[attr-defined]  # as torch's GradScaler tells them
        elif unsound:
            # Not to be found by a step of any optimizer of torch, weight decay and momentum included.
            bare.zero_grad(set_to_none=True)
        row = self._in_a_row.get(network)
        self._in_a_row[network] = unsound.long() if row is None else (row.to(unsound.device) + 1) * unsound
        self.skipped = self.skipped.to(unsound.device) + unsound

    def end_if_lost(self, trainer: Trainer) -> None:
        """End the run if too many updates in a row were left out, after saving it.

        This reads from the device. All processes must call it.

        Raises:
            UserError: With what to do. The checkpoint holds the weights before the updates that were left out.
        """
        rows = {name: int(count) for name, count in self._in_a_row.items()}
        lost = {name: count for name, count in rows.items() if count > self.max_skips}
        if not lost:
            return
        self._in_a_row = {}  # a resumed run gets its chances anew
        if trainer.checkpoint_callbacks:
            file = _save(trainer)
            saved = f"The sound weights of step {trainer.global_step} are in {file}: resume with --ckpt_path last"
        else:
            saved = "Nothing was saved, for enable_checkpointing is false: start again"
        networks = " and ".join(f"{count} updates of {name}" for name, count in lost.items())
        raise UserError(
            f"training: expected finite losses and gradients, got none in {networks} in a row, more than max_skips "
            f"{self.max_skips}. {saved} at a lower learning rate, with a lower clip, or in precision 32-true; if it "
            "happens at once, look for NaN in the data and in the teacher's checkpoint"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, for a checkpoint."""
        return {"skipped": int(self.skipped), "in_a_row": {name: int(count) for name, count in self._in_a_row.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting where a checkpoint was saved; a run that was lost there gets its chances anew."""
        self.skipped = torch.tensor(state["skipped"])
        rows = {name: count for name, count in state["in_a_row"].items() if count <= self.max_skips}
        self._in_a_row = {name: torch.tensor(count) for name, count in rows.items()}


def _save(trainer: Trainer) -> str:
    # By name, for callbacks build on modules.
    keeper: Any = next((callback for callback in trainer.checkpoint_callbacks if hasattr(callback, "save_here")), None)
    if keeper is not None:
        keeper.save_here(trainer)
        return str(keeper.last_model_path)
    file = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    trainer.save_checkpoint(file)
    return str(file)
