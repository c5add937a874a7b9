"""Callbacks that evaluate: distances, fidelity, diagnostics, pictures, files of samples."""

from realuid_lightning.evaluation.diagnostics import Diagnostics
from realuid_lightning.evaluation.fid import FIDCallback
from realuid_lightning.evaluation.fidelity import FidelityCallback
from realuid_lightning.evaluation.grids import SampleGrid
from realuid_lightning.evaluation.times import TimeCurves
from realuid_lightning.evaluation.writer import PredictionWriter

__all__ = ["Diagnostics", "FIDCallback", "FidelityCallback", "PredictionWriter", "SampleGrid", "TimeCurves"]
