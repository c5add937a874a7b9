"""The adversarial term beside a distillation objective: a logit head told apart real from generated samples.

Source: the non-saturating GAN loss on noised samples of diffusion distillation, DMD2 (arXiv 2405.14867, sec. 4.3) and
SiDA (arXiv 2410.14919). Logits are one a sample, ``(B,)``. A perfect discriminator of as many real as generated samples
is ``D = log(p_real / p_generated)`` at ``xt``, which is what f-distill needs (``losses.divergences``).
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from realuid_lightning.errors import Faults
from realuid_lightning.losses._sums import widen
from realuid_lightning.losses.realuid import PerSample, Scalar


def discriminator_loss(generated_logits: PerSample, real_logits: Float[Tensor, " r"]) -> Scalar:
    """Return what the discriminator minimises, ``E softplus(D(xt_gen)) + E softplus(-D(xt_real))``.

    Its least value over all ``D`` is ``log 4 - 2 JS(p_real, p_generated)``; ``log 4`` where it can not tell them apart.

    Args:
        generated_logits: ``D`` at generated ``xt``, ``(B,)``; pass no gradient on to the generator.
        real_logits: ``D`` at real ``xt``, ``(R,)``; the halves may differ in size, each is averaged alone.
    """
    generated, real = widen(generated_logits, real_logits)
    return softplus(generated).mean() + softplus(-real).mean()


def adversarial_generator_loss(generated_logits: PerSample) -> Scalar:
    """Return what the generator minimises beside its distance, ``E softplus(-D(xt_gen))``; gradient through ``xt``.

    Args:
        generated_logits: ``D`` at generated ``xt``, ``(B,)``.
    """
    (logits,) = widen(generated_logits)
    return softplus(-logits).mean()


class GAN:
    """Settings of the adversarial term.

    The distillation losses sum over the dimensions of a sample, the adversarial ones have one logit a sample; the
    weights are meant for exactly that. Published pairs (generator, discriminator) are (0.3, 1), (1, 3) and (5, 15).

    Args:
        generator_weight: Factor of ``adversarial_generator_loss`` in the generator's loss, above 0.
        discriminator_weight: Factor of ``discriminator_loss`` in the fake model's loss, above 0; about three times the
            generator's.
        t_range: Part of the path's time range, as two fractions ``0 <= low < high <= 1``, in which the discriminator
            compares samples; 1 is the data end. Equal fractions are unequal noise: [0.8, 1] is up to ``sigma`` 0.25 on
            the linear flow path, 0.085 on EDM's.
    """

    def __init__(
        self,
        generator_weight: float = 0.3,
        discriminator_weight: float = 1.0,
        t_range: Sequence[float] = (0.8, 1.0),
    ) -> None:
        faults = Faults("GAN")
        faults.finite(generator_weight=generator_weight, discriminator_weight=discriminator_weight, t_range=t_range)
        faults.unless(generator_weight > 0, f"generator_weight must be above 0, got {generator_weight}")
        faults.unless(discriminator_weight > 0, f"discriminator_weight must be above 0, got {discriminator_weight}")
        faults.unless(
            len(t_range) == 2 and 0 <= t_range[0] < t_range[1] <= 1,
            f"t_range must be two fractions with 0 <= low < high <= 1, got {list(t_range)}",
        )
        faults.raise_any()
        self.generator_weight = generator_weight
        self.discriminator_weight = discriminator_weight
        self.t_range = (t_range[0], t_range[1])

    def times(self, u: PerSample, t_range: tuple[float, float]) -> PerSample:
        """Map uniform draws to the times at which the discriminator looks, uniform there.

        Args:
            u: Draws in [0, 1), ``(B,)``.
            t_range: The path's own ``t_range``, of which the settings name a part.
        """
        low, high = self.t_range
        start, end = t_range
        return start + (end - start) * (low + (high - low) * u)
