"""Matching frameworks: what connects real samples with their sources, and what a network predicts on the way."""

from realuid_lightning.paths.affine import AffinePath
from realuid_lightning.paths.base import MatchingPath
from realuid_lightning.paths.bridge import BridgePath
from realuid_lightning.paths.diffusion import DiffusionPath
from realuid_lightning.paths.flow import FlowMatchingPath
from realuid_lightning.paths.interpolant import InterpolantPath
from realuid_lightning.paths.parameterisations import (
    EDM,
    Data,
    Noise,
    Parameterisation,
    ReversedVelocity,
    Velocity,
    VPrediction,
)
from realuid_lightning.paths.sample import Network, PathSample, expand
from realuid_lightning.paths.scheduler_configs import path_of_scheduler
from realuid_lightning.paths.schedules import (
    Coefficients,
    CosineSchedule,
    DDPMSchedule,
    EncoderDecoderSchedule,
    KarrasSchedule,
    LinearSchedule,
    Schedule,
    VPSchedule,
)
from realuid_lightning.paths.time_inputs import (
    DDPMSteps,
    LogSigma,
    PathTime,
    ReversedTime,
    Sigma,
    TimeInput,
    VPSteps,
)
from realuid_lightning.paths.times import KarrasSigma, LogitNormal, LogNormalSigma, TimeLaw, Uniform
from realuid_lightning.paths.weights import NoiseWeight, TimeWeight

__all__ = [
    "EDM",
    "AffinePath",
    "BridgePath",
    "Coefficients",
    "CosineSchedule",
    "DDPMSchedule",
    "DDPMSteps",
    "Data",
    "DiffusionPath",
    "EncoderDecoderSchedule",
    "FlowMatchingPath",
    "InterpolantPath",
    "KarrasSchedule",
    "KarrasSigma",
    "LinearSchedule",
    "LogNormalSigma",
    "LogSigma",
    "LogitNormal",
    "MatchingPath",
    "Network",
    "Noise",
    "NoiseWeight",
    "Parameterisation",
    "PathSample",
    "PathTime",
    "ReversedTime",
    "ReversedVelocity",
    "Schedule",
    "Sigma",
    "TimeInput",
    "TimeLaw",
    "TimeWeight",
    "Uniform",
    "VPSchedule",
    "VPSteps",
    "VPrediction",
    "Velocity",
    "expand",
    "path_of_scheduler",
]
