"""Stochastic interpolants: a deterministic interpolation of both ends, plus noise that vanishes there."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.paths.affine import with_schedule
from realuid_lightning.paths.base import MatchingPath
from realuid_lightning.paths.conversions import denoised_from_velocity
from realuid_lightning.paths.sample import Samples, Times, expand
from realuid_lightning.paths.schedules import Coefficients, LinearSchedule, Schedule

EDGE = 1e-3  # the noise may grow infinitely fast at both ends; at this distance 4% of it are left
START = 1e-5  # nearest to the source end
REVEALED = 0.05  # how much of x1, in units of the noise, xt may hold where sampling begins from noise alone


class InterpolantPath(MatchingPath):
    """``xt = a x1 + b x0 + gamma n`` with target ``a' x1 + b' x0 + gamma' n`` (arXiv 2303.08797, definition 1).

    Args:
        schedule: The interpolation: ``LinearSchedule`` (also when None), ``CosineSchedule`` (trigonometric), or
            ``EncoderDecoderSchedule``, which passes through pure noise at half time.
        gamma: The noise: ``sqrt``, ``sqrt(2 t (1-t))``; ``sin2``, ``sin(pi t)^2``; or ``none``.
        translates: Whether ``x0`` is a sample of a source domain, which the data must give; otherwise it is Gaussian.
            With gamma ``sqrt`` the network is shown ``x0`` beside ``xt``, and the ODE draws from the law of ``x1``
            given ``x0``. ``sin2`` and ``none`` grow more slowly than ``a``, so the two together would reveal ``x1``
            where sampling begins and knows nothing of it: there the network sees ``xt`` alone, and the ODE carries
            every ``x0`` to one ``x1``, the law of the source domain to that of the data.
        noise: Factor of gamma, above 0. At 1 the data are half hidden until late, which small networks learn poorly.

    Raises:
        UserError: If arguments are out of range or do not go together, listing all of them.

    Example:
        >>> from realuid_lightning.paths import CosineSchedule
        >>> trigonometric = InterpolantPath(CosineSchedule(), gamma="none")
        >>> trigonometric.noisy
        False
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
        faults.finite(noise=noise)
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
        self.gamma, self.noise, self.translates = gamma, noise, translates
        self.conditions = int(translates and gamma == "sqrt")
        start, end = self.schedule.t_range
        if gamma != "none":
            # The less noise, the nearer to the source must a path begin that is to start from noise alone.
            nearest = max(START, EDGE * min(1.0, noise) ** 2) if self.conditions else EDGE
            start, end = max(start, nearest), min(end, 1 - EDGE)
        self.t_range = (start, end)
        if self.conditions and noise > 0:
            holds, among = (float(of) for of in self._start())
            faults.unless(
                holds <= REVEALED * among,
                f"at the source end xt holds {holds:.2g} of x1 beside noise of {among:.2g}, too little to hide it from "
                "a network that is shown x0: choose LinearSchedule or CosineSchedule, more noise, or gamma 'none'",
            )
        faults.raise_any()

    # ------------------------------------------------------------------------------------------------- training

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return ``a x1 + b x0``."""
        a, b, _, _ = self.schedule(t)
        return a * x1 + b * x0

    def std(self, t: Tensor) -> Tensor:
        """Return ``gamma``."""
        return self._noise(t)[0]

    def signal_to_noise(self, t: Times) -> Times:
        """Return ``a^2 / (b^2 + gamma^2)``; ``(a / gamma)^2`` where the network sees ``x0``.

        Raises:
            UserError: If ``x0`` is of a source domain and not shown: its law need not be normal.
        """
        if self.translates and not self.conditions:
            return super().signal_to_noise(t)
        a, _, _, _ = self.schedule(t)
        spread = self.std(t) if self.translates else self._affine(t).b
        return (a / spread) ** 2

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

    def _start(self) -> tuple[Tensor, Tensor]:
        """Return ``a`` and ``gamma`` where sampling begins."""
        start = torch.tensor(self.t_range[0], dtype=torch.float64)
        return self.schedule(start).a, self.std(start)

    def _point(self, t: Tensor, x0: Tensor, x1: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        a, b, da, db = self.schedule(t)
        xt, target = a * x1 + b * x0, da * x1 + db * x0
        if eps is None:
            return xt, target
        gamma, slope = self._noise(t)
        return xt + gamma * eps, target + slope * eps

    def recorded(self) -> dict[str, Any]:
        """Describe this path by plain values, with the schedule that None stands for."""
        return with_schedule(super().recorded(), self.schedule, type(self))

    # -------------------------------------------------------------------------------------------------- sampling

    def inputs(
        self, t: Times, xt: Samples, x0: Samples | None = None, z: Samples | None = None
    ) -> tuple[Times, Float[Tensor, "b ..."]]:
        """Return ``t`` and ``xt``, joined by ``x0`` along the first dimension of a sample where the network sees it.

        Raises:
            ValueError: If ``x0`` is wanted and missing.
        """
        del z
        return (t, torch.cat([xt, self._known(x0)], 1)) if self.conditions else (t, xt)

    def denoise(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Turn the velocity into the conditional mean of ``x1``.

        With Gaussian ``x0`` both noises are one of variance ``b^2 + gamma^2``; it is zero before half time where the
        schedule has forgotten everything by then. A path whose network sees ``x0`` subtracts what is known of it first.
        Between two domains without that, ``sin2`` leaves one velocity three unknowns: what is returned is that mean
        at both ends, and holds some of the noise in between.
        """
        time = expand(t, xt)
        if self.conditions:
            (a, b, da, db), (gamma, slope), source = self.schedule(time), self._noise(time), self._known(x0)
            rest = Coefficients(a, gamma, da, slope)
            return denoised_from_velocity(rest, xt - b * source, prediction - db * source)
        c = self.schedule(time) if self.translates else self._affine(time)
        if not self.schedule.through_noise:
            return denoised_from_velocity(c, xt, prediction)
        share = c.wronskian
        return torch.where(share > 0, (c.b * prediction - c.db * xt) / share.clamp(min=1e-6), 0.0)

    @property
    def ode(self) -> Literal["any", "own steps"]:
        """Any solver; its own steps alone where the network sees ``x0``: there the velocity is singular."""
        return "own steps" if self.conditions else "any"

    def flow_step(self, t: Times, s: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Make Euler's step; where the network sees ``x0`` return the point at ``s`` of the same ends and noise."""
        if not self.conditions:
            return super().flow_step(t, s, xt, prediction, x0)
        now, then, source = expand(t, xt), expand(s, xt), self._known(x0)
        x1 = self.denoise(t, xt, prediction, source)
        return self.mean(then, source, x1) + self.std(then) / self.std(now) * (xt - self.mean(now, source, x1))

    def noised(self, t: Times, z: Samples, x1: Samples, x0: Samples | None = None) -> Samples:
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

    def _known(self, x0: Samples | None) -> Samples:
        if x0 is None:
            raise ValueError("InterpolantPath(translates=True) begins at a source-domain sample: pass x0")
        return x0
