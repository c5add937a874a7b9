"""Schedules of affine paths ``xt = a(t) x1 + b(t) x0`` as four coefficients."""

import functools
import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from realuid_lightning.errors import Faults, UserError
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
        through_noise: Whether both ``a`` and ``b`` are 0 at half time, where only added noise is left.
    """

    t_range: tuple[float, float] = (0.0, 1.0)
    through_noise: bool = False

    @abstractmethod
    def __call__(self, t: Tensor) -> Coefficients:
        """Return the coefficients at ``t`` (any shape)."""

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level ``b / a`` at ``t`` (any shape); infinite where ``a`` is 0."""
        a, b, _, _ = self(t)
        return b / a

    @functools.cached_property
    def sigma_range(self) -> tuple[float, float]:
        """Least and greatest noise level of ``t_range``."""
        greatest, least = self.sigma(torch.tensor(self.t_range, dtype=torch.float64, device="cpu")).tolist()
        return least, greatest

    def time(self, sigma: Tensor) -> Tensor:
        """Return the time at which the noise level ``b / a`` is ``sigma`` (any shape, at least 0).

        Raises:
            UserError: If there is no such function, as here.
        """
        del sigma
        raise UserError(
            f"{type(self).__name__} gives no time of a noise level, which DiffusionPath and laws of noise levels need: "
            "choose LinearSchedule, CosineSchedule, KarrasSchedule, VPSchedule, or add a method time"
        )


class LinearSchedule(Schedule):
    """``a = t``, ``b = 1 - t``: conditional optimal transport (flow matching, arXiv 2210.02747, eq. 20).

    Example:
        >>> a, b, *_ = LinearSchedule()(torch.tensor(0.25))
        >>> a, b
        (tensor(0.2500), tensor(0.7500))
    """

    def __call__(self, t: Tensor) -> Coefficients:
        """Return the coefficients at ``t``."""
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)

    def time(self, sigma: Tensor) -> Tensor:
        """Solve ``(1 - t) / t = sigma``."""
        return 1 / (1 + sigma)


class CosineSchedule(Schedule):
    """``a = sin(pi t / 2)``, ``b = cos(pi t / 2)``: variance preserving for unit-variance data (arXiv 2303.08797).

    Example:
        >>> a, b, *_ = CosineSchedule()(torch.tensor(0.5))
        >>> torch.isclose(a**2 + b**2, torch.tensor(1.0))
        tensor(True)
    """

    def __call__(self, t: Tensor) -> Coefficients:
        """Return the coefficients at ``t``."""
        a, b = torch.sin(math.pi / 2 * t), torch.cos(math.pi / 2 * t)
        return Coefficients(a, b, math.pi / 2 * b, -math.pi / 2 * a)

    def time(self, sigma: Tensor) -> Tensor:
        """Solve ``cot(pi t / 2) = sigma``."""
        return 2 / math.pi * torch.atan2(torch.ones_like(sigma), sigma)


class VPSchedule(Schedule):
    """The variance-preserving diffusion with linear ``beta`` (arXiv 2011.13456, eq. 33), at diffusion time ``1 - t``.

    Args:
        beta_min: Noise rate at the data end, at least 0.
        beta_max: Noise rate at the source end, above ``beta_min``.

    Example:
        >>> a, b, *_ = VPSchedule()(torch.tensor(0.5))
        >>> torch.isclose(a**2 + b**2, torch.tensor(1.0))
        tensor(True)
    """

    # The derivative of b is infinite at the data end; at 1 - 1e-4 the noise left over is a third of a percent.
    t_range = (0.0, 1 - 1e-4)

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        faults = Faults("VPSchedule")
        faults.finite(beta_min=beta_min, beta_max=beta_max)
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

    def time(self, sigma: Tensor) -> Tensor:
        """Solve ``1 / a^2 - 1 = sigma^2``, a quadratic equation in ``1 - t``."""
        slope, twice_rate = self.beta_max - self.beta_min, 2 * torch.log1p(sigma**2)
        # The root in its stable form: the textbook one loses all digits at small sigma.
        s = twice_rate / ((self.beta_min**2 + slope * twice_rate).sqrt() + self.beta_min)
        return 1 - s


class KarrasSchedule(Schedule):
    """``a = 1``, ``b = sigma``: the variance-exploding diffusion whose equal time steps are those of EDM's sampler.

    ``sigma = (sigma_max^(1/rho) + t (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho`` (EDM, arXiv 2206.00364, eq. 5).

    Args:
        sigma_min: Noise level at the data end, above 0.
        sigma_max: Noise level at the source end, above ``sigma_min``; the data should be lost in it.
        rho: Curvature, at least 1.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        faults = Faults("KarrasSchedule")
        faults.finite(sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
        faults.unless(sigma_min > 0, f"sigma_min must be above 0, got {sigma_min}")
        faults.unless(sigma_max > sigma_min, f"sigma_max must be greater than sigma_min = {sigma_min}, got {sigma_max}")
        faults.unless(rho >= 1, f"rho must be at least 1, got {rho}")
        faults.raise_any()
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho

    def __call__(self, t: Tensor) -> Coefficients:
        """Return the coefficients at ``t``."""
        start, end = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        root = start + t * (end - start)
        slope = self.rho * root ** (self.rho - 1) * (end - start)
        return Coefficients(torch.ones_like(t), root**self.rho, torch.zeros_like(t), slope)

    def time(self, sigma: Tensor) -> Tensor:
        """Solve ``b = sigma``."""
        start, end = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        time: Tensor = (start - sigma ** (1 / self.rho)) / (start - end)
        return time


class EncoderDecoderSchedule(Schedule):
    """``a = cos(pi t)^2`` after half time and 0 before, ``b`` likewise before: for interpolants with noise.

    Source samples are carried into pure noise, and that into data (arXiv 2303.08797, section 4).
    """

    through_noise = True

    def __call__(self, t: Tensor) -> Coefficients:
        """Return the coefficients at ``t``."""
        value, slope = torch.cos(math.pi * t) ** 2, -math.pi * torch.sin(2 * math.pi * t)
        late, early = (t > 0.5).to(t.dtype), (t <= 0.5).to(t.dtype)
        return Coefficients(late * value, early * value, late * slope, early * slope)
