"""Flow matching: affine paths between Gaussian noise and data, with the velocity as target."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from realuid_lightning.errors import Faults, UserError
from realuid_lightning.paths.affine import AffinePath
from realuid_lightning.paths.conversions import denoised_from_velocity
from realuid_lightning.paths.parameterisations import Parameterisation
from realuid_lightning.paths.sample import Samples, Times, expand
from realuid_lightning.paths.schedules import Schedule
from realuid_lightning.paths.times import TimeLaw, Uniform
from realuid_lightning.paths.weights import TimeWeight

Time = TypeVar("Time", float, Tensor)


class FlowMatchingPath(AffinePath):
    """``xt = a x1 + b x0`` with target ``c = a' x1 + b' x0`` (arXiv 2210.02747; RealUID, arXiv 2509.22459, sec. 2).

    Args:
        schedule: The coefficients ``a`` and ``b``; linear when None.
        times: Law of the times of teacher and fake model; uniform when None.
        shift: Moves all times towards the noise, above 0, or towards the data, below 1: those of both laws, of
            solvers' steps, and of the levels that are not given (SD3, arXiv 2403.03206, eq. 23, with ``shift`` for its
            root of ``m / n``). There time is the share of the noise; here, where it is that of the data, the formula
            reads ``t / (t + shift (1 - t))``. On the linear schedule ``b / a`` becomes ``shift b / a``.
        generator_times: Law of the times of the generator's steps; ``times`` when None.
        levels: Times at which a generator calls its network, rising, one for each of its ``sampling_steps``; equal
            steps (shifted) from the source end when None.
        parameterisation: What the network predicts, and how it is told the time; the velocity and ``t`` when None.
            ``t_range`` leaves out the times that it cannot tell, and those at which ``a`` or ``b`` is below 0.001 where
            it divides by them.
        weighting: Weight ``w_t`` of all losses; 1 when None.

    Raises:
        UserError: If arguments are out of range or do not go together.

    Example:
        Times as in SD3, and a generator of two steps:

        >>> from realuid_lightning.paths import LogitNormal
        >>> path = FlowMatchingPath(times=LogitNormal(), shift=3.0, levels=[0.0, 0.4])
        >>> path.levels(2)
        [0.0, 0.4]
    """

    training = AffinePath.training | {"weighting"}
    tuning = AffinePath.tuning | training | {"shift"}

    def __init__(
        self,
        schedule: Schedule | None = None,
        times: TimeLaw | None = None,
        shift: float = 1.0,
        generator_times: TimeLaw | None = None,
        levels: Sequence[float] | None = None,
        parameterisation: Parameterisation | None = None,
        weighting: TimeWeight | None = None,
    ) -> None:
        super().__init__(schedule)
        self.times, self.shift, self.generator_times = times or Uniform(), shift, generator_times
        self.weighting = weighting
        faults = Faults(type(self).__name__)
        self._use_parameterisation(parameterisation, faults, above_zero=True)
        faults.finite(shift=shift)
        faults.unless(shift > 0, f"shift must be above 0, got {shift}")
        self._use_levels(levels, faults)
        faults.raise_any()
        self._refuse_wrong_laws()
        self._refuse_wrong_weights()

    def _refuse_wrong_weights(self) -> None:
        """Refuse weights that would silently train something else, such as a column, which weighs all by all."""
        if self.weighting is None:
            return
        t = self.sample_t(torch.arange(0.01, 1, 0.01, device="cpu"))
        found: Any = self.weighting(t, self.schedule)
        name = type(self.weighting).__name__
        if not isinstance(found, Tensor) or found.shape != t.shape:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
            raise UserError(f"{name}: weights of times of shape {tuple(t.shape)} must be a tensor like them, got {got}")
        if not bool((found > 0).all() and found.isfinite().all()):
            low, high = found.min().item(), found.max().item()
            raise UserError(f"{name}: weights must be finite and above 0 within t_range, got {low:.6g} to {high:.6g}")

    def _point(self, t: Tensor, x0: Tensor, x1: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        del eps
        a, b, da, db = self.schedule(t)
        return a * x1 + b * x0, da * x1 + db * x0

    def sample_t(self, u: Times) -> Times:
        """Map uniform draws in [0, 1) to the times of teacher and fake model by the law ``times``, shifted."""
        return self.shifted(super().sample_t(u))

    def generator_t(self, u: Times) -> Times:
        """Map uniform draws in [0, 1) to the times of the generator's steps by ``generator_times``, shifted."""
        return self.sample_t(u) if self.generator_times is None else self.shifted(super().generator_t(u))

    def weight(self, t: Times) -> Times | None:
        """Return the time weight by ``weighting``; None stands for 1."""
        return None if self.weighting is None else self.weighting(t, self.schedule)

    def shifted(self, t: Tensor) -> Tensor:
        """Return the times shifted within ``t_range``."""
        return self._shifted(t)

    def levels(self, steps: int) -> list[float]:
        """Return the times at which a generator of so many steps calls its network: own levels, or equal steps shifted.

        Raises:
            UserError: If ``steps`` does not divide the number of own levels.
        """
        levels = super().levels(steps)
        return levels if self.generator_steps is not None else [self._shifted(level) for level in levels]

    def _shifted(self, t: Time) -> Time:
        if self.shift == 1:
            return t
        start, end = self.t_range
        share = (t - start) / (end - start)
        return start + (end - start) * share / (share + self.shift * (1 - share))

    def output(self, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the velocity that the bare network's ``raw`` output stands for."""
        return self.parameterisation.velocity(self.schedule, t, xt, raw)

    def denoise(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Solve ``xt = a x1 + b x0``, ``prediction = a' x1 + b' x0`` for ``x1``; exact for the conditional target."""
        del x0
        return denoised_from_velocity(self.schedule(expand(t, xt)), xt, prediction)
