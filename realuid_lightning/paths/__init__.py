"""Matching frameworks: what connects real samples with their sources, and what a network predicts on the way."""

from realuid_lightning.paths.affine import AffinePath
from realuid_lightning.paths.base import MatchingPath
from realuid_lightning.paths.bridge import BridgePath
from realuid_lightning.paths.diffusion import DiffusionPath
from realuid_lightning.paths.flow import FlowMatchingPath
from realuid_lightning.paths.interpolant import InterpolantPath
from realuid_lightning.paths.sample import Network, PathSample, expand
from realuid_lightning.paths.schedules import (
    Coefficients,
    CosineSchedule,
    EncoderDecoderSchedule,
    KarrasSchedule,
    LinearSchedule,
    Schedule,
    VPSchedule,
)

__all__ = [
    "AffinePath",
    "BridgePath",
    "Coefficients",
    "CosineSchedule",
    "DiffusionPath",
    "EncoderDecoderSchedule",
    "FlowMatchingPath",
    "InterpolantPath",
    "KarrasSchedule",
    "LinearSchedule",
    "MatchingPath",
    "Network",
    "PathSample",
    "Schedule",
    "VPSchedule",
    "expand",
]
