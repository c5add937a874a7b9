"""Callbacks: distances, fidelity, diagnostics, pictures, files, progress, checkpoints, locks, signals, failures."""

from realuid_lightning.callbacks.checkpoint import RunCheckpoint
from realuid_lightning.callbacks.diagnostics import Diagnostics
from realuid_lightning.callbacks.failure import FailureNotice
from realuid_lightning.callbacks.fid import FIDCallback
from realuid_lightning.callbacks.fidelity import FidelityCallback
from realuid_lightning.callbacks.lock import RunLock
from realuid_lightning.callbacks.preemption import Preemption, Stopped
from realuid_lightning.callbacks.progress import MatchingProgressBar
from realuid_lightning.callbacks.samples import PredictionWriter, SampleGrid

__all__ = [
    "Diagnostics",
    "FIDCallback",
    "FailureNotice",
    "FidelityCallback",
    "MatchingProgressBar",
    "PredictionWriter",
    "Preemption",
    "RunCheckpoint",
    "RunLock",
    "SampleGrid",
    "Stopped",
]
