"""Runs of a sweep, each in a process of its own, so many at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from realuid_lightning.errors import printable
from realuid_lightning.signals import SIGNALS
from realuid_lightning.sweeping.grid import Task
from realuid_lightning.sweeping.record import read_state, write_state

LOG = "log.txt"
COMMAND = (sys.executable, "-m", "realuid_lightning.cli")
TAIL = 12
"""Lines of a failed run's log that are shown."""


class Running(NamedTuple):
    """A run in progress.

    Attributes:
        task: What it does.
        process: Its process.
        since: When it was started.
    """

    task: Task
    process: "subprocess.Popen[bytes]"
    since: float


class Runner:
    """Runs tasks, teachers before what they teach; what has failed keeps nothing else from running.

    A signal is passed on to the runs, which save and leave; then the sweep leaves. The same sweep later goes on where
    it was.

    Args:
        folder: The sweep's folder.
        jobs: Runs at a time, at least 1.
        command: What is called with the words of each task.
    """

    def __init__(self, folder: Path, jobs: int = 1, command: Sequence[str] = COMMAND) -> None:
        self.folder, self.jobs, self.command = folder, jobs, list(command)
        self.failed: list[str] = []
        self._running: list[Running] = []
        self._signal = 0

    def run(self, tasks: Sequence[Task]) -> list[str]:
        """Run what is not done yet, and return the names of the tasks that failed, or whose teacher did.

        Raises:
            SystemExit: After a signal, with 128 plus its number.
        """
        waiting = [task for task in tasks if read_state(self.folder, task) != "done"]
        total, undone = len(tasks), {task.name for task in waiting}
        if len(waiting) < total:
            print(f"{total - len(waiting)} of {total} runs are done already", flush=True)
        with self._signals_passed_on():
            while self._running or (waiting and not self._signal):
                for task in [task for task in waiting if task.after in self.failed]:
                    waiting.remove(task)
                    self._fail(task, f"its teacher {task.after} failed")
                ready = [task for task in waiting if task.after not in undone]
                for task in ready[: 0 if self._signal else self.jobs - len(self._running)]:
                    waiting.remove(task)
                    self._start(task)
                for ended in [each for each in self._running if each.process.poll() is not None]:
                    self._running.remove(ended)
                    if self._end(ended):
                        undone.discard(ended.task.name)
                        took = f"done in {time.monotonic() - ended.since:.0f} s"
                        print(f"{ended.task.name}: {took}, {total - len(undone)} of {total}", flush=True)
                time.sleep(0.05)
        if self._signal:
            raise SystemExit(128 + self._signal)
        return self.failed

    def _start(self, task: Task) -> None:
        write_state(self.folder, task, "begun")
        threads = str(max((os.cpu_count() or 1) // self.jobs, 1))
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        process = start([*self.command, *task.words], self.folder / task.name / LOG, environment)
        self._running.append(Running(task, process, time.monotonic()))
        print(f"{task.name}: begun", flush=True)

    def _end(self, ended: Running) -> bool:
        """Write down how a run has ended, and return whether it is done."""
        code, log = ended.process.poll(), self.folder / ended.task.name / LOG
        if code == 0:
            write_state(self.folder, ended.task, "done")
        elif not self._signal:
            self._fail(ended.task, f"exit code {code}; the end of {log}:\n{tail(log)}")
        return code == 0

    def _fail(self, task: Task, why: str) -> None:
        self.failed.append(task.name)
        print(f"{task.name}: failed: {why}", file=sys.stderr, flush=True)

    @contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        former = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signal = self._signal or number
        for each in self._running:
            if each.process.poll() is None:
                each.process.send_signal(number)


def start(command: Sequence[str], log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a process that writes into a log, in a session of its own: signals come from the sweep alone, and once."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def tail(log: Path, lines: int = TAIL) -> str:
    """Return the last lines of a log, without what would steer a terminal."""
    with log.open("rb") as file:
        file.seek(max(file.seek(0, 2) - 200 * lines, 0))
        text = file.read().decode(errors="replace")
    kept = [line.rpartition("\r")[2] for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"  {printable(line)}" for line in kept)
