"""Schedules of affine paths ``xt = a(t) x1 + b(t) x0`` as four coefficients."""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
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

    @property
    def wronskian(self) -> Tensor:
        """``b a' - a b'``: ``b`` times the velocity is it times ``x1``, and ``b'`` times ``xt`` besides."""
        return self.b * self.da - self.a * self.db


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
            "choose LinearSchedule, CosineSchedule, DDPMSchedule, KarrasSchedule, VPSchedule, or add a method time"
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
        a, b = torch.sin(math.pi / 2 * t), torch.sin(math.pi / 2 * (1 - t))  # the cosine of pi / 2 rounds below 0
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


class DDPMSchedule(Schedule):
    """A diffusion of discrete steps, as DDPM has it (arXiv 2006.11239, eq. 4): ``t`` is 1 at step 0, 0 at the last one.

    Between two steps, ``sigma = b / a`` is a straight line, and ``a^2 + b^2 = 1``. So ``ReversedTime(steps - 1)`` tells
    a network the step, and at whole steps all is as in training. The slope jumps at each, so ``Heun``, which follows
    slopes, is no better than a thousandth; ``Euler`` on a ``DiffusionPath`` (DDIM) and its losses have no use for them.

    Args:
        betas: Variance added in each step, in (0, 1), two steps or more; or how it grows: ``linear``; ``scaled_linear``
            in its root (Stable Diffusion); ``squaredcos_cap_v2``, a cosine (arXiv 2102.09672, eq. 17); ``sigmoid``.
            These are diffusers' names.
        beta_first: Variance of the first step, in (0, 1); the cosine has its own, as a list has.
        beta_last: Variance of the last step, likewise.
        steps: Number of steps, at least 2; of a list, its length counts.
        zero_snr: Move the last step to pure noise (arXiv 2305.08891, alg. 1), but for a millionth of the data, so that
            all is finite.

    Raises:
        UserError: If arguments are out of range, listing all of them.

    Example:
        The noise levels of DDPM's first and last step:

        >>> DDPMSchedule().sigma(torch.tensor([1.0, 0.0]))
        tensor([1.0000e-02, 1.5741e+02])
    """

    def __init__(
        self,
        betas: str | Sequence[float] = "linear",
        beta_first: float = 1e-4,
        beta_last: float = 0.02,
        steps: int = 1000,
        zero_snr: bool = False,
    ) -> None:
        faults = Faults("DDPMSchedule")
        known = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
        named, listed = isinstance(betas, str), [] if isinstance(betas, str) else list(betas)
        faults.unless(
            betas in known if named else len(listed) > 1 and all(0 < beta < 1 for beta in listed),
            f"betas must be one of {', '.join(known)}, or two numbers in (0, 1) or more, got {str(betas)[:80]}",
        )
        faults.unless(
            0 < beta_first <= beta_last < 1,
            f"beta_first and beta_last must be in (0, 1) in this order, got {beta_first} and {beta_last}",
        )
        faults.unless(steps > 1, f"steps must be at least 2, got {steps}")
        faults.raise_any()
        self.betas = betas
        self.beta_first, self.beta_last, self.zero_snr = beta_first, beta_last, zero_snr
        self.steps = steps if named else len(listed)

    def __call__(self, t: Tensor) -> Coefficients:
        """Return the coefficients at ``t``."""
        levels, step = self.levels(t.device), (1 - t.double()) * (self.steps - 1)
        below = step.detach().floor().long().clamp(0, self.steps - 2)
        slope = levels[below + 1] - levels[below]
        sigma = levels[below] + (step - below) * slope
        a = (1 + sigma**2).rsqrt()
        rise = -(self.steps - 1) * slope  # of sigma, by time
        values = (a, sigma * a, -sigma * a**3 * rise, a**3 * rise)
        return Coefficients(*(value.to(t.dtype) for value in values))

    def time(self, sigma: Tensor) -> Tensor:
        """Return where the straight lines reach ``sigma``; an end of them where they do not."""
        levels = self.levels(sigma.device)
        above = torch.searchsorted(levels, sigma.double()).clamp(1, self.steps - 1)
        low, high = levels[above - 1], levels[above]
        step = above - 1 + ((sigma - low) / (high - low)).clamp(0, 1)
        return (1 - step / (self.steps - 1)).to(sigma.dtype)

    def levels(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the noise level ``sigma`` of every step, ``(steps,)``, rising."""
        # Made anew each time: a path is no module, whose tensors would follow it from device to device.
        signal = (1 - self._betas(torch.device(device))).cumprod(0)  # a^2
        if self.zero_snr:
            root = signal.sqrt()
            root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
            signal = (root**2).clamp(min=1e-12)
        return ((1 - signal) / signal).sqrt()

    def _betas(self, device: torch.device) -> Tensor:
        if not isinstance(self.betas, str):
            return torch.tensor(list(self.betas), dtype=torch.float64, device=device)
        grow = functools.partial(torch.linspace, steps=self.steps, dtype=torch.float64, device=device)
        if self.betas == "linear":
            return grow(self.beta_first, self.beta_last)
        if self.betas == "scaled_linear":
            return grow(self.beta_first**0.5, self.beta_last**0.5) ** 2
        if self.betas == "sigmoid":
            return self.beta_first + grow(-6, 6).sigmoid() * (self.beta_last - self.beta_first)
        ends = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64, device=device)
        signal = ((ends + 0.008) / 1.008 * (math.pi / 2)).cos() ** 2
        return (1 - signal[1:] / signal[:-1]).clamp(max=0.999)


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
