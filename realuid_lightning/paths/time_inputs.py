"""How networks are told the time: as ``t``, turned around, as a noise level ``sigma = b / a``, or as a step of DDPM."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.paths.schedules import Schedule, VPSchedule
from realuid_lightning.recorded import Recorded


class TimeInput(Recorded, ABC):
    """What a network is given for the time ``t`` of an affine path.

    Attributes:
        sigma_range: Least and greatest noise level that it can tell. A path leaves out the times of others, and those
            that would be told as something infinite.

    Example:
        >>> from realuid_lightning.paths import FlowMatchingPath, Velocity
        >>> path = FlowMatchingPath(parameterisation=Velocity(time=PathTime(1000.0)))
        >>> path.inputs(torch.tensor([0.25]), torch.zeros(1, 2))[0]
        tensor([250.])
    """

    sigma_range: tuple[float, float] = (0.0, math.inf)

    @abstractmethod
    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return what stands for ``t`` (any shape), shaped as it."""


class PathTime(TimeInput):
    """``scale t``, from 0 at the noise to ``scale`` at the data.

    Args:
        scale: Factor, above 0.

    Raises:
        UserError: If the factor is out of range.
    """

    def __init__(self, scale: float = 1.0) -> None:
        _check_scale(self, scale)
        self.scale = scale

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return what stands for ``t``."""
        del schedule
        return t if self.scale == 1 else self.scale * t


class ReversedTime(PathTime):
    """``scale (1 - t)``, from ``scale`` at the noise to 0 at the data: SD3 has ``ReversedTime(1000)``.

    Args:
        scale: Factor, above 0.

    Raises:
        UserError: If the factor is out of range.
    """

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return what stands for ``t``."""
        return super().__call__(1 - t, schedule)


class Sigma(TimeInput):
    """The noise level ``sigma`` itself."""

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return what stands for ``t``."""
        return schedule.sigma(t)


class LogSigma(TimeInput):
    """``scale log(sigma)``, by default a quarter as in EDM (arXiv 2206.00364, table 1).

    Args:
        scale: Factor, above 0.

    Raises:
        UserError: If the factor is out of range.
    """

    def __init__(self, scale: float = 0.25) -> None:
        _check_scale(self, scale)
        self.scale = scale

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return what stands for ``t``."""
        return self.scale * schedule.sigma(t).log()


class VPSteps(TimeInput):
    """Steps of the continuous variance-preserving diffusion, not rounded (EDM's ``VPPrecond``).

    Args:
        beta_min: Noise rate at the data end.
        beta_max: Noise rate at the source end (EDM's ``beta_min + beta_d``).
        steps: Number of steps of the original's training; the network is told times in [0, steps - 1].

    Raises:
        UserError: If arguments are out of range.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, steps: int = 1000) -> None:
        _check_steps(self, steps)
        self.diffusion, self.steps = VPSchedule(beta_min, beta_max), steps
        self.sigma_range = (0.0, self.diffusion.sigma_range[1])

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return what stands for ``t``."""
        return self.of(schedule.sigma(t))

    def of(self, sigma: Tensor) -> Tensor:
        """Return the step of a noise level."""
        return (self.steps - 1) * (1 - self.diffusion.time(sigma))


class DDPMSteps(TimeInput):
    """Steps of DDPM with linear ``beta``, counted from 0 at the data (arXiv 2006.11239, section 4), not rounded.

    Between two steps, time is interpolated in ``log sigma``; beyond the last ones it stays there.

    Args:
        beta_first: Variance added in the first step, above 0.
        beta_last: Variance added in the last one, below 1.
        steps: Number of steps.

    Raises:
        UserError: If arguments are out of range, listing all of them.

    Example:
        The greatest noise level of DDPM is 157; beyond it, the last step:

        >>> DDPMSteps().of(torch.tensor([0.01, 1.0, 157.0, 1e4])).round()
        tensor([  0., 258., 999., 999.])
    """

    def __init__(self, beta_first: float = 1e-4, beta_last: float = 0.02, steps: int = 1000) -> None:
        _check_steps(self, steps)
        faults = Faults(type(self).__name__)
        faults.unless(
            0 < beta_first <= beta_last < 1,
            f"beta_first and beta_last must be in (0, 1) in this order, got {beta_first} and {beta_last}",
        )
        faults.raise_any()
        self.beta_first, self.beta_last, self.steps = beta_first, beta_last, steps
        least, *_, greatest = self._log_sigma(torch.device("cpu")).exp().tolist()
        self.sigma_range = (least, greatest)

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return what stands for ``t``."""
        return self.of(schedule.sigma(t))

    def of(self, sigma: Tensor) -> Tensor:
        """Return the step of a noise level."""
        # Made anew each time: a path is no module, whose tensors would follow it from device to device.
        table = self._log_sigma(sigma.device)
        level = sigma.to(table.dtype).log()
        above = torch.searchsorted(table, level).clamp(1, self.steps - 1)
        low, high = table[above - 1], table[above]
        return (above - 1 + ((level - low) / (high - low)).clamp(0, 1)).to(sigma.dtype)

    def _log_sigma(self, device: torch.device) -> Tensor:
        """Return the logarithm of every step's noise level."""
        beta = torch.linspace(self.beta_first, self.beta_last, self.steps, dtype=torch.float64, device=device)
        return torch.expm1(-torch.log1p(-beta).cumsum(0)).log() / 2


def _check_scale(told: TimeInput, scale: float) -> None:
    faults = Faults(type(told).__name__)
    faults.finite(scale=scale)
    faults.unless(scale > 0, f"scale must be above 0, got {scale}")
    faults.raise_any()


def _check_steps(told: TimeInput, steps: int) -> None:
    faults = Faults(type(told).__name__)
    faults.unless(steps > 1, f"steps must be at least 2, got {steps}")
    faults.raise_any()
