"""Stopping by a signal: at a safe point, all processes together, with the state saved."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import distributed

from realuid_lightning.lightning_internals import cluster_environment, leave_signals_alone
from realuid_lightning.running.checkpoint import RunCheckpoint, resumable
from realuid_lightning.running.launching import launched
from realuid_lightning.signals import SIGNALS


class Stopped(SystemExit):
    """A signal has stopped the run; the exit code is 128 plus its number: 138 SIGUSR1, 143 SIGTERM, 130 SIGINT.

    Args:
        number: The signal.
        code: The exit code where it is another one.
    """

    def __init__(self, number: int, code: int | None = None) -> None:
        super().__init__(128 + number if code is None else code)
        self.signal = signal.Signals(number)


class Preemption(Callback):
    """Stops a run on SIGUSR1, SIGTERM or SIGINT, all processes together: ``fit`` with ``last.ckpt`` written.

    A handler only notes the signal: one that saved by itself would wait forever for a process that is in the middle of
    an all-reduce. At the end of every training step (and of every batch of an evaluation) all processes compare notes,
    and leave together. The note travels through the CPU (gloo) while the next step computes, and is read a step later:
    no process waits for it, and the device is never asked. It takes the place of Lightning's own exchange, which reads
    a number from the device at every step. ``validate``, ``test`` and ``predict`` have nothing to save.

    Under SLURM the job is put back into the queue after SIGUSR1 (``sbatch --signal=USR1@120``), and after SIGTERM
    unless the job is being cancelled or has run out of time. Before training has begun, and once the last step is
    made, there is nothing to save: a single process leaves at once at the former, and the run is finished at the
    latter. A second SIGINT stops at once, wherever the run is.
    """

    def __init__(self) -> None:
        self._received = 0
        self._former: dict[int, Any] = {}
        self._trainer: Trainer | None = None
        self._process = 0
        self._begun = False
        self._group: distributed.ProcessGroup | None = None
        self._sent: tuple[distributed.Work, torch.Tensor] | None = None
        self._shared_batches = 0

    def arm(self, trainer: Trainer) -> None:
        """Take over the signals, from Lightning too. Called at ``setup`` unless it has been done before."""
        if self._former or threading.current_thread() is not threading.main_thread():
            return
        self._trainer, self._process, self._received, self._begun = trainer, os.getpid(), 0, False
        # Its handlers save or send from within: the processes then wait for each other.
        leave_signals_alone(trainer)
        if isinstance(environment := cluster_environment(trainer), SLURMEnvironment):
            environment.auto_requeue = False
        for number in SIGNALS:
            self._former[number] = signal.signal(number, self._receive)
            signal.siginterrupt(number, False)  # libraries in C may take an interrupted read or write for a failure

    def disarm(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former, self._group, self._sent = {}, None, None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over the signals, and make the line to the other processes."""
        del pl_module, stage
        self.arm(trainer)
        if self._former and trainer.world_size > 1 and distributed.is_initialized():
            group = distributed.new_group(backend="gloo")
            assert isinstance(group, distributed.ProcessGroup)
            self._group = group

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Leave if a signal has come before the first step."""
        self._begun = True
        known = self._agree(0)[0]
        if known:
            rank_zero_info(f"{signal.Signals(known).name}: stopped before the first step")
            self._leave(trainer, known)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Leave if a signal has come, unless gradients are being gathered, or this was the last step."""
        if resumable(trainer):
            self._stop_if(trainer, self._exchange())

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        """Leave if a signal has come; otherwise find out how many batches every process has."""
        if not trainer.sanity_checking:
            self._begin_batches(trainer, trainer.num_val_batches)

    def on_test_start(self, trainer: Trainer, *_: Any) -> None:
        """Do so, too."""
        self._begin_batches(trainer, trainer.num_test_batches)

    def on_predict_start(self, trainer: Trainer, *_: Any) -> None:
        """Do so, too."""
        self._begin_batches(trainer, trainer.num_predict_batches)

    def _begin_batches(self, trainer: Trainer, batches: Sequence[int | float]) -> None:
        self._begun = True
        known, self._shared_batches = self._agree(int(min(sum(batches), 2**31)))
        if trainer.state.fn != "fit" or resumable(trainer):
            self._stop_if(trainer, known)
        else:
            self._shared_batches = 0

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Leave if a signal has come; ``fit`` with the state in which validation began, which will be made again."""
        if not trainer.sanity_checking and self._shared_batches > 0:
            self._shared_batches -= 1
            self._stop_if(trainer, self._exchange())

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_train_end(self, *_: Any) -> None:
        """Wait for the last note: whatever it says, the run is finished."""
        if self._sent is not None:
            self._sent[0].wait()
            self._sent = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do so where nothing follows."""
        del pl_module
        if trainer.state.fn != "fit":
            self.on_train_end()

    on_test_end = on_predict_end = on_validation_end

    def teardown(self, *_: Any, **__: Any) -> None:
        """Give the signals back."""
        self.disarm()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back, unless the run leaves: a job that goes back into the queue is sent SIGTERM again."""
        del trainer, pl_module
        if not isinstance(exception, Stopped):
            self.disarm()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._process:
            return  # a loader's process, which has inherited this handler: it serves until its master leaves
        assert self._trainer is not None
        if number == signal.SIGINT and self._received == signal.SIGINT:
            self._stop_at_once()
        self._received = self._received or number
        if not self._begun and self._trainer.world_size == 1:
            self._leave(self._trainer, number)
        if number == signal.SIGINT and self._trainer.is_global_zero:
            # Not by print: the signal may have come in the middle of another one.
            os.write(2, b"\nstopping at the end of this step or batch; once more stops at once\n")

    def _stop_at_once(self) -> None:
        assert self._trainer is not None
        launcher = self._trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(signal.SIGKILL)
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\n")  # a progress bar hides the cursor
        os._exit(128 + signal.SIGINT)

    def _exchange(self) -> int:
        """Send what this process has received, and return what all had received at the last exchange."""
        if self._group is None:
            return self._received
        known = self._read()
        note = torch.tensor([_priority(self._received), 0])
        self._sent = (distributed.all_reduce(note, distributed.ReduceOp.MAX, self._group, async_op=True), note)
        return known

    def _read(self) -> int:
        if self._sent is None:
            return 0
        work, note = self._sent
        work.wait()
        self._sent = None
        return _by_priority(int(note[0]))

    def _agree(self, count: int) -> tuple[int, int]:
        """Return what all processes have received until now, and the least ``count`` that any of them gave."""
        if self._group is None:
            return self._received, count
        earlier = self._read()
        note = torch.tensor([_priority(self._received), -count])
        distributed.all_reduce(note, distributed.ReduceOp.MAX, self._group)
        return max(earlier, _by_priority(int(note[0])), key=_priority), -int(note[1])

    def _stop_if(self, trainer: Trainer, known: int) -> None:
        if not known:
            return
        self._read()
        if trainer.state.fn != "fit":
            command = "" if trainer.state.fn is None else trainer.state.fn.value
            rank_zero_info(f"{signal.Signals(known).name}: stopped in {command}, before its end")
            self._leave(trainer, known)
        saver = next((each for each in trainer.callbacks if isinstance(each, RunCheckpoint)), None)  # type: ignore[attr-defined]
        if saver is not None:
            saver.save_here(trainer)
        saved = f"saved in {saver.last_model_path}" if saver is not None else "not saved, for checkpoints are off"
        rank_zero_info(f"{signal.Signals(known).name}: stopped at step {trainer.global_step}, {saved}")
        self._leave(trainer, known)

    @staticmethod
    def _leave(trainer: Trainer, number: int) -> NoReturn:
        if isinstance(cluster_environment(trainer), SLURMEnvironment):
            if trainer.is_global_zero:
                requeue(number)
            if trainer.world_size > 1:
                trainer.strategy.barrier()  # srun may end all processes when the first of them leaves
        raise Stopped(number, 0 if launched(trainer) else None)


def requeue(received: int) -> None:
    """Put this SLURM job back into the queue, if it was stopped because it must go on later.

    Args:
        received: The signal that has stopped it.
    """
    job, task = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID")
    name = job if task is None else f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    # SIGTERM comes with preemption, while the job still runs, and with scancel, when it does no more.
    running = received == signal.SIGTERM and "JobState=RUNNING" in _scontrol("show", "job", job)[1]
    if received == signal.SIGUSR1 or running:
        code, said = _scontrol("requeue", name)
        if code == 0:
            rank_zero_info(f"job {name} goes back into the queue")
        else:
            rank_zero_warn(f"job {name} was not put back into the queue: {said}; submit it again to go on")


def _scontrol(*words: str) -> tuple[int, str]:
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, (done.stdout + done.stderr).strip()


def _priority(number: int) -> int:
    return 0 if number == 0 else 1 + SIGNALS.index(signal.Signals(number))


def _by_priority(priority: int) -> int:
    return 0 if priority == 0 else SIGNALS[priority - 1]
