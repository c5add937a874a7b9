"""Objectives as pure functions of tensors."""

from realuid_lightning.losses.realuid import (
    fake_loss,
    general_fake_loss,
    general_generator_loss,
    generator_loss,
    matching_loss,
    needs_real,
)

__all__ = [
    "fake_loss",
    "general_fake_loss",
    "general_generator_loss",
    "generator_loss",
    "matching_loss",
    "needs_real",
]
