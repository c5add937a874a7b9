"""What networks predict on an affine path ``xt = a x1 + b x0``, beside the target that losses speak of.

A path's losses and solvers are in its own units, the velocity or the denoised sample. A network may predict something
else that says the same of ``E[x1 | xt]``: its path turns the output into its own target.
"""

from abc import ABC, abstractmethod
from typing import Any

from realuid_lightning.errors import Faults
from realuid_lightning.paths.conversions import (
    denoised_from_noise,
    denoised_from_velocity,
    velocity_from_denoised,
    velocity_from_noise,
)
from realuid_lightning.paths.sample import Samples, Times, expand
from realuid_lightning.paths.schedules import Schedule
from realuid_lightning.paths.time_inputs import LogSigma, PathTime, ReversedTime, TimeInput
from realuid_lightning.recorded import Recorded


class Parameterisation(Recorded, ABC):
    """What a network is shown, and what its output says; a subclass needs ``denoised`` alone.

    Args:
        time: How the network is told the time; ``PathTime``, ``t`` itself, when None.
        unit_variance: Show the network ``xt / sqrt(a^2 + b^2)``, as networks of variance-preserving diffusion expect
            it; else ``xt`` itself.

    Attributes:
        divides_by: Coefficients, ``"a"`` and ``"b"``, that the velocity is divided by; ``FlowMatchingPath`` leaves out
            the times at which they are nearly 0.

    Example:
        A network that was trained to predict the noise in 1000 steps of DDPM, as the teacher of a flow:

        >>> from realuid_lightning.paths import DDPMSteps, FlowMatchingPath, VPSchedule
        >>> path = FlowMatchingPath(VPSchedule(), parameterisation=Noise(time=DDPMSteps()))
    """

    divides_by: frozenset[str] = frozenset()

    def __init__(self, time: TimeInput | None = None, unit_variance: bool = False) -> None:
        self.time = time if time is not None else PathTime()
        self.unit_variance = unit_variance

    def recorded(self) -> dict[str, Any]:
        """Describe this by plain values, with the time that None stands for."""
        record = super().recorded()
        told = {"time": self.time.recorded()} if "time" in record["init_args"] else {}
        return {**record, "init_args": {**record["init_args"], **told}}

    def inputs(self, schedule: Schedule, t: Times, xt: Samples) -> tuple[Times, Samples]:
        """Return the time and the point that the bare network is given."""
        if self.unit_variance:
            a, b, _, _ = schedule(expand(t, xt))
            xt = xt / (a**2 + b**2).sqrt()
        return self.time(t, schedule), xt

    @abstractmethod
    def denoised(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the ``E[x1 | xt]`` that the bare network's output stands for."""

    def velocity(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the ``E[a' x1 + b' x0 | xt]`` that the bare network's output stands for."""
        return velocity_from_denoised(schedule(expand(t, xt)), xt, self.denoised(schedule, t, xt, raw))


class Velocity(Parameterisation):
    """``a' x1 + b' x0``: flow matching (arXiv 2210.02747)."""

    def denoised(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the ``E[x1 | xt]`` that the output stands for."""
        return denoised_from_velocity(schedule(expand(t, xt)), xt, raw)

    def velocity(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the output itself."""
        del schedule, t, xt
        return raw


class ReversedVelocity(Velocity):
    """``-(a' x1 + b' x0)``, on the linear schedule ``x0 - x1``: the velocity in a time from data to noise, as in SD3.

    Args:
        time: How the network is told the time; ``ReversedTime``, ``1 - t``, when None.
        unit_variance: Show the network ``xt / sqrt(a^2 + b^2)``.

    Example:
        >>> from realuid_lightning.paths import FlowMatchingPath
        >>> sd3 = FlowMatchingPath(shift=3.0, parameterisation=ReversedVelocity(time=ReversedTime(1000.0)))
    """

    def __init__(self, time: TimeInput | None = None, unit_variance: bool = False) -> None:
        super().__init__(time if time is not None else ReversedTime(), unit_variance)

    def denoised(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the ``E[x1 | xt]`` that the output stands for."""
        return super().denoised(schedule, t, xt, -raw)

    def velocity(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the negative output."""
        return super().velocity(schedule, t, xt, -raw)


class Noise(Parameterisation):
    """The noise ``x0`` (DDPM, arXiv 2006.11239, eq. 14).

    It says nothing of ``x1`` where ``a`` is 0, and little where ``a`` is small: there an error of the network counts
    ``b / a``-fold in ``x1``. So a one-step generator had better begin later (``levels``, ``generator_sigma``), and flow
    matching on the linear schedule, whose loss weighs that error by ``1 / a^2``, had better take ``times`` that rarely
    come near the noise; the variance-preserving schedule, whose ``a'`` is small with ``a``, needs no such care.

    Example:
        >>> from realuid_lightning.paths import DDPMSteps, DiffusionPath, VPSchedule
        >>> ddpm = DiffusionPath(VPSchedule(), parameterisation=Noise(time=DDPMSteps()))
    """

    divides_by = frozenset("a")

    def denoised(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the ``E[x1 | xt]`` that the output stands for."""
        return denoised_from_noise(schedule(expand(t, xt)), xt, raw)

    def velocity(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the velocity that the output stands for."""
        return velocity_from_noise(schedule(expand(t, xt)), xt, raw)


class Data(Parameterisation):
    """The denoised sample ``x1``.

    It says nothing of the velocity where ``b`` is 0, and an error of the network counts ``1 / b``-fold near there: a
    law of ``times`` that rarely draws such times, as ``LogitNormal(-0.8, 0.8)``, keeps flow matching steady.
    """

    divides_by = frozenset("b")

    def denoised(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the output itself."""
        del schedule, t, xt
        return raw


class VPrediction(Parameterisation):
    """``v = (a x0 - b x1) / sqrt(a^2 + b^2)``, which is finite in every use (arXiv 2202.00512, section 4 and app. D).

    There ``a^2 + b^2`` is 1; divided by its root this is the same network on every schedule, at the same noise level.
    """

    def denoised(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the ``E[x1 | xt]`` that the output stands for."""
        a, b, _, _ = schedule(expand(t, xt))
        total = a**2 + b**2
        return a / total * xt - b / total.sqrt() * raw

    def velocity(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the velocity that the output stands for."""
        a, b, da, db = schedule(expand(t, xt))
        total = a**2 + b**2
        return (a * da + b * db) / total * xt - (b * da - a * db) / total.sqrt() * raw


class EDM(Parameterisation):
    """EDM's preconditioning ``D = c_skip x + c_out F(c_in x; log(sigma) / 4)``, ``x = xt / a`` (2206.00364, table 1).

    Args:
        sigma_data: Standard deviation of the data, above 0. At 1 the network predicts ``-v`` of ``VPrediction``.

    Raises:
        UserError: If it is out of range.
    """

    divides_by = frozenset("ab")

    def __init__(self, sigma_data: float = 0.5) -> None:
        super().__init__(LogSigma())
        faults = Faults("EDM")
        faults.finite(sigma_data=sigma_data)
        faults.unless(sigma_data > 0, f"sigma_data must be above 0, got {sigma_data}")
        faults.raise_any()
        self.sigma_data = sigma_data

    def inputs(self, schedule: Schedule, t: Times, xt: Samples) -> tuple[Times, Samples]:
        """Return ``log(sigma) / 4`` and the point, scaled to unit variance."""
        a, b, _, _ = schedule(t)
        scale = 1 / (a * ((b / a) ** 2 + self.sigma_data**2).sqrt())
        return (b / a).log() / 4, expand(scale, xt) * xt

    def denoised(self, schedule: Schedule, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return ``D = c_skip xt / a + c_out raw``."""
        a, b, _, _ = schedule(expand(t, xt))
        sigma, total = b / a, (b / a) ** 2 + self.sigma_data**2
        return self.sigma_data**2 / (total * a) * xt + sigma * self.sigma_data / total.sqrt() * raw
