"""LightningModules: training a teacher, distilling it."""

from realuid_lightning.modules.base import MatchingModule
from realuid_lightning.modules.realuid import RealUIDModule
from realuid_lightning.modules.teacher import TeacherModule
from realuid_lightning.networks.ema import EMA
from realuid_lightning.optimizers import LinearDecay, RecipeAdam, Warmup

__all__ = [
    "EMA",
    "LinearDecay",
    "MatchingModule",
    "RealUIDModule",
    "RecipeAdam",
    "TeacherModule",
    "Warmup",
]
