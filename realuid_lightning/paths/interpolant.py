"""Stochastic interpolants: a deterministic interpolation of both ends, plus noise that vanishes there."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.paths.affine import denoised_from_velocity
from realuid_lightning.paths.base import MatchingPath, expand
from realuid_lightning.paths.schedules import Coefficients, LinearSchedule, Schedule

Batch = Float[Tensor, "b *d"]
Times = Float[Tensor, " b"]

EDGE = 1e-3  # the noise may grow infinitely fast at both ends; at this distance 4% of it are left


class InterpolantPath(MatchingPath):
    """``xt = a x1 + b x0 + gamma n`` with target ``a' x1 + b' x0 + gamma' n`` (arXiv 2303.08797, definition 1).

    Args:
        schedule: The interpolation: ``LinearSchedule`` (also when None), ``CosineSchedule`` (trigonometric), or
            ``EncoderDecoderSchedule``, which passes through pure noise at half time.
        gamma: The noise: ``sqrt``, ``sqrt(2 t (1-t))``; ``sin2``, ``sin(pi t)^2``; or ``none``.
        translates: Whether ``x0`` is a sample of a source domain, which the data must give; otherwise it is Gaussian.
        noise: Factor of gamma, above 0. At 1 the data are half hidden until late, which small networks learn poorly.

    Raises:
        UserError: If arguments are out of range or do not go together, listing all of them.
    """

    def __init__(
        self,
        schedule: Schedule | None = None,
        gamma: Literal["sqrt", "sin2", "none"] = "sqrt",
        translates: bool = False,
        noise: float = 1.0,
    ) -> None:
        self.schedule = schedule if schedule is not None else LinearSchedule()
        faults = Faults("InterpolantPath")
        faults.unless(gamma in ("sqrt", "sin2", "none"), f"gamma must be 'sqrt', 'sin2' or 'none', got {gamma!r}")
        faults.unless(noise > 0, f"noise must be above 0 (gamma 'none' switches it off), got {noise}")
        faults.unless(
            gamma != "none" or not self.schedule.through_noise,
            f"{type(self.schedule).__name__} is zero at half time, where gamma 'none' leaves nothing: choose 'sin2'",
        )
        faults.unless(
            not translates or not self.schedule.through_noise,
            f"{type(self.schedule).__name__} forgets x0 at half time, so the generator could not translate it: set "
            "translates to false or choose another schedule",
        )
        faults.raise_any()
        self.gamma, self.noise, self.translates = gamma, noise, translates
        start, end = self.schedule.t_range
        self.t_range = (start, end) if gamma == "none" else (max(start, EDGE), min(end, 1 - EDGE))

    # ------------------------------------------------------------------------------------------------- training

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return ``a x1 + b x0``."""
        a, b, _, _ = self.schedule(t)
        return a * x1 + b * x0

    def std(self, t: Tensor) -> Tensor:
        """Return ``gamma``."""
        return self._noise(t)[0]

    @property
    def noisy(self) -> bool:
        """Whether there is any noise."""
        return self.gamma != "none"

    def _noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``gamma`` and its time derivative."""
        if self.gamma == "sqrt":
            root = (2 * t * (1 - t)).sqrt()
            return self.noise * root, self.noise * (1 - 2 * t) / root
        if self.gamma == "sin2":
            return self.noise * torch.sin(math.pi * t) ** 2, self.noise * math.pi * torch.sin(2 * math.pi * t)
        return torch.zeros_like(t), torch.zeros_like(t)

    def _point(self, t: Tensor, x0: Tensor, x1: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        a, b, da, db = self.schedule(t)
        xt, target = a * x1 + b * x0, da * x1 + db * x0
        if eps is None:
            return xt, target
        gamma, slope = self._noise(t)
        return xt + gamma * eps, target + slope * eps

    # -------------------------------------------------------------------------------------------------- sampling

    def denoise(self, t: Times, xt: Batch, prediction: Batch, x0: Batch | None = None) -> Batch:
        """Turn the velocity into a guess of ``x1``.

        With Gaussian ``x0`` both noises are one of variance ``b^2 + gamma^2``, and the guess is the conditional mean,
        or zero before half time where the schedule has forgotten everything by then. Between two domains the velocity
        alone does not tell it: the guess is that without the noise ``gamma``.
        """
        del x0
        c = self.schedule(expand(t, xt)) if self.translates else self._affine(expand(t, xt))
        if not self.schedule.through_noise:
            return denoised_from_velocity(c, xt, prediction)
        share = c.b * c.da - c.a * c.db
        return torch.where(share > 0, (c.b * prediction - c.db * xt) / share.clamp(min=1e-6), 0.0)

    def noised(self, t: Times, z: Batch, x1: Batch, x0: Batch | None = None) -> Batch:
        """Return ``a x1`` with all noise of the path from ``z``; between two domains ``a x1 + b x0 + gamma z``."""
        time = expand(t, z)
        if x0 is not None:
            return self.mean(time, x0, x1) + self.std(time) * z
        a, spread, _, _ = self._affine(time)
        return a * x1 + spread * z

    @property
    def generator_start(self) -> float:
        """The source end, or a little past the pure noise at half time."""
        return 0.55 if self.schedule.through_noise else self.t_range[0]

    def _affine(self, t: Tensor) -> Coefficients:
        """Return the coefficients of the affine path of the same marginals, for Gaussian ``x0``."""
        a, b, da, db = self.schedule(t)
        if self.gamma == "none":
            return Coefficients(a, b, da, db)
        gamma, slope = self._noise(t)
        spread = (b**2 + gamma**2).sqrt()
        return Coefficients(a, spread, da, (b * db + gamma * slope) / spread)
