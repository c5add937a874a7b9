"""Synthetic vectors: a Gaussian with closed forms, and five densities in the plane."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Generator, Tensor

from realuid_lightning.data.memory import lacking
from realuid_lightning.data.source import Labels, MemorySource
from realuid_lightning.errors import Faults
from realuid_lightning.seeding import keyed_generator

GAUSSIAN = 0x6A055
TOY = 0x70E2D

Vectors = Float32[Tensor, "n d"]
Drawn = tuple[Float32[Tensor, "n 2"], Int64[Tensor, "n"] | None]


class Gaussian(MemorySource):
    """Samples of a Gaussian with independent coordinates, the same in every run.

    Args:
        mean: Mean of each coordinate.
        std: Standard deviation of each coordinate, positive, as many as means.
        size: Number of samples, at least 1.

    Raises:
        UserError: If arguments are out of range; all faults at once.

    Example:
        >>> Gaussian([0.0, 1.0], [1.0, 2.0], size=64).get(torch.arange(3))[0].shape
        torch.Size([3, 2])
    """

    num_classes = None

    def __init__(self, mean: list[float], std: list[float], size: int = 10_000) -> None:
        faults = Faults("Gaussian")
        faults.unless(len(mean) > 0, "mean must have at least one number, got an empty list")
        faults.unless(len(std) == len(mean), f"std must have as many numbers as mean ({len(mean)}), got {len(std)}")
        faults.unless(all(map(math.isfinite, mean)), f"mean must be finite, got {mean}")
        faults.unless(all(0 < s < math.inf for s in std), f"std must be positive and finite, got {std}")
        faults.unless(size >= 1, f"size must be at least 1, got {size}")
        lack = lacking(4 * size * len(mean))
        faults.unless(not lack, f"size is {size}, and so many samples {lack}")
        faults.raise_any()
        self.mean, self.std, self.size = mean, std, size

    @property
    def shape(self) -> tuple[int, ...]:
        """``(D,)``, with D the number of means."""
        return (len(self.mean),)

    def load(self) -> tuple[Vectors, None]:
        """Draw all samples."""
        noise = torch.randn(self.size, len(self.mean), generator=keyed_generator(GAUSSIAN))
        return torch.tensor(self.mean) + torch.tensor(self.std) * noise, None


class Toy2D(MemorySource):
    """Samples of a density in the plane, centred and of about unit scale, the same in every run.

    Args:
        name: ``moons`` (2 classes), ``rings`` (4), ``eight_gaussians`` (8), ``checkerboard`` or ``spiral`` (none).
        size: Number of samples, at least 1.
        draw: Number of the draw, from 0: each has other samples of the same density, as held-out data must be.

    Raises:
        UserError: If arguments are out of range; all faults at once.

    Example:
        >>> Toy2D("moons", size=64).get(torch.arange(3))[0].shape
        torch.Size([3, 2])
    """

    shape = (2,)

    def __init__(
        self,
        name: Literal["moons", "checkerboard", "rings", "eight_gaussians", "spiral"],
        size: int = 10_000,
        draw: int = 0,
    ) -> None:
        faults = Faults("Toy2D")
        faults.unless(name in _TOYS, f"name must be one of {', '.join(_TOYS)}, got {name!r}")
        faults.unless(size >= 1, f"size must be at least 1, got {size}")
        faults.unless(draw >= 0, f"draw must not be negative, got {draw}")
        lack = lacking(8 * size)
        faults.unless(not lack, f"size is {size}, and so many samples {lack}")
        faults.raise_any()
        self.name, self.size, self.draw = name, size, draw

    @property
    def num_classes(self) -> int | None:
        """Number of classes of this density, or None."""
        return _TOYS[self.name][1]

    def load(self) -> tuple[Float32[Tensor, "n 2"], Labels | None]:
        """Draw all samples."""
        drawn, _ = _TOYS[self.name]
        key = (TOY, list(_TOYS).index(self.name), self.draw)
        return drawn(self.size, keyed_generator(*key[: 3 if self.draw else 2]))  # draw 0 has never had a key


# Each scale is the analytic one, not that of the draw, so that the density does not depend on the number of samples.


def _moons(size: int, generator: Generator) -> Drawn:
    y = torch.randint(2, (size,), generator=generator)
    angle = math.pi * torch.rand(size, generator=generator)
    sign = 1.0 - 2.0 * y
    x = torch.stack([y + sign * angle.cos(), 0.5 * y + sign * angle.sin()], 1)
    return (x - torch.tensor([0.5, 0.25]) + _noise(size, 0.05, generator)) / 0.7, y


def _checkerboard(size: int, generator: Generator) -> Drawn:
    column = torch.randint(4, (size,), generator=generator)
    row = 2 * torch.randint(2, (size,), generator=generator) + column % 2
    corner = torch.stack([column, row], 1) - 2.0
    return (corner + torch.rand(size, 2, generator=generator)) / 1.155, None


def _rings(size: int, generator: Generator) -> Drawn:
    y = torch.randint(4, (size,), generator=generator)
    angle = 2 * math.pi * torch.rand(size, generator=generator)
    return ((y + 1)[:, None] * _on_circle(angle) + _noise(size, 0.08, generator)) / 1.94, y


def _eight_gaussians(size: int, generator: Generator) -> Drawn:
    y = torch.randint(8, (size,), generator=generator)
    return math.sqrt(2) * _on_circle(y * (math.pi / 4)) + _noise(size, 0.1, generator), y


def _spiral(size: int, generator: Generator) -> Drawn:
    along = torch.rand(size, generator=generator).sqrt()
    arm = math.pi * torch.randint(2, (size,), generator=generator)
    return 2 * along[:, None] * _on_circle(3 * math.pi * along + arm) + _noise(size, 0.05, generator), None


def _on_circle(angle: Float32[Tensor, "n"]) -> Float32[Tensor, "n 2"]:
    return torch.stack([angle.cos(), angle.sin()], 1)


def _noise(size: int, std: float, generator: Generator) -> Float32[Tensor, "n 2"]:
    return std * torch.randn(size, 2, generator=generator)


_TOYS: dict[str, tuple[Callable[[int, Generator], Drawn], int | None]] = {
    "moons": (_moons, 2),
    "checkerboard": (_checkerboard, None),
    "rings": (_rings, 4),
    "eight_gaussians": (_eight_gaussians, 8),
    "spiral": (_spiral, None),
}
