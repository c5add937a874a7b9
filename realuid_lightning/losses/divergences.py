"""What the generator may minimise beside the squared distance of RealUID, as functions of tensors.

All sum over the dimensions of a sample and average over the batch, are written in expanded form, so that nothing
divides by ``alpha`` or ``1 - alpha``, and sum half-precision inputs in float32.

In the formulas, ``y = f* - f``, ``m = alpha p_g + (1-alpha) p_r`` is the density of the samples that the fake model
trains on, and ``f_opt = (beta p_g u_g + (1-beta) p_r u_r) / m`` is the exact fake model (RealUID, arXiv 2509.22459).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from realuid_lightning.losses._sums import expectation, inner, widen
from realuid_lightning.losses.realuid import PerSample, Samples, Scalar

FDivergence = Literal[
    "reverse_kl", "softened_reverse_kl", "jensen_shannon", "squared_hellinger", "forward_kl", "jeffreys"
]

RATIO_RANGE = (0.1, 10.0)
"""Density ratios outside are clipped: there a discriminator is sure of itself, and knows the ratio no more."""

# h(r) = r^2 f''(r) of D_f = E_generated f(p_real / p_generated), by f (f-distill, arXiv 2502.15681, table 1).
RATIO_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": torch.ones_like,  # -log r
    "softened_reverse_kl": lambda r: 1 / (1 + r),  # (r + 1) log(1/2 + 1/(2r))
    "jensen_shannon": lambda r: r / (1 + r),  # r log r - (r + 1) log((r + 1)/2)
    "squared_hellinger": lambda r: r.sqrt() / 4,  # 1 - sqrt(r)
    "forward_kl": lambda r: r,  # r log r
    "jeffreys": lambda r: 1 + r,  # (r - 1) log r
}


def normalising_weight(x1: Samples, guess: Samples) -> PerSample:
    """Return ``1 / mean|x1 - guess|`` of each sample, without gradient; the mean is at least 1e-5.

    The weight of SiD (arXiv 2404.04057) and of DMD (arXiv 2311.18828, eq. 8), with the teacher's guess.

    Example:
        >>> normalising_weight(torch.zeros(3, 2), torch.full((3, 2), 0.5))
        tensor([2., 2., 2.])
    """
    wide_x1, wide_guess = widen(x1.detach(), guess.detach())
    return 1 / (wide_x1 - wide_guess).abs().flatten(1).mean(1).clamp(min=1e-5)


def sid_generator_loss(
    teacher: Samples,
    fake: Samples,
    target: Samples,
    *,
    alpha: float,
    beta: float,
    alpha_sid: float = 1.0,
    weight: PerSample | None = None,
) -> Scalar:
    """Return ``E w (2 <y, alpha f* - beta c> - 2 alpha_sid alpha |y|^2)``.

    The loss of SiD (arXiv 2404.04057), and with ``beta != alpha`` of RealSiD (RealUID, arXiv 2509.22459). ``alpha_sid``
    is any real number; at 0.5 it is ``generator_loss``, which tells the other arguments, here and below.

    Example:
        >>> teacher, fake, target = torch.ones(4, 2), torch.zeros(4, 2), torch.zeros(4, 2)
        >>> sid_generator_loss(teacher, fake, target, alpha=1.0, beta=1.0, alpha_sid=0.5)  # generator_loss
        tensor(2.)
    """
    teacher, fake, target = widen(teacher, fake, target)
    predictions = (2 - 2 * alpha_sid) * teacher + 2 * alpha_sid * fake
    return expectation(inner(teacher - fake, alpha * predictions - 2 * beta * target), weight)


def pseudo_huber_generator_loss(
    teacher: Samples,
    fake: Samples,
    target: Samples,
    *,
    alpha: float,
    beta: float,
    h: float,
    weight: PerSample | None = None,
) -> Scalar:
    """Return ``E w <b, alpha f - beta c>`` with ``b = y / sqrt(|y|^2 + h^2)``, the gradient of ``d`` at ``y``.

    It has the gradient of ``E_m d(f* - f_opt)``, ``d(y) = sqrt(|y|^2 + h^2) - h``, while the density ``m`` under which
    ``d`` is averaged is held fixed, as SIM does (arXiv 2410.16794, theorem 3.1; there ``alpha = beta = 1``). Then only
    ``f_opt`` moves with the generator, and ``m f_opt = beta p_g u_g + (1-beta) p_r u_r`` has the derivative
    ``m f_opt' + alpha p_g' f_opt = beta (p_g u_g)'``, so that

        (E_m d(y))' = -integral of <b, m f_opt'> = integral of <b, alpha p_g' f_opt - beta (p_g u_g)'>

    which is the derivative of ``E_gen <b, alpha f - beta c>`` through the samples: through ``xt`` into ``b`` and ``f``,
    and through ``c``. The value is no distance: an exact fake model with ``alpha = beta = 1`` makes it zero.

    ``h``, above 0, is the norm ``|y|`` of a whole sample at which the squared distance turns into the norm. For large
    ``h`` this is SiD's loss with ``alpha_sid = 1``, divided by ``2h``.

    Example:
        >>> teacher, fake, target = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([[-3.0, -4.0]])
        >>> pseudo_huber_generator_loss(teacher, fake, target, alpha=1.0, beta=1.0, h=12.0)  # 25 / 13
        tensor(1.9231)
    """
    teacher, fake, target = widen(teacher, fake, target)
    gap = teacher - fake
    # <b, alpha f - beta c> is <b, alpha f* - beta c> - alpha <b, y>, with one product fewer.
    return expectation(inner(gap, alpha * fake - beta * target) / (inner(gap, gap) + h**2).sqrt(), weight)


def l2_generator_loss(
    teacher: Samples,
    fake: Samples,
    target: Samples,
    *,
    alpha: float,
    beta: float,
    eps: float = 1e-6,
    weight: PerSample | None = None,
) -> Scalar:
    """Return ``E w <y / max(|y|, eps), alpha f* - beta c>``, RealUID with the norm in place of its square.

    By ``|a| = max <b, a>`` over ``|b| <= 1``, the distance ``E_m |f* - f_opt|``, which is the integral of
    ``|m f* - beta p_g u_g - (1-beta) p_r u_r|``, is a maximum over fields ``b`` of expectations. The best ``b`` is the
    direction of ``f* - f_opt``; the generated half is this loss, which so has the distance's gradient (RealUID,
    arXiv 2509.22459). ``eps``, above 0, is the least norm that is divided by.

    The direction jumps where ``y`` is zero. From two dimensions on that is a matter of points; samples of one dimension
    need an ``eps`` that some gaps fall below, since no gradient passes through a jump.

    Example:
        >>> teacher, fake, target = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.zeros(1, 2)
        >>> l2_generator_loss(teacher, fake, target, alpha=1.0, beta=1.0)  # |f* - f|
        tensor(5.)
    """
    teacher, fake, target = widen(teacher, fake, target)
    gap = teacher - fake
    # The floor lies under the root: at a zero gap the root alone has an infinite slope.
    norm = inner(gap, gap).clamp(min=eps**2).sqrt()
    return expectation(inner(gap, alpha * teacher - beta * target) / norm, weight)


def dmd_generator_loss(
    x1: Samples, teacher_x1: Samples, fake_x1: Samples, *, weight: PerSample | None = None
) -> Scalar:
    """Return ``0.5 E |g - stopgrad(g + w (f*_x1 - f_x1))|^2``, whose gradient in ``g`` is ``w (f_x1 - f*_x1) / B``.

    Where ``w`` is the signal-to-noise ratio of ``xt``, ``a^2 / b^2`` for ``xt = a g + b x0``, that is the gradient of
    ``KL(generated || teacher)`` at ``t``, by Tweedie's formula (DMD, arXiv 2311.18828, eq. 7).

    Args:
        x1: Generated samples ``g``; they alone get a gradient.
        teacher_x1: Teacher's guess of ``x1`` at ``xt``.
        fake_x1: Fake model's guess there.
        weight: Weight of each sample; 1 when None.

    Example:
        >>> x1 = torch.zeros(1, 2, requires_grad=True)
        >>> dmd_generator_loss(x1, torch.ones(1, 2), torch.zeros(1, 2)).backward()
        >>> x1.grad  # towards the teacher's guess, away from the fake model's
        tensor([[-1., -1.]])
    """
    wide_x1, wide_teacher, wide_fake = widen(x1, teacher_x1.detach(), fake_x1.detach())
    move = wide_teacher - wide_fake
    if weight is not None:
        move = move * weight.reshape(-1, *[1] * (move.ndim - 1))
    # Zero plus a gradient, first: a move that is small beside g would be rounded away in g + move.
    error = (wide_x1 - wide_x1.detach()) - move
    return expectation(0.5 * inner(error, error), None)


def f_divergence_weight(logits: PerSample, f: FDivergence) -> PerSample:
    """Return the weight ``h(r) = r^2 f''(r)``, ``r = exp(logits)``, scaled to mean 1 over the batch; no gradient.

    DMD's gradient times ``h(r)`` is that of the divergence ``E_generated f(p_real / p_generated)`` in place of the
    reverse KL (f-distill, arXiv 2502.15681, theorem 1 and table 1).

    Args:
        logits: Log of the density ratio real / generated at ``xt``; the ratio is clipped to ``RATIO_RANGE``.
        f: Name of the divergence.

    Example:
        >>> f_divergence_weight(torch.zeros(3), "jensen_shannon")
        tensor([1., 1., 1.])
    """
    (wide,) = widen(logits.detach())
    weighting = RATIO_WEIGHTS[f](wide.exp().clamp(*RATIO_RANGE))
    return weighting / weighting.mean()
