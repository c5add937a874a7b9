"""Callbacks: distances, fidelity, pictures, files, progress, checkpoints."""

from realuid_lightning.callbacks.checkpoint import RunCheckpoint
from realuid_lightning.callbacks.fid import FIDCallback
from realuid_lightning.callbacks.fidelity import FidelityCallback
from realuid_lightning.callbacks.progress import MatchingProgressBar
from realuid_lightning.callbacks.samples import PredictionWriter, SampleGrid

__all__ = ["FIDCallback", "FidelityCallback", "MatchingProgressBar", "PredictionWriter", "RunCheckpoint", "SampleGrid"]
