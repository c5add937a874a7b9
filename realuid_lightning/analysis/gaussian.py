"""RealUID between Gaussians on the linear flow path, in closed form: where theory and code meet.

Everything is a function of float64 tensors; nothing is sampled. Source: RealUID, arXiv 2509.22459, and the identities
of flow matching for ``xt = (1 - t) x0 + t x1``, ``x0 ~ N(0, 1)``, ``x1 ~ N(mean, std^2)``.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from realuid_lightning.losses import fake_loss


class Gaussian(NamedTuple):
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
        slope = (t * self.std**2 - (1 - t)) / self.variance(t)
        return self.mean + slope * (x - t * self.mean)


def best_fake(
    t: Float[Tensor, " b"], x: Float[Tensor, " b"], generated: Gaussian, real: Gaussian, alpha: float, beta: float
) -> Float[Tensor, " b"]:
    """Return the exact inner maximiser ``(beta p_g u_g + (1-beta) p_r u_r) / (alpha p_g + (1-alpha) p_r)`` at ``x``."""
    p_g, p_r = generated.density(t, x), real.density(t, x)
    flux = beta * p_g * generated.velocity(t, x) + (1 - beta) * p_r * real.velocity(t, x)
    return flux / (alpha * p_g + (1 - alpha) * p_r)


def realuid_value(
    generated: Gaussian,
    real: Gaussian,
    teacher: Gaussian,
    alpha: float,
    beta: float,
    times: int = 64,
    points: int = 4001,
    reach: float = 20.0,
) -> float:
    """Return ``max_f L_R(f*; G) - L_R(f; G)``: the generator's loss when the fake model is exact.

    The package's own ``fake_loss`` is evaluated at ``f*`` and at ``best_fake``, with quadrature nodes for a batch:
    Gauss-Legendre in time, equidistant in units of the standard deviation. The targets, in which the loss is linear,
    are replaced by their conditional means.

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
    nodes, shares = np.polynomial.legendre.leggauss(times)
    t = torch.from_numpy((nodes + 1) / 2).repeat_interleave(points)
    s = torch.linspace(-reach, reach, points, dtype=torch.float64).repeat(times)
    step = 2 * reach / (points - 1)
    weight = torch.from_numpy(shares / 2).repeat_interleave(points) * torch.exp(-(s**2) / 2) / math.sqrt(2 * math.pi)
    weight = weight * step * len(t)  # the loss divides by the batch size

    def loss(at_best: bool) -> Tensor:
        predictions, targets = [], []
        for data in (generated, real):
            x = t * data.mean + data.variance(t).sqrt() * s
            exact = best_fake(t, x, generated, real, alpha, beta) if at_best else teacher.velocity(t, x)
            predictions.append(exact[:, None])
            targets.append(data.velocity(t, x)[:, None])
        return fake_loss(predictions[0], targets[0], predictions[1], targets[1], alpha=alpha, beta=beta, weight=weight)

    return (loss(at_best=False) - loss(at_best=True)).item()
