"""What the generator may minimise: the squared distance of RealUID, and the objectives beside it.

A ``Divergence`` turns what was computed for one generator step into a loss; beside each stands a function of tensors.
All sum over the dimensions of a sample and average over the batch, are written in expanded form, so that nothing
divides by ``alpha`` or ``1 - alpha``, and sum half-precision inputs in float32.

In the formulas, ``y = f* - f``, ``m = alpha p_g + (1-alpha) p_r`` is the density of the samples that the fake model
trains on, and ``f_opt = (beta p_g u_g + (1-beta) p_r u_r) / m`` is the exact fake model (RealUID, arXiv 2509.22459).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.losses._sums import expectation, inner, widen
from realuid_lightning.losses.realuid import PerSample, Samples, Scalar, generator_loss

FDivergence = Literal[
    "reverse_kl", "softened_reverse_kl", "jensen_shannon", "squared_hellinger", "forward_kl", "jeffreys"
]

RATIO_RANGE = (0.1, 10.0)
"""Density ratios outside are clipped: there a discriminator is sure of itself, and knows the ratio no more."""

# h(r) = r^2 f''(r) of D_f = E_generated f(p_real / p_generated), by f (f-distill, arXiv 2502.15681, table 1).
_WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": torch.ones_like,  # -log r
    "softened_reverse_kl": lambda r: 1 / (1 + r),  # (r + 1) log(1/2 + 1/(2r))
    "jensen_shannon": lambda r: r / (1 + r),  # r log r - (r + 1) log((r + 1)/2)
    "squared_hellinger": lambda r: r.sqrt() / 4,  # 1 - sqrt(r)
    "forward_kl": lambda r: r,  # r log r
    "jeffreys": lambda r: 1 + r,  # (r - 1) log r
}


# ------------------------------------------------------------------------------------------------ functions of tensors


def normalising_weight(x1: Samples, guess: Samples) -> PerSample:
    """Return ``1 / mean|x1 - guess|`` of each sample, without gradient; the mean is at least 1e-5.

    The weight of SiD (arXiv 2404.04057) and of DMD (arXiv 2311.18828, eq. 8), with the teacher's guess.
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
    """
    (wide,) = widen(logits.detach())
    weighting = _WEIGHTINGS[f](wide.exp().clamp(*RATIO_RANGE))
    return weighting / weighting.mean()


# ------------------------------------------------------------------------------------------------------- as a choice


class GeneratorStep(NamedTuple):
    """What a divergence sees of one generator step; all at the same ``(t, xt)``, generated.

    Attributes:
        x1: Generated samples ``g``, ``(B, *D)``, with a graph.
        target: Conditional target ``c``, ``(B, *D)``, with a graph.
        teacher: Teacher's prediction ``f*(t, xt)``, ``(B, *D)``.
        fake: Fake model's prediction ``f(t, xt)``, ``(B, *D)``.
        denoise: Turns a prediction at ``(t, xt)`` into a guess of ``x1``.
        weight: The path's time weight ``w_t``, ``(B,)``; None stands for 1.
        logits: Discriminator at ``xt``, ``(B,)``: log of the density ratio real / generated; None without one.
        signal_to_noise: Signal-to-noise ratio of ``xt``, ``(B,)``; None where the divergence does not ask for it.
    """

    x1: Tensor
    target: Tensor
    teacher: Tensor
    fake: Tensor
    denoise: Callable[[Tensor], Tensor]
    weight: Tensor | None
    logits: Tensor | None = None
    signal_to_noise: Tensor | None = None

    def as_guesses(self) -> "GeneratorStep":
        """Return the step with target and predictions in units of ``x1``: times ``dx1 / df``.

        Each is its guess of ``x1`` less that of a prediction of zero, so differences are those of the guesses. What is
        zero must stay so: with ``beta != alpha`` the losses are no functions of differences alone. On a path whose
        target is ``x1`` nothing changes.
        """
        origin = self.denoise(torch.zeros_like(self.teacher))
        target, teacher, fake = (self.denoise(each) - origin for each in (self.target, self.teacher, self.fake))
        return self._replace(target=target, teacher=teacher, fake=fake)


class Divergence(ABC):
    """How the generator's distance to the teacher is measured.

    Attributes:
        through_networks: Whether gradients flow through ``f*`` and ``f`` to ``xt``. If not, both may be called without
            a graph, which saves most of the memory of a generator step.
        needs_logits: Whether ``loss`` needs ``step.logits``.
        needs_signal_to_noise: Whether ``loss`` needs ``step.signal_to_noise``, which not every path has.
    """

    through_networks: bool = True
    needs_logits: bool = False
    needs_signal_to_noise: bool = False

    @abstractmethod
    def loss(self, step: GeneratorStep, *, alpha: float, beta: float) -> Scalar:
        """Return what the generator minimises.

        Args:
            step: What was computed for the step.
            alpha: Weight of generated samples in the fake model's squares, in (0, 1].
            beta: Weight of generated samples in the fake model's targets, any real number.
        """


class SquaredDistance(Divergence):
    """``E_m w |f* - f_opt|^2``: ``generator_loss``, the objective of RealUID (arXiv 2509.22459), UID and FGM."""

    def loss(self, step: GeneratorStep, *, alpha: float, beta: float) -> Scalar:
        """Return ``generator_loss``."""
        return generator_loss(step.teacher, step.fake, step.target, alpha=alpha, beta=beta, weight=step.weight)


class SiD(Divergence):
    """Score identity distillation: ``sid_generator_loss`` (arXiv 2404.04057).

    Args:
        alpha_sid: SiD's alpha, any real number; 1.0 and 1.2 are usual, 0.5 is the squared distance.
        normalise: Whether to weigh by SiD's ``normalising_weight``, which belongs to inner products of guesses of
            ``x1``: those it then takes on every path, whatever a network predicts there. Without it, the predictions
            themselves are compared, by the path's weight.
    """

    def __init__(self, alpha_sid: float = 1.0, normalise: bool = True) -> None:
        faults = Faults("SiD")
        faults.finite(alpha_sid=alpha_sid)
        faults.raise_any()
        self.alpha_sid = alpha_sid
        self.normalise = normalise

    def loss(self, step: GeneratorStep, *, alpha: float, beta: float) -> Scalar:
        """Return ``sid_generator_loss``."""
        if self.normalise:
            weight = normalising_weight(step.x1, step.denoise(step.teacher))
            step = step.as_guesses()._replace(weight=weight)
        return sid_generator_loss(
            step.teacher, step.fake, step.target, alpha=alpha, beta=beta, alpha_sid=self.alpha_sid, weight=step.weight
        )


class PseudoHuber(Divergence):
    """Score implicit matching: ``pseudo_huber_generator_loss`` (SIM, arXiv 2410.16794).

    It compares what the networks predict, in the units of the path (velocities or samples), by the path's weight.

    Args:
        h: Norm ``|f* - f|`` of a whole sample at which the squared distance turns into the norm, above 0. None stands
            for ``0.00054 sqrt(dimensions)``, 0.03 on CIFAR-10, with which consistency models use this distance
            (arXiv 2310.14189). A sample with a gap far above it counts by direction alone.
    """

    def __init__(self, h: float | None = None) -> None:
        faults = Faults("PseudoHuber")
        faults.finite(h=h)
        faults.unless(h is None or h > 0, f"h must be above 0, or null for 0.00054 sqrt(dimensions), got {h}")
        faults.raise_any()
        self.h = h

    def loss(self, step: GeneratorStep, *, alpha: float, beta: float) -> Scalar:
        """Return ``pseudo_huber_generator_loss``."""
        h = 0.00054 * step.teacher[0].numel() ** 0.5 if self.h is None else self.h
        return pseudo_huber_generator_loss(
            step.teacher, step.fake, step.target, alpha=alpha, beta=beta, h=h, weight=step.weight
        )


class L2(Divergence):
    """The norm in place of its square: ``l2_generator_loss`` (RealUID, arXiv 2509.22459).

    It compares what the networks predict, in the units of the path (velocities or samples), by the path's weight.

    Args:
        eps: Least norm ``|f* - f|`` that is divided by, above 0.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        faults = Faults("L2")
        faults.finite(eps=eps)
        faults.unless(eps > 0, f"eps must be above 0, got {eps}")
        faults.raise_any()
        self.eps = eps

    def loss(self, step: GeneratorStep, *, alpha: float, beta: float) -> Scalar:
        """Return ``l2_generator_loss``."""
        return l2_generator_loss(
            step.teacher, step.fake, step.target, alpha=alpha, beta=beta, eps=self.eps, weight=step.weight
        )


