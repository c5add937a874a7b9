"""Data that make a teacher wrong in a known way; see ``wrong_teachers.py``."""

import torch
from torch import Tensor, nn

from realuid_lightning.data import Digits, Toy2D
from realuid_lightning.seeding import keyed_generator

SHARE = 5
"""A biased mix keeps one in so many of the rarer half of the classes."""


class BlurredMoons(Toy2D):
    """Moons with more noise: bands of standard deviation 0.17 in place of 0.07."""

    def __init__(self) -> None:
        super().__init__("moons", 20000)

    def load(self) -> tuple[Tensor, Tensor | None]:
        """Draw all samples."""
        x, y = super().load()
        return x + 0.15 * torch.randn(x.shape, generator=keyed_generator(0xB1)), y


class BiasedMoons(Toy2D):
    """One moon five times as often as the other."""

    def __init__(self) -> None:
        super().__init__("moons", 20000)

    def load(self) -> tuple[Tensor, Tensor | None]:
        """Draw all samples."""
        x, y = super().load()
        kept = kept_of(y, 1)
        return x[kept], y[kept]


class BlurredDigits(Digits):
    """Digits, each pixel a mean of its neighbourhood of 3 x 3 with weights 1-2-1."""

    def load(self) -> tuple[Tensor, Tensor]:
        """Read and blur them."""
        x, y = super().load()
        line = torch.tensor([0.25, 0.5, 0.25])
        padded = nn.functional.pad(x.float(), (1, 1, 1, 1), mode="replicate")
        return nn.functional.conv2d(padded, line.outer(line)[None, None]).round().to(torch.uint8), y


class BiasedDigits(Digits):
    """Zeros to fours five times as often as fives to nines."""

    def load(self) -> tuple[Tensor, Tensor]:
        """Read them."""
        x, y = super().load()
        kept = kept_of(y, 5)
        return x[kept], y[kept]


class FewDigits(Digits):
    """A tenth of them."""

    def load(self) -> tuple[Tensor, Tensor]:
        """Read them."""
        x, y = super().load()
        return x[::10], y[::10]


def kept_of(y: Tensor, rare: int) -> Tensor:
    """Return which samples a biased mix keeps: of classes from ``rare`` on, one in ``SHARE``."""
    return (y < rare) | (torch.arange(len(y)) % SHARE == 0)
