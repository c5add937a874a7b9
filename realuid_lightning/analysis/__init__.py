"""Closed forms that say what the objective does, and the same by training."""

from realuid_lightning.analysis.gaussian import (
    Normal,
    best_fake,
    best_generator,
    is_bounded,
    realuid_value,
    velocity,
)
from realuid_lightning.analysis.laboratory import Problem, train_generators

__all__ = [
    "Normal",
    "Problem",
    "best_fake",
    "best_generator",
    "is_bounded",
    "realuid_value",
    "train_generators",
    "velocity",
]
