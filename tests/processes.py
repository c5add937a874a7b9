"""Processes of their own for tests, forked from a server that has imported everything: they start in no time.

Importing torch and Lightning takes several seconds of processor time, more than most tests need. How the command line
starts and launches its processes itself is tested in cli/test_signals.py and distributed/test_failure.py.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

os.environ["OMP_NUM_THREADS"] = "1"  # for the server, whatever the tests were started with: as in `run`, below

# What the package imports only when it is needed, which it is by most processes.
ON_DEMAND = "realuid_lightning.strategies", "sklearn.datasets", "torch.utils.tensorboard"
IMPORTED = ["realuid_lightning.cli.training", *ON_DEMAND]


class Process:
    """``python SCRIPT WORDS`` in a group of its own, with what a test needs of ``subprocess.Popen``."""

    def __init__(self, script, words, environment, cwd=None, stdout=os.devnull, stderr=os.devnull):
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(IMPORTED)
        words, streams = list(map(str, words)), (str(stdout), str(stderr))
        self._process = server.Process(
            target=_become, args=(str(script), words, environment, str(cwd or Path.cwd()), streams)
        )
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self, seconds=None):
        self._process.join(seconds)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(str(self.pid), seconds)
        return self.poll()

    def send_signal(self, number):
        os.kill(self.pid, number)


def _become(script, words, environment, cwd, streams):
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # back to the default, instead of how this one was started
    for number, file in zip((1, 2), streams, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    threads = int(environment["OMP_NUM_THREADS"])  # which the server has read long before
    if threads != torch.get_num_threads():  # setting it makes a pool, which no further fork would survive
        torch.set_num_threads(threads)
    sys.argv = [script, *words]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


class Done(NamedTuple):
    """How processes have ended: the first exit code that is not 0, and what all of them wrote."""

    returncode: int
    stdout: str
    stderr: str


def ranks(count):
    """What tells each of ``count`` processes, in its environment, who it is and where all of them meet."""
    if count == 1:
        return [{}]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0", "WORLD_SIZE": str(count)}
    return [meeting | {"LOCAL_RANK": str(rank)} for rank in range(count)]


def run(script, *words, count=1, seconds=240, cwd=None, **environment):
    """Run ``python SCRIPT WORDS`` in as many processes, which Lightning takes for those of one node.

    All are killed after so many seconds, and soon after one of them has failed: others may wait for it for ever.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    with tempfile.TemporaryDirectory() as folder:
        files = [[Path(folder, f"{rank}.{name}") for name in ("out", "err")] for rank in range(count)]
        started = []
        try:
            for rank, streams in zip(ranks(count), files, strict=True):
                started.append(Process(script, words, environment | rank, cwd, *streams))
            codes = watch(started, time.monotonic() + seconds)
        finally:
            for process in started:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                process.wait()
        out, err = ("".join(file.read_text() for file in each if file.exists()) for each in zip(*files, strict=True))
    return Done(next(filter(None, codes), 0), out, err)


def watch(processes, end):
    """Wait until all have ended, or one has failed and the others do not follow, or it is time to end them."""
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        if any(process.poll() for process in processes):
            end = min(end, time.monotonic() + 10)
        time.sleep(0.02)
    return [-signal.SIGKILL if process.poll() is None else process.poll() for process in processes]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
