"""The adversarial term beside a distillation objective: a logit head told apart real from generated samples.

Source: the non-saturating GAN loss on noised samples of diffusion distillation, DMD2 (arXiv 2405.14867, sec. 4.3) and
SiDA (arXiv 2410.14919). Logits are one a sample, ``(B,)``, or several, ``(B, K)``, which count alike. A perfect
discriminator of as many real as generated samples is ``D = log(p_real / p_generated)`` at ``xt``, which is what
f-distill needs (``losses.divergences``).
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from realuid_lightning.losses._sums import widen
from realuid_lightning.losses.realuid import Scalar

Logits = Float[Tensor, "b *k"]


def discriminator_loss(generated_logits: Logits, real_logits: Float[Tensor, "r *k"]) -> Scalar:
    """Return what the discriminator minimises, ``E softplus(D(xt_gen)) + E softplus(-D(xt_real))``.

    Its least value over all ``D`` is ``log 4 - 2 JS(p_real, p_generated)``; ``log 4`` where it cannot tell them apart.

    Args:
        generated_logits: ``D`` at generated ``xt``, ``(B,)`` or ``(B, K)``; pass no gradient on to the generator.
        real_logits: ``D`` at real ``xt``, ``(R,)`` or ``(R, K)``; each half is averaged alone, whatever its size.

    Example:
        >>> sure = torch.full((4,), 100.0)
        >>> discriminator_loss(-sure, sure).item() < 1e-6
        True
    """
    generated, real = widen(generated_logits, real_logits)
    return softplus(generated).mean() + softplus(-real).mean()


def adversarial_generator_loss(generated_logits: Logits) -> Scalar:
    """Return what the generator minimises beside its distance, ``E softplus(-D(xt_gen))``; gradient through ``xt``.

    Args:
        generated_logits: ``D`` at generated ``xt``, ``(B,)`` or ``(B, K)``.

    Example:
        >>> adversarial_generator_loss(torch.full((4,), 100.0)).item() < 1e-6  # taken for real
        True
    """
    (logits,) = widen(generated_logits)
    return softplus(-logits).mean()
