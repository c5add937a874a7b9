"""Objectives: what both players of a distillation minimise, one object a method."""

from realuid_lightning.objectives.adversarial import GAN, Adversarial
from realuid_lightning.objectives.base import Objective
from realuid_lightning.objectives.corrected import Corrected
from realuid_lightning.objectives.d2o import D2O
from realuid_lightning.objectives.divergences import DMD, L2, Divergence, PseudoHuber, SiD, SquaredDistance
from realuid_lightning.objectives.game import Game, Point
from realuid_lightning.objectives.mixture import Mixture
from realuid_lightning.objectives.r1 import R1GAN
from realuid_lightning.objectives.realuid import RealUID
from realuid_lightning.objectives.sida import SiDAdversary
from realuid_lightning.objectives.sums import Sum

__all__ = [
    "D2O",
    "DMD",
    "GAN",
    "L2",
    "R1GAN",
    "Adversarial",
    "Corrected",
    "Divergence",
    "Game",
    "Mixture",
    "Objective",
    "Point",
    "PseudoHuber",
    "RealUID",
    "SiD",
    "SiDAdversary",
    "SquaredDistance",
    "Sum",
]
