"""Schedules of affine paths ``xt = a(t) x1 + b(t) x0`` as four coefficients."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.recorded import Recorded


class Coefficients(NamedTuple):
    """Schedule values at ``t``, each shaped as ``t``: ``a``, ``b`` and their time derivatives ``da``, ``db``."""

    a: Tensor
    b: Tensor
    da: Tensor
    db: Tensor


class Schedule(Recorded, ABC):
    """Coefficients of an affine path; ``a`` rises to 1 and ``b`` falls to 0 as ``t`` goes from 0 to 1.

    Attributes:
        t_range: Times at which all four coefficients are finite.
    """

    t_range: tuple[float, float] = (0.0, 1.0)

    @abstractmethod
    def __call__(self, t: Tensor) -> Coefficients:
        """Return the coefficients at ``t`` (any shape)."""


class LinearSchedule(Schedule):
    """``a = t``, ``b = 1 - t``: conditional optimal transport (flow matching, arXiv 2210.02747, eq. 20)."""

    def __call__(self, t: Tensor) -> Coefficients:
        """Return the coefficients at ``t``."""
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)


class CosineSchedule(Schedule):
    """``a = sin(pi t / 2)``, ``b = cos(pi t / 2)``: variance preserving for unit-variance data (arXiv 2303.08797)."""

    def __call__(self, t: Tensor) -> Coefficients:
        """Return the coefficients at ``t``."""
        a, b = torch.sin(math.pi / 2 * t), torch.cos(math.pi / 2 * t)
        return Coefficients(a, b, math.pi / 2 * b, -math.pi / 2 * a)


class VPSchedule(Schedule):
    """The variance-preserving diffusion with linear ``beta`` (arXiv 2011.13456, eq. 33), at diffusion time ``1 - t``.

    Args:
        beta_min: Noise rate at the data end, at least 0.
        beta_max: Noise rate at the source end, above ``beta_min``.
    """

    # The derivative of b is infinite at the data end; at 1 - 1e-4 the noise left over is a third of a percent.
    t_range = (0.0, 1 - 1e-4)

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        faults = Faults("VPSchedule")
        faults.unless(beta_min >= 0, f"beta_min must be at least 0, got {beta_min}")
        faults.unless(beta_max > beta_min, f"beta_max must be greater than beta_min = {beta_min}, got {beta_max}")
        faults.raise_any()
        self.beta_min = beta_min
        self.beta_max = beta_max

    def __call__(self, t: Tensor) -> Coefficients:
        """Return the coefficients at ``t``."""
        s = 1 - t
        slope = self.beta_max - self.beta_min
        log_a = -0.25 * slope * s**2 - 0.5 * self.beta_min * s
        a = log_a.exp()
        b = (-torch.expm1(2 * log_a)).sqrt()
        da = a * 0.5 * (slope * s + self.beta_min)
        return Coefficients(a, b, da, -a * da / b)
