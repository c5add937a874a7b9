"""Matching frameworks: what connects real samples with their sources, and what a network predicts on the way."""

from realuid_lightning.paths.base import MatchingPath, Network, PathSample, expand
from realuid_lightning.paths.flow import FlowMatchingPath
from realuid_lightning.paths.schedules import Coefficients, CosineSchedule, LinearSchedule, Schedule, VPSchedule

__all__ = [
    "Coefficients",
    "CosineSchedule",
    "FlowMatchingPath",
    "LinearSchedule",
    "MatchingPath",
    "Network",
    "PathSample",
    "Schedule",
    "VPSchedule",
    "expand",
]
