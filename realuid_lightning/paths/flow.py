"""Flow matching: affine paths between Gaussian noise and data, with the velocity as target."""

from jaxtyping import Float
from torch import Tensor

from realuid_lightning.paths.base import MatchingPath, expand
from realuid_lightning.paths.schedules import LinearSchedule, Schedule


class FlowMatchingPath(MatchingPath):
    """``xt = a x1 + b x0`` with target ``c = a' x1 + b' x0`` (arXiv 2210.02747; RealUID, arXiv 2509.22459, sec. 2).

    Args:
        schedule: The coefficients ``a`` and ``b``; linear when None.
    """

    def __init__(self, schedule: Schedule | None = None) -> None:
        self.schedule = schedule if schedule is not None else LinearSchedule()
        self.t_range = self.schedule.t_range

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return ``a x1 + b x0``."""
        a, b, _, _ = self.schedule(t)
        return a * x1 + b * x0

    def _point(self, t: Tensor, x0: Tensor, x1: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        del eps
        a, b, da, db = self.schedule(t)
        return a * x1 + b * x0, da * x1 + db * x0

    def denoise(
        self, t: Float[Tensor, " b"], xt: Float[Tensor, "b *d"], prediction: Float[Tensor, "b *d"]
    ) -> Float[Tensor, "b *d"]:
        """Solve ``xt = a x1 + b x0``, ``prediction = a' x1 + b' x0`` for ``x1``; exact for the conditional target."""
        a, b, da, db = self.schedule(expand(t, xt))
        return (b * prediction - db * xt) / (b * da - a * db)
