"""The formulas: pure functions of tensors, minimised."""

from realuid_lightning.losses.adversarial import adversarial_generator_loss, discriminator_loss
from realuid_lightning.losses.divergences import (
    RATIO_RANGE,
    RATIO_WEIGHTS,
    FDivergence,
    dmd_generator_loss,
    f_divergence_weight,
    l2_generator_loss,
    normalising_weight,
    pseudo_huber_generator_loss,
    sid_generator_loss,
)
from realuid_lightning.losses.realuid import (
    corrected_fake_loss,
    fake_loss,
    general_fake_loss,
    general_generator_loss,
    generator_loss,
    matching_loss,
    needs_real,
)

__all__ = [
    "RATIO_RANGE",
    "RATIO_WEIGHTS",
    "FDivergence",
    "adversarial_generator_loss",
    "corrected_fake_loss",
    "discriminator_loss",
    "dmd_generator_loss",
    "f_divergence_weight",
    "fake_loss",
    "general_fake_loss",
    "general_generator_loss",
    "generator_loss",
    "l2_generator_loss",
    "matching_loss",
    "needs_real",
    "normalising_weight",
    "pseudo_huber_generator_loss",
    "sid_generator_loss",
]
