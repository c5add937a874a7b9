"""What the predictions on an affine path say of each other.

On ``xt = a x1 + b x0`` with ``x0 ~ N(0, I)``, the expected velocity, data end, noise end and score given ``xt`` are
affine in each other (stochastic interpolants, arXiv 2303.08797, section 5; EDM, arXiv 2206.00364, eq. 3). ``c`` are the
coefficients at ``t``, shaped so that they broadcast.
"""

from realuid_lightning.paths.sample import Samples
from realuid_lightning.paths.schedules import Coefficients


def denoised_from_velocity(c: Coefficients, xt: Samples, velocity: Samples) -> Samples:
    """Return ``E[x1 | xt]`` from ``E[a' x1 + b' x0 | xt]``."""
    return (c.b * velocity - c.db * xt) / c.wronskian


def velocity_from_denoised(c: Coefficients, xt: Samples, denoised: Samples) -> Samples:
    """Return ``E[a' x1 + b' x0 | xt]`` from ``E[x1 | xt]``; ``b`` must not be 0."""
    return c.da * denoised + c.db * noise_from_denoised(c, xt, denoised)


def velocity_from_noise(c: Coefficients, xt: Samples, noise: Samples) -> Samples:
    """Return ``E[a' x1 + b' x0 | xt]`` from ``E[x0 | xt]``; ``a`` must not be 0."""
    return (c.da * xt - c.wronskian * noise) / c.a


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
