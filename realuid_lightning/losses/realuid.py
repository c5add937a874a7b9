"""The objectives of matching and of RealUID, as functions of predictions and targets (arXiv 2509.22459).

All take tensors ``(B, *D)``, sum over the dimensions of a sample, average over the batch, and are minimised. They are
written in expanded form, so that nothing divides by ``alpha`` or ``1 - alpha``; additive constants without a gradient
are dropped. Half-precision inputs are summed in float32.
"""

from jaxtyping import Float
from torch import Tensor

from realuid_lightning.losses._sums import expectation, inner

Samples = Float[Tensor, "b *d"]
PerSample = Float[Tensor, " b"]
Scalar = Float[Tensor, ""]


def matching_loss(prediction: Samples, target: Samples, weight: PerSample | None = None) -> Scalar:
    """Return ``E w |f - c|^2``, which trains a teacher.

    Args:
        prediction: Network output ``f(t, xt)``.
        target: Conditional target ``c``.
        weight: Time weight ``w_t``; 1 when None.

    Example:
        >>> matching_loss(torch.ones(4, 2), torch.zeros(4, 2))  # summed over a sample, averaged over the batch
        tensor(2.)
    """
    error = prediction - target
    return expectation(inner(error, error), weight)


def fake_loss(
    fake_generated: Samples,
    target_generated: Samples,
    fake_real: Samples | None,
    target_real: Samples | None,
    *,
    alpha: float,
    beta: float,
    weight: PerSample | None = None,
) -> Scalar:
    """Return what the fake model minimises, ``L_R(f; G)`` up to a constant (RealUID, arXiv 2509.22459).

    ``E_gen w (alpha |f|^2 - 2 beta <f, c>) + E_real w ((1-alpha) |f|^2 - 2 (1-beta) <f, c>)``

    Args:
        fake_generated: Fake model at generated ``xt``.
        target_generated: Target there.
        fake_real: Fake model at real ``xt`` of the same ``t``; may be None when alpha = beta = 1.
        target_real: Target there; likewise.
        alpha: In (0, 1].
        beta: Any real number; 1 together with ``alpha`` = 1 is the data-free UID.
        weight: Time weight ``w_t``, shared by both halves; 1 when None.

    Raises:
        ValueError: If the real pair is missing where it counts.

    Example:
        >>> f, c = torch.ones(4, 2), torch.full((4, 2), 0.5)
        >>> fake_loss(f, c, None, None, alpha=1.0, beta=1.0)  # |f|^2 - 2 <f, c>
        tensor(0.)
        >>> fake_loss(f, c, f, c, alpha=0.5, beta=0.5)
        tensor(0.)
    """
    generated = inner(fake_generated, alpha * fake_generated - 2 * beta * target_generated)
    if not needs_real(alpha, beta):
        return expectation(generated, weight)
    fake_real, target_real = _real_half(fake_real, target_real)
    real = inner(fake_real, (1 - alpha) * fake_real - 2 * (1 - beta) * target_real)
    return expectation(generated + real, weight)


def generator_loss(
    teacher: Samples, fake: Samples, target: Samples, *, alpha: float, beta: float, weight: PerSample | None = None
) -> Scalar:
    """Return what the generator minimises, the generated half of ``L_R(f*; G) - L_R(f; G)`` (RealUID).

    ``E_gen w (alpha (|f*|^2 - |f|^2) - 2 beta <f* - f, c>)``, with gradients through all three arguments.

    Args:
        teacher: Teacher ``f*`` at generated ``xt``.
        fake: Fake model ``f`` there.
        target: Target ``c`` there.
        alpha: In (0, 1].
        beta: Any real number.
        weight: Time weight ``w_t``; 1 when None.

    Example:
        >>> teacher, fake, target = torch.ones(4, 2), torch.zeros(4, 2), torch.zeros(4, 2)
        >>> generator_loss(teacher, fake, target, alpha=0.5, beta=1.0)  # alpha (|f*|^2 - |f|^2) - 2 beta <f* - f, c>
        tensor(1.)
    """
    gap = teacher - fake
    # |f*|^2 - |f|^2 = <f* - f, f* + f>: one product fewer, and no difference of large squares.
    return expectation(inner(gap, alpha * (teacher + fake) - 2 * beta * target), weight)


