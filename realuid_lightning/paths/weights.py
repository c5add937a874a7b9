"""Weights of times: how much a time counts in the losses of teacher, fake model and generator."""

from abc import ABC, abstractmethod

from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.paths.schedules import Schedule
from realuid_lightning.recorded import Recorded


class TimeWeight(Recorded, ABC):
    """A time weight ``w_t`` on a flow path; your own class is named in YAML by its class path.

    While teacher and fake model are exact, a positive weight leaves the minimiser of RealUID where it is.

    Example:
        >>> import torch
        >>> class Early(TimeWeight):
        ...     def __call__(self, t, schedule):
        ...         return 2 - t
        >>> from realuid_lightning.paths import FlowMatchingPath
        >>> FlowMatchingPath(weighting=Early()).weight(torch.tensor([0.0, 0.5]))
        tensor([2.0000, 1.5000])
    """

    @abstractmethod
    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return the weights at times.

        Args:
            t: Times, ``(B,)``.
            schedule: The path's coefficients.

        Returns:
            Weights, ``(B,)``, above 0 but for times where there is no noise.
        """


class NoiseWeight(TimeWeight):
    """``(b / |a' b - a b'|)^power``, on the linear schedule ``(1 - t)^power``: late times, of little noise, count less.

    A gap ``x`` between guesses of ``x1`` is one of ``(a' b - a b') / b`` times ``x`` between velocities, without bounds
    at the end of the path. Its square there outweighs all earlier times in the generator's gradient, which holds that
    factor and noise of its own: by 315 to 5 after 800 updates of UID on images (docs/results.md). Power 2 compares
    guesses of ``x1``; at power 1 the gradient is much the same at all times, as by SiD's normalising weight.

    Args:
        power: Exponent, above 0.

    Raises:
        UserError: If the power is out of range.

    Example:
        >>> import torch
        >>> from realuid_lightning.paths import LinearSchedule
        >>> NoiseWeight(2.0)(torch.tensor([0.0, 0.5, 1.0]), LinearSchedule())
        tensor([1.0000, 0.2500, 0.0000])
    """

    def __init__(self, power: float = 1.0) -> None:
        faults = Faults(type(self).__name__)
        faults.finite(power=power)
        faults.unless(power > 0, f"power must be above 0, got {power}")
        faults.raise_any()
        self.power = power

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return the weights at times."""
        c = schedule(t)
        noise = c.b.clamp(min=0)  # the cosine rounds to less than 0 at the end, which has no root
        weight: Tensor = (noise / c.wronskian.abs()) ** self.power
        return weight
