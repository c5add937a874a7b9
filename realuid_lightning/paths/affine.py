"""Affine paths between Gaussian noise and data, and what their predictions say of each other.

On ``xt = a x1 + b x0`` with ``x0 ~ N(0, I)``, the expected velocity, data end, noise end and score given ``xt`` are
affine in each other (stochastic interpolants, arXiv 2303.08797, section 5; EDM, arXiv 2206.00364, eq. 3). The functions
here go through the data end ``x1``; ``c`` are the coefficients at ``t``, shaped so that they broadcast.
"""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.paths.base import MatchingPath
from realuid_lightning.paths.sample import Samples, Times, expand
from realuid_lightning.paths.schedules import Coefficients, LinearSchedule, Schedule


def denoised_from_velocity(c: Coefficients, xt: Samples, velocity: Samples) -> Samples:
    """Return ``E[x1 | xt]`` from ``E[a' x1 + b' x0 | xt]``."""
    return (c.b * velocity - c.db * xt) / (c.b * c.da - c.a * c.db)


def velocity_from_denoised(c: Coefficients, xt: Samples, denoised: Samples) -> Samples:
    """Return ``E[a' x1 + b' x0 | xt]`` from ``E[x1 | xt]``; ``b`` must not be 0."""
    return c.da * denoised + c.db * noise_from_denoised(c, xt, denoised)


def denoised_from_noise(c: Coefficients, xt: Samples, noise: Samples) -> Samples:
    """Return ``E[x1 | xt]`` from ``E[x0 | xt]``; ``a`` must not be 0."""
    return (xt - c.b * noise) / c.a


def noise_from_denoised(c: Coefficients, xt: Samples, denoised: Samples) -> Samples:
    """Return ``E[x0 | xt]`` from ``E[x1 | xt]``; ``b`` must not be 0."""
    return (xt - c.a * denoised) / c.b


def denoised_from_score(c: Coefficients, xt: Samples, score: Samples) -> Samples:
    """Return ``E[x1 | xt]`` from the score ``grad log p_t(xt)`` (Tweedie's formula); ``a`` must not be 0."""
    return (xt + c.b**2 * score) / c.a


def score_from_denoised(c: Coefficients, xt: Samples, denoised: Samples) -> Samples:
    """Return the score ``grad log p_t(xt) = -E[x0 | xt] / b`` from ``E[x1 | xt]``; ``b`` must not be 0."""
    return -noise_from_denoised(c, xt, denoised) / c.b


class AffinePath(MatchingPath):
    """``xt = a x1 + b x0`` with Gaussian ``x0``: what flow matching and diffusion share.

    Args:
        schedule: The coefficients ``a`` and ``b``; linear when None.
    """

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
        """Describe this path by plain values, with the schedule that None stands for."""
        return with_schedule(super().recorded(), self.schedule)

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return ``a x1 + b x0``."""
        a, b, _, _ = self.schedule(t)
        return a * x1 + b * x0

    def signal_to_noise(self, t: Times) -> Times:
        """Return ``a^2 / b^2``."""
        a, b, _, _ = self.schedule(t)
        return (a / b) ** 2

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


def with_schedule(record: dict[str, Any], schedule: Schedule) -> dict[str, Any]:
    """Return a path's record with its schedule written out, so that equal paths have equal records."""
    return {**record, "init_args": {**record["init_args"], "schedule": schedule.recorded()}}
