"""Flow matching: affine paths between Gaussian noise and data, with the velocity as target."""

from torch import Tensor

from realuid_lightning.paths.affine import AffinePath, denoised_from_velocity
from realuid_lightning.paths.sample import Samples, Times, expand


class FlowMatchingPath(AffinePath):
    """``xt = a x1 + b x0`` with target ``c = a' x1 + b' x0`` (arXiv 2210.02747; RealUID, arXiv 2509.22459, sec. 2).

    Args:
        schedule: The coefficients ``a`` and ``b``; linear when None.
    """

    def _point(self, t: Tensor, x0: Tensor, x1: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        del eps
        a, b, da, db = self.schedule(t)
        return a * x1 + b * x0, da * x1 + db * x0

    def denoise(
        self,
        t: Times,
        xt: Samples,
        prediction: Samples,
        x0: Samples | None = None,
    ) -> Samples:
        """Solve ``xt = a x1 + b x0``, ``prediction = a' x1 + b' x0`` for ``x1``; exact for the conditional target."""
        del x0
        return denoised_from_velocity(self.schedule(expand(t, xt)), xt, prediction)
