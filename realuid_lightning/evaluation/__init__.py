"""Callbacks that evaluate: figures, fidelity, diagnostics, curves over time, pictures, files of samples."""

from realuid_lightning.evaluation.base import SamplerCallback
from realuid_lightning.evaluation.diagnostics import Diagnostics
from realuid_lightning.evaluation.fidelity import FidelityCallback
from realuid_lightning.evaluation.grids import SampleGrid
from realuid_lightning.evaluation.metrics import FIDCallback, MetricsCallback
from realuid_lightning.evaluation.times import TimeCurves
from realuid_lightning.evaluation.writer import PredictionWriter

__all__ = [
    "Diagnostics",
    "FIDCallback",
    "FidelityCallback",
    "MetricsCallback",
    "PredictionWriter",
    "SampleGrid",
    "SamplerCallback",
    "TimeCurves",
]
