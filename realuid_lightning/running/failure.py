"""When one process fails, the others end with its message instead of waiting for it."""

import os
import threading
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import distributed
from torch.distributed.distributed_c10d import Store

from realuid_lightning.errors import UserError
from realuid_lightning.lightning_internals import meeting_store
from realuid_lightning.running.launching import launched

_KEY = "realuid/failure"
_INTERVAL = 0.5
"""Seconds between two looks."""


class FailureNotice(Callback):
    """Ends all processes when one of them fails, whatever they are waiting for, with its message.

    A process that fails in the midst of a step, an evaluation or the reading of data leaves the others inside of an
    exchange that will never be complete, for many minutes (NCCL). So each of them has a thread that looks twice a
    second whether another one has left a message in the store where the processes first met.
    """

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to look."""
        del pl_module, stage
        if trainer.world_size > 1 and distributed.is_initialized() and self._thread is None:
            self._done.clear()
            store = meeting_store().clone()  # a line of its own: others may wait on the first
            what = (store, self._done, _patience(trainer), launched(trainer))
            self._thread = threading.Thread(target=_watch, args=what, daemon=True)
            self._thread.start()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Look no more."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the others, unless this is a stop that all processes make together."""
        del pl_module
        self._stop()
        if isinstance(exception, Exception) and trainer.world_size > 1 and distributed.is_initialized():
            text = str(exception) if isinstance(exception, UserError) else f"{type(exception).__name__}: {exception}"
            code = 2 if isinstance(exception, UserError) else 1
            try:
                store = meeting_store()
                if isinstance(exception, RuntimeError) and store.check([_KEY]):
                    # Another one had failed, and a third has seen it and left an exchange with this one.
                    _leave(store, _patience(trainer), launched(trainer))
                store.set(_KEY, f"{code} error: process {trainer.global_rank} has failed: {text}")
            except RuntimeError:  # the store has gone with process 0
                return
            time.sleep(6 * _INTERVAL)  # until the others have looked: launchers end all when the first one leaves

    def _stop(self) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _watch(store: Store, done: threading.Event, patience: float, by_another: bool) -> None:
    """Wait for a message of another process, and leave with it, some seconds later.

    Args:
        store: Where the message will be.
        done: Set when there is no need to wait any more.
        patience: Seconds between the message and the end.
        by_another: Whether this process was launched by process 0, whose exit code is that of all.
    """
    while not done.wait(_INTERVAL):
        try:
            if not store.check([_KEY]):
                continue
            _leave(store, patience, by_another)
        except RuntimeError:  # process 0 has gone without a word: killed, perhaps
            if done.wait(20 * _INTERVAL):  # or the run is over, and this process slow to see it
                return
            _end("1 error: process 0 has ended", patience, by_another)


def _patience(trainer: Trainer) -> float:
    """Return the seconds between a message and the end: the store ends with process 0."""
    return 2 * _INTERVAL if trainer.is_global_zero else 0.0


def _leave(store: Store, patience: float, by_another: bool) -> None:
    _end(store.get(_KEY).decode(), patience, by_another)


def _end(told: str, patience: float, by_another: bool) -> None:
    """End the process with a message; the main thread may be inside of an exchange, which no exception reaches."""
    code, _, message = told.partition(" ")
    time.sleep(patience)
    os.write(2, f"{message}\n".encode())
    os._exit(0 if by_another else int(code))