class DMD(Divergence):
    """Distribution matching distillation: ``dmd_generator_loss`` (arXiv 2311.18828), and f-distill (arXiv 2502.15681).

    ``alpha`` and ``beta`` act in the fake model alone. With an exact one, ``alpha = beta < 1`` multiplies the reverse
    KL's gradient by ``alpha / (alpha + (1-alpha) r)``, ``r = p_r / p_g``, when the teacher is exact too: at 0.5 it is
    the softened reverse KL, with no discriminator.

    Between two domains the divergence is that of laws given ``x0``, which the network must see for it. Where it does
    not, differences of guesses are none of scores: the normalised move is a rule, not the descent of a divergence.

    Args:
        normalise: Whether to weigh by DMD's ``normalising_weight``. Without it the weight is the signal-to-noise ratio
            of the path, and the gradient that of the divergence itself, averaged over the times of the generator's
            steps; it grows towards the data end, where ``xt`` has hardly any noise. The path's weight has no part.
        f: The divergence. All but ``reverse_kl`` need a discriminator and multiply by its ``f_divergence_weight``,
            whose mean is taken over the local batch: under DDP each process scales by its own.
    """

    through_networks = False

    def __init__(self, normalise: bool = True, f: FDivergence = "reverse_kl") -> None:
        faults = Faults("DMD")
        faults.unless(f in _WEIGHTINGS, f"f must be one of {', '.join(get_args(FDivergence))}, got {f!r}")
        faults.raise_any()
        self.normalise = normalise
        self.f: FDivergence = f
        self.needs_logits = f != "reverse_kl"
        self.needs_signal_to_noise = not normalise

    def loss(self, step: GeneratorStep, *, alpha: float, beta: float) -> Scalar:
        """Return ``dmd_generator_loss``.

        Raises:
            ValueError: If ``step`` lacks the logits or the signal-to-noise ratio that the settings need.
        """
        del alpha, beta
        teacher, fake = step.denoise(step.teacher), step.denoise(step.fake)
        weight = normalising_weight(step.x1, teacher) if self.normalise else step.signal_to_noise
        if weight is None:
            raise ValueError("DMD with normalise: false weighs by step.signal_to_noise, got None")
        if self.needs_logits:
            if step.logits is None:
                raise ValueError(
                    f"DMD with f: {self.f} needs the density ratio of a discriminator: set the module's gan"
                )
            weight = weight * f_divergence_weight(step.logits, self.f)
        return dmd_generator_loss(step.x1, teacher, fake, weight=weight)
