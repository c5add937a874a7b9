"""RealUID between Gaussians on the linear flow path, in closed form: where theory and code meet.

Everything is a function of tensors, float64 in quadrature; nothing is sampled. Source: RealUID, arXiv 2509.22459, and
the identities of flow matching for ``xt = (1 - t) x0 + t x1``, ``x0 ~ N(0, 1)``, ``x1 ~ N(mean, std^2)``.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy.optimize import minimize  # type: ignore[import-untyped]  # scikit-learn brings it along
from torch import Tensor

from realuid_lightning.losses import fake_loss


class Normal(NamedTuple):
    """A normal distribution of ``x1``.

    Attributes:
        mean: Mean.
        std: Standard deviation, above 0.
    """

    mean: float
    std: float

    def variance(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the variance of ``xt``."""
        return (1 - t) ** 2 + (t * self.std) ** 2

    def density(self, t: Float[Tensor, " b"], x: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the density of ``xt`` at ``x``."""
        variance = self.variance(t)
        return torch.exp(-((x - t * self.mean) ** 2) / (2 * variance)) / (2 * math.pi * variance).sqrt()

    def velocity(self, t: Float[Tensor, " b"], x: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return ``E[x1 - x0 | xt = x]``, which a perfect teacher of this distribution predicts."""
        return velocity(self.mean, self.std, t, x)


def velocity(
    mean: float | Float[Tensor, "*#b"],
    std: float | Float[Tensor, "*#b"],
    t: Float[Tensor, "*#b"],
    x: Float[Tensor, "*#b"],
) -> Float[Tensor, "*b"]:
    """Return ``E[x1 - x0 | xt = x]`` for many Gaussians at once; all shapes broadcast."""
    slope = (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2)
    return mean + slope * (x - t * mean)


def best_fake(
    t: Float[Tensor, " b"], x: Float[Tensor, " b"], generated: Normal, real: Normal, alpha: float, beta: float
) -> Float[Tensor, " b"]:
    """Return the exact inner maximiser ``(beta p_g u_g + (1-beta) p_r u_r) / (alpha p_g + (1-alpha) p_r)`` at ``x``."""
    p_g, p_r = generated.density(t, x), real.density(t, x)
    flux = beta * p_g * generated.velocity(t, x) + (1 - beta) * p_r * real.velocity(t, x)
    return flux / (alpha * p_g + (1 - alpha) * p_r)


def is_bounded(generated: Normal, real: Normal, alpha: float, beta: float) -> bool:
    """Return whether the inner problem has a finite value: whether ``m f_opt^2`` is integrable over space and time.

    With ``m = alpha p_g + (1-alpha) p_r``, the integrand is at most ``2 beta^2 p_g u_g^2 / alpha`` plus
    ``2 (1-beta)^2 p_r u_r^2 / (1-alpha)``, so every alpha below 1 is safe. At alpha = 1 the second part becomes
    ``(1-beta)^2 p_r^2 u_r^2 / p_g``, a Gaussian of inverse variance ``2 / v_r - 1 / v_g``: integrable at every t below
    1, and over t, exactly when the variance of the real data is less than twice that of the generator.

    Args:
        generated: Distribution of the generator.
        real: Distribution of the data.
        alpha: In (0, 1].
        beta: Any real number.
    """
    return alpha < 1 or beta == 1 or real.std**2 < 2 * generated.std**2


def realuid_value(
    generated: Normal,
    real: Normal,
    teacher: Normal,
    alpha: float,
    beta: float,
    times: int = 64,
    points: int = 4001,
    reach: float = 20.0,
) -> float:
    """Return ``max_f L_R(f*; G) - L_R(f; G)``: the generator's loss when the fake model is exact.

    The package's own ``fake_loss`` is evaluated at ``f*`` and at ``best_fake``, with quadrature nodes for a batch:
    Gauss-Legendre in time, equidistant in units of the standard deviation. The targets, in which the loss is linear,
    are replaced by their conditional means. Where the inner problem is not bounded, the value is infinite.

    Args:
        generated: Distribution of the generator.
        real: Distribution of the data.
        teacher: Distribution that the teacher was trained on.
        alpha: In (0, 1].
        beta: Any real number.
        times: Quadrature nodes in time.
        points: Quadrature nodes in space.
        reach: Largest deviation that is integrated, in standard deviations.
    """
    if not is_bounded(generated, real, alpha, beta):
        return math.inf
    nodes, shares = np.polynomial.legendre.leggauss(times)
    t = torch.from_numpy((nodes + 1) / 2).repeat_interleave(points)
    s = torch.linspace(-reach, reach, points, dtype=torch.float64).repeat(times)
    step = 2 * reach / (points - 1)
    weight = torch.from_numpy(shares / 2).repeat_interleave(points) * torch.exp(-(s**2) / 2) / math.sqrt(2 * math.pi)
    weight = weight * step * len(t)  # the loss divides by the batch size

    halves = []
    for data in (generated, real):
        x = t * data.mean + data.variance(t).sqrt() * s
        best = best_fake(t, x, generated, real, alpha, beta)
        halves.append([values[:, None] for values in (teacher.velocity(t, x), best, data.velocity(t, x))])
    (teacher_g, best_g, target_g), (teacher_r, best_r, target_r) = halves
    at_teacher = fake_loss(teacher_g, target_g, teacher_r, target_r, alpha=alpha, beta=beta, weight=weight)
    at_best = fake_loss(best_g, target_g, best_r, target_r, alpha=alpha, beta=beta, weight=weight)
    return (at_teacher - at_best).item()


def best_generator(real: Normal, teacher: Normal, alpha: float, beta: float) -> Normal:
    """Return the Gaussian that minimises ``realuid_value``: where an exact generator of this family ends.

    Nelder-Mead over the mean and the logarithm of the standard deviation, from the teacher where that is possible. The
    quadrature is coarser than the default, and good to 1e-5 in the result.

    Args:
        real: Distribution of the data.
        teacher: Distribution that the teacher was trained on.
        alpha: In (0, 1].
        beta: Any real number.
    """

    def value(point: npt.NDArray[np.float64]) -> float:
        generated = Normal(float(point[0]), math.exp(point[1]))
        found = realuid_value(generated, real, teacher, alpha, beta, times=16, points=161, reach=16.0)
        return found if math.isfinite(found) else math.inf  # densities that underflow on the way

    # At the real data the inner problem is always bounded; at the teacher it need not be.
    start = teacher if is_bounded(teacher, real, alpha, beta) else real
    corner = np.array([start.mean, math.log(start.std)])
    simplex = corner + np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])
    options = {"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-12}
    mean, log_std = minimize(value, corner, method="Nelder-Mead", options=options).x
    return Normal(float(mean), math.exp(log_std))