def general_fake_loss(
    fake_generated: Samples,
    teacher_generated: Samples,
    target_generated: Samples,
    fake_real: Samples | None,
    teacher_real: Samples | None,
    target_real: Samples | None,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    weight: PerSample | None = None,
) -> Scalar:
    """Return the fake model's loss of general RealUID, with ``d = f - f*`` (arXiv 2509.22459, three coefficients).

    ``E_gen w (alpha |d|^2 - 2 beta <d, c> + 2 gamma <d, f*>)``
    ``+ E_real w ((1-alpha) |d|^2 - 2 (1-beta) <d, c> + 2 (1-gamma) <d, f*>)``; gamma = alpha is ``fake_loss`` up to a
    constant. The real triple may be None when all three coefficients are 1.

    Raises:
        ValueError: If the real triple is missing where it counts.

    Example:
        >>> one = torch.ones(4, 2)
        >>> general_fake_loss(2 * one, one, one, 2 * one, one, one, alpha=0.5, beta=1.0, gamma=0.5)
        tensor(2.)
    """
    return _general_fake(
        (fake_generated, teacher_generated, target_generated),
        (fake_real, teacher_real, target_real),
        (alpha, beta, gamma),
        (1 - alpha, 1 - beta, 1 - gamma),
        weight,
    )


def general_generator_loss(
    teacher: Samples,
    fake: Samples,
    target: Samples,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    weight: PerSample | None = None,
) -> Scalar:
    """Return the generator's loss of general RealUID: minus the generated half of ``general_fake_loss``.

    Example:
        >>> one = torch.ones(4, 2)
        >>> general_generator_loss(one, 2 * one, one, alpha=0.5, beta=1.0, gamma=0.5)
        tensor(1.)
    """
    return expectation(-_general(fake, teacher, target, alpha, beta, gamma), weight)


def corrected_fake_loss(
    fake_generated: Samples,
    teacher_generated: Samples,
    target_generated: Samples,
    fake_real: Samples | None,
    teacher_real: Samples | None,
    target_real: Samples | None,
    *,
    alpha: float,
    rho: float,
    weight: PerSample | None = None,
) -> Scalar:
    """Return the fake model's loss where real data correct the teacher, with ``d = f - f*`` (docs/wrong_teachers.md).

    ``E_gen w (alpha |d|^2 - 2 <d, c - f*>) + E_real w ((1-alpha) |d|^2 + 2 rho <d, c - f*>)``, which is
    ``general_fake_loss`` of ``b d`` at ``beta = gamma = b = 1 / (1 - rho)``, divided by ``b^2``. The real triple may be
    None at alpha = 1 and rho = 0.

    Raises:
        ValueError: If the real triple is missing where it counts.

    Example:
        >>> one = torch.ones(4, 2)
        >>> corrected_fake_loss(2 * one, one, 2 * one, 2 * one, one, 2 * one, alpha=0.5, rho=1.0)
        tensor(2.)
    """
    return _general_fake(
        (fake_generated, teacher_generated, target_generated),
        (fake_real, teacher_real, target_real),
        (alpha, 1.0, 1.0),
        (1 - alpha, -rho, -rho),
        weight,
    )


def needs_real(*coefficients: float) -> bool:
    """Return whether the real half of a fake loss has any effect: not when every coefficient is 1.

    Example:
        >>> needs_real(1.0, 1.0), needs_real(0.98, 0.96)
        (False, True)
    """
    return any(coefficient != 1 for coefficient in coefficients)


def _general_fake(
    generated: tuple[Tensor, Tensor, Tensor],
    real: tuple[Tensor | None, Tensor | None, Tensor | None],
    of_generated: tuple[float, float, float],
    of_real: tuple[float, float, float],
    weight: Tensor | None,
) -> Tensor:
    """Return both halves, each of fake model, teacher and target, by their coefficients; no real one of zeros alone."""
    loss = _general(*generated, *of_generated)
    if any(of_real):
        fake, teacher, target = _real_half(*real)
        loss = loss + _general(fake, teacher, target, *of_real)
    return expectation(loss, weight)


def _general(fake: Tensor, teacher: Tensor, target: Tensor, alpha: float, beta: float, gamma: float) -> Tensor:
    gap = fake - teacher
    return inner(gap, alpha * gap - 2 * beta * target + 2 * gamma * teacher)


def _real_half(*tensors: Tensor | None) -> list[Tensor]:
    present = [tensor for tensor in tensors if tensor is not None]
    if len(present) != len(tensors):
        raise ValueError(
            "the real half counts unless every coefficient is 1: pass predictions and targets on real data"
        )
    return present
