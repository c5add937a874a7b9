"""Laws of times: at which ``t`` teacher, fake model and generator train, as functions of uniform draws.

A law is an inverse distribution function, so that the draws themselves stay outside. Time runs from 0 (noise) to 1
(data); papers that count from data to noise have ``1 - t``, and the mean of a logit with the other sign.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from realuid_lightning.errors import Faults, UserError
from realuid_lightning.paths.schedules import Schedule
from realuid_lightning.recorded import Recorded


class TimeLaw(Recorded, ABC):
    """A law of times on an affine path; your own class is named in YAML by its class path.

    Example:
        >>> class Late(TimeLaw):
        ...     def __call__(self, u, schedule, t_range):
        ...         return t_range[0] + (t_range[1] - t_range[0]) * u.sqrt()
        >>> from realuid_lightning.paths import FlowMatchingPath
        >>> FlowMatchingPath(times=Late()).sample_t(torch.tensor([0.0, 0.25]))
        tensor([0.0000, 0.5000])
    """

    @abstractmethod
    def __call__(self, u: Tensor, schedule: Schedule, t_range: tuple[float, float]) -> Tensor:
        """Map uniform draws to times.

        Args:
            u: Draws in [0, 1), any shape; 0 is among them in float32.
            schedule: The path's coefficients, for laws of noise levels.
            t_range: Least and greatest time.

        Returns:
            Times in ``t_range``, shaped as ``u`` and of its type; monotone in ``u``.
        """


class Uniform(TimeLaw):
    """Uniform on ``t_range``: the default of flow matching.

    Example:
        >>> from realuid_lightning.paths import LinearSchedule
        >>> Uniform()(torch.tensor([0.0, 0.5]), LinearSchedule(), (0.0, 1.0))
        tensor([0.0000, 0.5000])
    """

    def __call__(self, u: Tensor, schedule: Schedule, t_range: tuple[float, float]) -> Tensor:
        """Map uniform draws to times."""
        del schedule
        start, end = t_range
        return start + (end - start) * u


class LogitNormal(TimeLaw):
    """``t = sigmoid(n)`` of a normal ``n``, stretched over ``t_range`` (SD3, arXiv 2403.03206, section 3.1).

    There time runs from data to noise: its ``rf/lognorm(m, s)`` is ``LogitNormal(-m, s)``.

    Args:
        mean: Mean of the logit; above 0 more times lie near the data.
        std: Its standard deviation, above 0.

    Raises:
        UserError: If arguments are out of range, listing all of them.

    Example:
        >>> from realuid_lightning.paths import FlowMatchingPath
        >>> FlowMatchingPath(times=LogitNormal(), shift=3.0).sample_t(torch.tensor([0.0, 0.5]))
        tensor([0.0000, 0.2500])
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        _check(self, mean=mean, std=std)
        self.mean, self.std = mean, std

    def __call__(self, u: Tensor, schedule: Schedule, t_range: tuple[float, float]) -> Tensor:
        """Map uniform draws to times; that of ``u = 0``, whose logit is infinite, is the first."""
        del schedule
        start, end = t_range
        return start + (end - start) * torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


class LogNormalSigma(TimeLaw):
    """Times of log-normal noise levels ``sigma = b / a``, cut at both ends (EDM, arXiv 2206.00364, table 1).

    On the linear schedule it is ``LogitNormal(-mean, std)``.

    Args:
        mean: Mean of ``log sigma``.
        std: Its standard deviation, above 0.

    Raises:
        UserError: If arguments are out of range, listing all of them; when called, if the schedule gives no time of a
            noise level.

    Example:
        >>> from realuid_lightning.paths import DiffusionPath
        >>> path = DiffusionPath(times=LogNormalSigma(-0.4, 1.0))
        >>> path.sigma(path.sample_t(torch.tensor([0.5]))).log()
        tensor([-0.4000])
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        _check(self, mean=mean, std=std)
        self.mean, self.std = mean, std

    def __call__(self, u: Tensor, schedule: Schedule, t_range: tuple[float, float]) -> Tensor:
        """Map uniform draws to times; the later, the smaller ``u``."""
        least, greatest = (math.log(sigma) if sigma > 0 else -math.inf for sigma in schedule.sigma_range)
        log_sigma = self.mean + self.std * torch.special.ndtri(u)
        return schedule.time(log_sigma.clamp(least, greatest).exp()).clamp(*t_range)


class KarrasSigma(TimeLaw):
    """Times of noise levels that are uniform in Karras' scale, ``sigma^(1/7)``, up to a share of the way to the top.

    The law of SiD's generator steps (arXiv 2404.04057, section 4).

    Args:
        share: Share of the way from the least to the greatest level, in (0, 1].

    Raises:
        UserError: If the share is out of range; when called, if the schedule has no greatest noise level.

    Example:
        >>> from realuid_lightning.paths import DiffusionPath
        >>> path = DiffusionPath(generator_times=KarrasSigma(0.5))
        >>> path.generator_t(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 0.5000])
    """

    def __init__(self, share: float = 0.8) -> None:
        faults = Faults(type(self).__name__)
        faults.unless(0 < share <= 1, f"share must be in (0, 1], got {share}")
        faults.raise_any()
        self.share = share

    def __call__(self, u: Tensor, schedule: Schedule, t_range: tuple[float, float]) -> Tensor:
        """Map uniform draws to times; the later, the smaller ``u``."""
        least, greatest = schedule.sigma_range
        if not math.isfinite(greatest):
            raise UserError(
                f"{type(self).__name__} needs a greatest noise level, but that of {type(schedule).__name__} is "
                "infinite: choose KarrasSchedule, VPSchedule, or another law of times"
            )
        low, high = least ** (1 / 7), greatest ** (1 / 7)
        return schedule.time((low + self.share * u * (high - low)) ** 7).clamp(*t_range)


def _check(law: TimeLaw, *, mean: float, std: float) -> None:
    faults = Faults(type(law).__name__)
    faults.finite(mean=mean, std=std)
    faults.unless(std > 0, f"std must be above 0, got {std}")
    faults.raise_any()
