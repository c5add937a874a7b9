"""The signals that stop a run."""

import signal

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
"""What stops a run. Where processes have received different ones, the last of these counts."""


def ignore_stop_signals(worker: int) -> None:
    """Let a loader's process serve until its master has made its step: SLURM and Ctrl-C signal all of them at once.

    Args:
        worker: Number of the loader's process.
    """
    del worker
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
