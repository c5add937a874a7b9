"""One run in one folder at a time."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from realuid_lightning.errors import UserError
from realuid_lightning.running.folder_lock import FolderLock


class RunLock(Callback):
    """Keeps a second ``fit`` out of the run folder, whose files the two would mix; ``RunCheckpoint`` has one.

    Process 0 holds the lock (see ``FolderLock``) from ``setup`` to the end, however that comes: a run that was killed,
    or goes back into SLURM's queue, leaves nothing in the way.
    """

    def __init__(self) -> None:
        self._lock: FolderLock | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the lock of the run folder.

        Raises:
            UserError: In all processes, if another run holds it.
        """
        del pl_module
        if stage != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        failure = None
        if trainer.is_global_zero:
            self.release()
            self._lock = FolderLock(Path(trainer.default_root_dir))
            try:
                self._lock.acquire()
            except UserError as error:
                failure = str(error)
        failure = trainer.strategy.broadcast(failure)
        if failure is not None:
            raise UserError(failure)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Let others use the run folder."""
        self.release()

    def on_exception(self, *_: Any, **__: Any) -> None:
        """Let others use the run folder."""
        self.release()

    def release(self) -> None:
        """Let go of the lock, if it is held."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
