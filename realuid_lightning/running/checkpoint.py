"""When checkpoints are written and which are kept."""

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from realuid_lightning.checkpoints.runs import best_scores, find_checkpoint
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.lightning_internals import accumulates, make_due_validation, save_if_best
from realuid_lightning.running.lock import RunLock
from realuid_lightning.running.monitors import check_monitors


class RunCheckpoint(ModelCheckpoint):
    """Keeps the newest state as ``last.ckpt`` and the best ones by one metric; the final step is always saved.

    Checkpoints are written after each validation, into ``checkpoints`` in the run folder, which no other run may use
    meanwhile (see ``RunLock``).

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
        faults = Faults("RunCheckpoint")
        faults.unless(mode in ("min", "max"), f"mode must be 'min' or 'max', got {mode!r}")
        faults.unless(keep >= -1, f"keep must be at least 0, or -1 for all, got {keep}")
        faults.unless(every is None or every >= 1, f"every must be at least 1 step, or null, got {every}")
        faults.raise_any()
        super().__init__(
            monitor=monitor,
            mode=mode,
            save_top_k=keep if monitor is not None else 0,
            filename="best_step_{step:08d}",
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
        )
        self.every = every
        self._lock = RunLock()
        self._saved_step = 0  # without a step there is nothing to save

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint, whatever its options: validation may leave them out."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the best files and their scores: the folder is where the run is, and that may move."""
        names = {Path(file).name: score for file, score in self.best_k_models.items()}
        return {
            "monitor": self.monitor,
            "mode": self.mode,
            "best_model_path": Path(self.best_model_path).name,
            "best_model_score": self.best_model_score,
            "best_k_models": names,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best ones so far, as far as they are in this run's folder.

        None of them if another metric has chosen them, or if the run begins in a new folder from a checkpoint of
        another one. The state is that of a file: nothing outside this folder is ever kept or deleted for it.
        """
        mode = state_dict.get("mode", self.mode)
        if (state_dict.get("monitor"), mode) == (self.monitor, self.mode):
            folder = Path(self.dirpath or ".")
            files = {folder / name: score for name, score in best_scores(state_dict).items()}
            there = {
                str(file): torch.tensor(score, dtype=torch.float64) for file, score in files.items() if file.is_file()
            }
            self._go_on_with(there)

    def _go_on_with(self, known: dict[str, Tensor]) -> None:
        """Take files and scores for the best ones so far."""
        self.best_k_models = known
        if known:
            by_score = sorted(known, key=lambda file: known[file].item(), reverse=self.mode == "max")
            self.best_model_path, self.kth_best_model_path = by_score[0], by_score[-1]
            self.best_model_score, self.kth_value = known[by_score[0]], known[by_score[-1]]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle on the run folder, whatever the logger; that it was used before is for ``on_fit_start`` to judge.

        Raises:
            UserError: If another run is using it.
        """
        self._lock.setup(trainer, pl_module, stage)
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)

    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        """Return what ``ckpt_path="last"`` stands for: the newest complete checkpoint, if there is any."""
        found = find_checkpoint(Path(trainer.default_root_dir), "resume")
        return set() if found is None else {str(found)}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let others use the run folder."""
        super().teardown(trainer, pl_module, stage)
        self._lock.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let others use the run folder."""
        super().on_exception(trainer, pl_module, exception)
        self._lock.release()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to begin a new run where another one's checkpoints are (the trainer knows only now what it resumes).

        Raises:
            UserError: If the run folder holds checkpoints and none of them is resumed, or if ``monitor`` names a
                distance that will not be measured.
        """
        check_monitors(trainer, pl_module)
        folder = Path(self.dirpath or ".")
        # What a killed write leaves begins with a dot.
        used = any(not file.name.startswith(".") for file in folder.glob("*.ckpt"))
        if used and trainer.ckpt_path is None:
            raise UserError(
                f"{folder} holds the checkpoints of a run. Resume it with --ckpt_path last, choose another folder with "
                "--trainer.default_root_dir, or remove it"
            )
        first = trainer.strategy.broadcast(trainer.ckpt_path)
        if first != trainer.ckpt_path:  # the folder is not the same on all nodes, or not yet
            raise UserError(
                f"process {trainer.global_rank} would begin from {trainer.ckpt_path}, but process 0 from {first}; put "
                "the run folder on a file system that all nodes share"
            )
        self._go_on_with(trainer.strategy.broadcast(self.best_k_models))  # process 0 has seen which files are there
        if trainer.is_global_zero:
            for file in folder.glob(".*.ckpt"):  # what killed writes have left
                file.unlink()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See to it that the validation is made which was due when the state that is resumed was saved.

        A run that was killed in that validation would lack its figures.
        """
        super().on_train_start(trainer, pl_module)
        make_due_validation(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Save the newest state where ``every`` says so.

        The last step is saved when its validation is done: a run that has made all its steps is not resumed.
        """
        due = self.every is not None and trainer.global_step % self.every == 0
        if due and resumable(trainer):
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state if it is among the best, and save it as the newest, which knows the best.

        Raises:
            UserError: If ``monitor`` names no metric; the state is saved first.
        """
        del pl_module
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        metrics = save_if_best(self, trainer)
        self._save_last(trainer)
        if self.monitor is not None and self.monitor not in metrics:
            raise UserError(f"RunCheckpoint: monitor names {self.monitor!r}; there are {', '.join(metrics)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final step, unless that has just been done."""
        del pl_module
        if self._saved_step != trainer.global_step:
            self._save_last(trainer)

    def save_here(self, trainer: Trainer) -> None:
        """Save the newest state from the end of a step, or from within its validation, which a resumed run repeats."""
        if self._saved_step == trainer.global_step:
            return  # at the end of the same step
        progress = trainer.fit_loop.epoch_loop.batch_progress
        back = 1 if trainer.validating else 0  # as if the step had just ended
        for count in (progress.current, progress.total):
            count.completed -= back
        try:
            self._save_last(trainer)
        finally:
            for count in (progress.current, progress.total):
                count.completed += back

    def _save_last(self, trainer: Trainer) -> None:
        """Write ``last.ckpt``: ModelCheckpoint itself writes it beside a new best only, and not over an old one."""
        if self.dirpath is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.last_model_path = str(Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}.ckpt")
            self._save_checkpoint(trainer, self.last_model_path)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Write a checkpoint; if that fails, all processes say so and end, rather than wait for the one that writes.

        Raises:
            UserError: What the writing process met, such as a full disk.
        """
        failure = None
        try:
            super()._save_checkpoint(trainer, filepath)
            self._saved_step = trainer.global_step
        except UserError as error:
            failure = str(error)
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the others wait
        failure = trainer.strategy.broadcast(failure)
        if failure is not None:
            raise UserError(failure)


def resumable(trainer: Trainer) -> bool:
    """Tell whether a run can be resumed from here: no gradients are being gathered, and steps remain to be made."""
    return not accumulates(trainer) and trainer.global_step != trainer.max_steps
