"""Callbacks of every run: checkpoints, locks, signals, failures, progress."""

from realuid_lightning.running.checkpoint import RunCheckpoint
from realuid_lightning.running.defaults import AtomicCheckpoints, default_callbacks
from realuid_lightning.running.failure import FailureNotice
from realuid_lightning.running.lock import RunLock
from realuid_lightning.running.preemption import Preemption, Stopped
from realuid_lightning.running.progress import MatchingProgressBar
from realuid_lightning.running.record import FitRecord

__all__ = [
    "AtomicCheckpoints",
    "FailureNotice",
    "FitRecord",
    "MatchingProgressBar",
    "Preemption",
    "RunCheckpoint",
    "RunLock",
    "Stopped",
    "default_callbacks",
]
