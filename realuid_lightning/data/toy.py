"""Synthetic vectors: a Gaussian with closed forms, and five densities in the plane."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Generator, Tensor

from realuid_lightning.data.memory import lacking
from realuid_lightning.data.source import Labels, MemorySource
from realuid_lightning.errors import Faults
from realuid_lightning.seeding import keyed_generator

GAUSSIAN = 0x6A055
TOY = 0x70E2D

ToyName = Literal["moons", "checkerboard", "rings", "eight_gaussians", "spiral"]
"""Names of the densities in the plane."""

ALONG = 256
"""Points along a mode's spine among which the nearest is looked for."""
UNIFORM_STD = 12**-0.5
"""Standard deviation of a uniform variable in an interval of length 1."""

Vectors = Float32[Tensor, "n d"]
Points = Float32[Tensor, "n 2"]
Modes = Int64[Tensor, "n"]
Along = Float32[Tensor, "n"]


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
        name: ToyName,
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
        toy = _TOYS[self.name]
        return toy.modes if toy.labelled else None

    def load(self) -> tuple[Points, Labels | None]:
        """Draw all samples."""
        key = (TOY, list(_TOYS).index(self.name), self.draw)
        return _TOYS[self.name].draw(
            self.size, keyed_generator(*key[: 3 if self.draw else 2])
        )  # draw 0 has never had a key


class _Toy(NamedTuple):
    """A density: modes of equal weight, each with noise about a curve or a point, its spine.

    Attributes:
        modes: Number of modes.
        labelled: Whether they are classes.
        places: Draws modes, and places between 0 and 1 along their spines.
        spine: Gives the points at such places, of a shape that is centred.
        std: Standard deviation of normal noise about them; None for noise that is uniform in a unit square.
        scale: What points with noise are divided by. It is the analytic one, not that of the draw, so that the density
            does not depend on the number of samples.
    """

    modes: int
    labelled: bool
    places: Callable[[int, int, Generator], tuple[Modes, Along]]
    spine: Callable[[Modes, Along], Points]
    std: float | None
    scale: float

    def draw(self, size: int, generator: Generator) -> tuple[Points, Labels | None]:
        """Draw samples, with labels if there are any."""
        mode, along = self.places(self.modes, size, generator)
        if self.std is None:
            noise = torch.rand(size, 2, generator=generator) - 0.5
        else:
            noise = self.std * torch.randn(size, 2, generator=generator)
        return (self.spine(mode, along) + noise) / self.scale, mode if self.labelled else None


def _on_curves(modes: int, size: int, generator: Generator) -> tuple[Modes, Along]:
    return torch.randint(modes, (size,), generator=generator), torch.rand(size, generator=generator)


def _arc(mode: Modes, along: Along) -> Points:
    angle, sign = math.pi * along, 1.0 - 2.0 * mode
    return torch.stack([mode + sign * angle.cos(), 0.5 * mode + sign * angle.sin()], 1) - torch.tensor([0.5, 0.25])


def _ring(mode: Modes, along: Along) -> Points:
    return (mode + 1)[:, None] * _on_circle(2 * math.pi * along)


def _at_points(modes: int, size: int, generator: Generator) -> tuple[Modes, Along]:
    return torch.randint(modes, (size,), generator=generator), torch.zeros(size)


def _mean(mode: Modes, along: Along) -> Points:
    del along
    return math.sqrt(2) * _on_circle(mode * (math.pi / 4))


def _in_squares(modes: int, size: int, generator: Generator) -> tuple[Modes, Along]:
    column = torch.randint(modes // 2, (size,), generator=generator)
    return 2 * column + torch.randint(2, (size,), generator=generator), torch.zeros(size)


def _centre(mode: Modes, along: Along) -> Points:
    del along
    column = mode // 2
    return torch.stack([column, 2 * (mode % 2) + column % 2], 1) - 1.5


def _on_arms(modes: int, size: int, generator: Generator) -> tuple[Modes, Along]:
    along = torch.rand(size, generator=generator).sqrt()
    return torch.randint(modes, (size,), generator=generator), along


def _arm(mode: Modes, along: Along) -> Points:
    return 2 * along[:, None] * _on_circle(3 * math.pi * along + math.pi * mode)


def _on_circle(angle: Along) -> Points:
    return torch.stack([angle.cos(), angle.sin()], 1)


_TOYS: dict[str, _Toy] = {
    "moons": _Toy(2, True, _on_curves, _arc, 0.05, 0.7),
    "checkerboard": _Toy(8, False, _in_squares, _centre, None, 1.155),
    "rings": _Toy(4, True, _on_curves, _ring, 0.08, 1.94),
    "eight_gaussians": _Toy(8, True, _at_points, _mean, 0.1, 1.0),
    "spiral": _Toy(2, False, _on_arms, _arm, 0.05, 1.0),
}


def mode_logits(name: ToyName, x: Float[Tensor, "n 2"]) -> Float64[Tensor, "n k"]:
    """Return logits of a density's modes: that of normal noise with its variance, about a mode's nearest point.

    The modes of ``moons``, ``rings`` and ``eight_gaussians`` are their classes; those of ``checkerboard`` are its 8
    squares, each about its centre, those of ``spiral`` its 2 arms, which meet at the origin.

    Args:
        name: A density of ``Toy2D``.
        x: Points.

    Example:
        >>> mode_logits("rings", torch.tensor([[0.0, 0.5], [2.0, 0.0]])).argmax(1)
        tensor([0, 3])
    """
    toy = _TOYS[name]
    mode = torch.arange(toy.modes).repeat_interleave(ALONG)
    spine = toy.spine(mode, torch.linspace(0, 1, ALONG).repeat(toy.modes)).to(x.device).double() / toy.scale
    distances = torch.cdist(x.double(), spine, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.view(-1, toy.modes, ALONG).amin(2)
    return -0.5 * (nearest * toy.scale / (toy.std or UNIFORM_STD)).square()
