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

from realuid_lightning.losses import fake_loss, general_fake_loss


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
    t: Float[Tensor, " b"],
    x: Float[Tensor, " b"],
    generated: Normal,
    real: Normal,
    teacher: Normal,
    alpha: float,
    beta: float,
    gamma: float | None = None,
) -> Float[Tensor, " b"]:
    """Return the exact inner maximiser at ``x``: ``f* + (p_g a + p_r b) / m``.

    Here ``m = alpha p_g + (1-alpha) p_r``, ``a = beta u_g - gamma f*`` and ``b = (1-beta) u_r - (1-gamma) f*``. RealUID
    does not ask the teacher: at gamma = alpha it is ``(beta p_g u_g + (1-beta) p_r u_r) / m``.

    Args:
        t: Time.
        x: Point on the path.
        generated: Distribution of the generator.
        real: Distribution of the data.
        teacher: Distribution that the teacher was trained on.
        alpha: In (0, 1].
        beta: Any real number.
        gamma: Third coefficient of general RealUID; None stands for alpha, which is RealUID.
    """
    p_g, p_r = generated.density(t, x), real.density(t, x)
    u_g, u_r = generated.velocity(t, x), real.velocity(t, x)
    m = alpha * p_g + (1 - alpha) * p_r
    if gamma is None:
        return (beta * p_g * u_g + (1 - beta) * p_r * u_r) / m
    f = teacher.velocity(t, x)
    # Grouped by density, so that b vanishes where it should: p_r / p_g is huge in tails.
    return f + (p_g * (beta * u_g - gamma * f) + p_r * ((1 - beta) * u_r - (1 - gamma) * f)) / m


def is_bounded(
    generated: Normal, real: Normal, teacher: Normal, alpha: float, beta: float, gamma: float | None = None
) -> bool:
    """Return whether the inner problem has a finite value: whether ``m |f_opt - f*|^2`` is integrable.

    With m, a and b of ``best_fake``, where a and b are affine in x, the integrand is ``|p_g a + p_r b|^2 / m``, at most
    ``2 p_g a^2 / alpha + 2 p_r b^2 / (1-alpha)``: every alpha below 1 is safe. At alpha = 1 the second part becomes
    ``p_r^2 b^2 / p_g``, a Gaussian of inverse variance ``2 / v_r - 1 / v_g``: integrable at every t below 1, and over
    t, where the variance of the real data is less than twice that of the generator, and not where it is more.

    Without that, only ``b = 0`` at all x and t is safe: at beta = gamma = 1, and at beta = gamma with a teacher of the
    real data. Other multiples of ``u_r`` and ``f*`` are never equal, for both have slope -1 in x at t = 0.

    Args:
        generated: Distribution of the generator.
        real: Distribution of the data.
        teacher: Distribution that the teacher was trained on.
        alpha: In (0, 1].
        beta: Any real number.
        gamma: Third coefficient of general RealUID; None stands for alpha, which is RealUID.
    """
    gamma = alpha if gamma is None else gamma
    vanishes = beta == gamma and (beta == 1 or teacher == real)
    return alpha < 1 or vanishes or real.std**2 < 2 * generated.std**2


def realuid_value(
    generated: Normal,
    real: Normal,
    teacher: Normal,
    alpha: float,
    beta: float,
    gamma: float | None = None,
    times: int = 64,
    points: int = 4001,
    reach: float = 20.0,
) -> float:
    """Return ``max_f L_R(f*; G) - L_R(f; G)``: the generator's loss when the fake model is exact.

    The package's own ``fake_loss``, or ``general_fake_loss`` where gamma is given, is evaluated at ``f*`` and at
    ``best_fake``, with quadrature nodes for a batch: Gauss-Legendre in time, equidistant in units of the standard
    deviation. The targets, in which the losses are linear, are replaced by their conditional means. Where the inner
    problem is not bounded, the value is infinite.

    Args:
        generated: Distribution of the generator.
        real: Distribution of the data.
        teacher: Distribution that the teacher was trained on.
        alpha: In (0, 1].
        beta: Any real number.
        gamma: Third coefficient of general RealUID; None stands for alpha, which is RealUID.
        times: Quadrature nodes in time.
        points: Quadrature nodes in space.
        reach: Largest deviation that is integrated, in standard deviations.
    """
    if not is_bounded(generated, real, teacher, alpha, beta, gamma):
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
        best = best_fake(t, x, generated, real, teacher, alpha, beta, gamma)
        halves.append([values[:, None] for values in (best, teacher.velocity(t, x), data.velocity(t, x))])
    if gamma is not None:  # at the teacher this loss is 0
        return -general_fake_loss(*halves[0], *halves[1], alpha=alpha, beta=beta, gamma=gamma, weight=weight).item()
    (best_g, teacher_g, target_g), (best_r, teacher_r, target_r) = halves
    at_teacher = fake_loss(teacher_g, target_g, teacher_r, target_r, alpha=alpha, beta=beta, weight=weight)
    at_best = fake_loss(best_g, target_g, best_r, target_r, alpha=alpha, beta=beta, weight=weight)
    return (at_teacher - at_best).item()


def best_generator(real: Normal, teacher: Normal, alpha: float, beta: float, gamma: float | None = None) -> Normal:
    """Return the Gaussian that minimises ``realuid_value``: where an exact generator of this family ends.

    Nelder-Mead over the mean and the logarithm of the standard deviation, from the teacher where that is possible. The
    quadrature is coarser than the default, and good to 1e-5 in the result.

    Args:
        real: Distribution of the data.
        teacher: Distribution that the teacher was trained on.
        alpha: In (0, 1].
        beta: Any real number.
        gamma: Third coefficient of general RealUID; None stands for alpha, which is RealUID.
    """

    def value(point: npt.NDArray[np.float64]) -> float:
        generated = Normal(float(point[0]), math.exp(point[1]))
        found = realuid_value(generated, real, teacher, alpha, beta, gamma, times=16, points=161, reach=16.0)
        return found if math.isfinite(found) else math.inf  # densities that underflow on the way

    # At the real data the inner problem is always bounded; at the teacher it need not be.
    start = teacher if is_bounded(teacher, real, teacher, alpha, beta, gamma) else real
    corner = np.array([start.mean, math.log(start.std)])
    simplex = corner + np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])
    options = {"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-12}
    mean, log_std = minimize(value, corner, method="Nelder-Mead", options=options).x
    return Normal(float(mean), math.exp(log_std))
