"""Affine paths between Gaussian noise and data: what flow matching and diffusion share."""

import inspect
import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from realuid_lightning.errors import Faults, UserError
from realuid_lightning.paths.base import MatchingPath
from realuid_lightning.paths.conversions import noise_from_denoised, score_from_denoised
from realuid_lightning.paths.parameterisations import Parameterisation, Velocity
from realuid_lightning.paths.sample import Samples, Times, expand
from realuid_lightning.paths.schedules import LinearSchedule, Schedule
from realuid_lightning.paths.times import TimeLaw, Uniform

EDGE = 1e-3  # least coefficient that a prediction is divided by

_LATER = frozenset({"times", "shift", "generator_times", "levels", "parameterisation", "weighting"})
"""Arguments that a record leaves out at their defaults, so that records of before there were any stay as they are."""


class AffinePath(MatchingPath):
    """``xt = a x1 + b x0`` with Gaussian ``x0``: what flow matching and diffusion share.

    Args:
        schedule: The coefficients ``a`` and ``b``; linear when None.

    Attributes:
        times: Law of the times of teacher and fake model.
        generator_times: Law of the times of the generator's steps; None stands for ``times``.
        parameterisation: What networks predict, and how they are told the time.
    """

    training = frozenset({"times", "generator_times"})
    tuning = training | {"levels"}
    times: TimeLaw = Uniform()
    generator_times: TimeLaw | None = None
    parameterisation: Parameterisation = Velocity()
    _levels: list[float] | None = None

    def __init__(self, schedule: Schedule | None = None) -> None:
        self.schedule = schedule if schedule is not None else LinearSchedule()
        self.t_range = self.schedule.t_range
        faults = Faults(type(self).__name__)
        faults.unless(
            not self.schedule.through_noise,
            f"{type(self.schedule).__name__} needs added noise at half time: use it with InterpolantPath",
        )
        faults.raise_any()

    def recorded(self) -> dict[str, Any]:
        """Describe this path by plain values, so that equal paths have equal records."""
        record = with_schedule(super().recorded(), self.schedule, type(self))
        usual = {name: each.default for name, each in inspect.signature(type(self).__init__).parameters.items()}
        arguments = record["init_args"]
        if self.parameterisation.recorded() == self._usual_parameterisation().recorded():
            arguments = {name: value for name, value in arguments.items() if name != "parameterisation"}
        kept = {name: value for name, value in arguments.items() if name not in _LATER or value != usual.get(name)}
        return {**record, "init_args": kept}

    def _refuse_wrong_laws(self) -> None:
        """Raise what a law raises that needs more than the schedule gives."""
        for draw in (self.sample_t, self.generator_t):
            draw(torch.full((1,), 0.5))

    def _usual_parameterisation(self) -> Parameterisation:
        """Return what networks predict when nothing is said."""
        return Velocity()

    # ------------------------------------------------------------------------------------------------- training

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return ``a x1 + b x0``."""
        a, b, _, _ = self.schedule(t)
        return a * x1 + b * x0

    def signal_to_noise(self, t: Times) -> Times:
        """Return ``a^2 / b^2``."""
        a, b, _, _ = self.schedule(t)
        return (a / b) ** 2

    def sample_t(self, u: Times) -> Times:
        """Map uniform draws in [0, 1) to the times of teacher and fake model by the law ``times``."""
        return self.times(u, self.schedule, self.t_range)

    def generator_t(self, u: Times) -> Times:
        """Map uniform draws in [0, 1) to the times of the generator's steps by the law ``generator_times``."""
        if self.generator_times is None:
            return self.sample_t(u)
        return self.generator_times(u, self.schedule, self.t_range)

    # ------------------------------------------------------------------------------------------------ prediction

    def inputs(
        self, t: Times, xt: Samples, x0: Samples | None = None, z: Samples | None = None
    ) -> tuple[Times, Samples]:
        """Return the time and the point that the bare network is given, as the parameterisation has it."""
        del x0, z
        return self.parameterisation.inputs(self.schedule, t, xt)

    # -------------------------------------------------------------------------------------------------- sampling

    @abstractmethod
    def denoise(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Turn the prediction into ``E[x1 | xt]``."""

    def score(self, t: Times, xt: Samples, prediction: Samples) -> Samples:
        """Turn the prediction into the score ``grad log p_t(xt)``."""
        return score_from_denoised(self.schedule(expand(t, xt)), xt, self.denoise(t, xt, prediction))

    def transition(self, t: Times, s: Times, xt: Samples, prediction: Samples, noise: Samples) -> Samples:
        """Draw ``xs`` from the reverse diffusion given the guess of ``x1`` (DDIM with eta = 1, arXiv 2010.02502).

        It leaves the marginals of ``xs`` given ``x1`` as they are; at the first time, where ``xt`` knows nothing of
        ``x1``, it draws fresh noise altogether.
        """
        now, then = self.schedule(expand(t, xt)), self.schedule(expand(s, xt))
        denoised = self.denoise(t, xt, prediction)
        # Share of the noise variance of xs that is new: 1 - (signal-to-noise now / then).
        fresh = 1 - (now.a * then.b / (then.a * now.b)) ** 2
        kept = (1 - fresh).sqrt() * noise_from_denoised(now, xt, denoised)
        return then.a * denoised + then.b * (kept + fresh.sqrt() * noise)

    def _use_parameterisation(self, chosen: Parameterisation | None, faults: Faults, above_zero: bool = False) -> None:
        """Let networks predict this, and leave out the times at which it says nothing; note it if none is left.

        Args:
            chosen: The parameterisation; None for the usual one, which says something everywhere.
            faults: Where to note.
            above_zero: Whether coefficients that it divides by must be at least ``EDGE``.
        """
        if chosen is None:
            return
        self.parameterisation, told = chosen, chosen.time
        t = torch.linspace(*self.schedule.t_range, 1001, dtype=torch.float64, device="cpu")
        c, (least, greatest) = self.schedule(t), told.sigma_range
        sound = told(t, self.schedule).isfinite() & (c.b / c.a >= least) & (c.b / c.a <= greatest)
        for name in chosen.divides_by if above_zero else ():
            sound &= getattr(c, name) >= EDGE
        left = t[sound].tolist()
        faults.unless(
            len(left) > 1,
            f"{type(chosen).__name__} tells no time of {type(self.schedule).__name__}, whose noise levels are "
            f"{c.b[-1] / c.a[-1]:.3g} to {c.b[0] / c.a[0]:.3g}: its own are {least:.3g} to {greatest:.3g}",
        )
        if 1 < len(left) < len(t):
            self.t_range = (left[0], left[-1])

    # ---------------------------------------------------------------------------------------------------- levels

    def _use_levels(self, levels: Sequence[float] | None, faults: Faults) -> None:
        """Let a generator call its network at these times; note what is wrong with them."""
        if levels is None:
            return
        start, end = self.t_range
        rising = len(levels) > 0 and all(now < then for now, then in pairwise(levels))
        faults.unless(
            rising and all(map(math.isfinite, levels)) and start <= levels[0] and levels[-1] < end,
            f"levels must rise within t_range, from {start:.6g} to below {end:.6g}, got {list(levels)}",
        )
        self._levels = [float(level) for level in levels]

    @property
    def generator_steps(self) -> int | None:
        """Number of own levels, None without any."""
        return None if self._levels is None else len(self._levels)

    @property
    def generator_start(self) -> float:
        """Time at which the one-step generator calls its network: the first own level, or the source end."""
        return super().generator_start if self._levels is None else self._levels[0]

    def levels(self, steps: int) -> list[float]:
        """Return the times at which a generator of so many steps calls its network, first to last.

        Of own levels, fewer steps take every second, third, ...

        Raises:
            UserError: If ``steps`` does not divide the number of own levels.
        """
        if self._levels is None:
            return super().levels(steps)
        if steps < 1 or len(self._levels) % steps:
            raise UserError(
                f"{type(self).__name__}: levels names {len(self._levels)} times, one a step, but sampling_steps is "
                f"{steps}: set it to that number (evaluation may take one that divides it), or name other levels"
            )
        return self._levels[:: len(self._levels) // steps]


def with_schedule(record: dict[str, Any], schedule: Schedule, kind: type[MatchingPath]) -> dict[str, Any]:
    """Return a path's record with its schedule written out, so that equal paths have equal records.

    A subclass that chooses its schedule itself, and so is built without one, keeps its record.
    """
    parameters = inspect.signature(kind.__init__).parameters
    if "schedule" not in parameters and all(each.kind is not each.VAR_KEYWORD for each in parameters.values()):
        return record
    return {**record, "init_args": {**record["init_args"], "schedule": schedule.recorded()}}
