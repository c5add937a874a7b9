"""The networks and batches that benchmarks are run at."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from realuid_lightning.networks import MLP, UNet


class Size(NamedTuple):
    """A network, and how much of it a benchmark runs on each kind of device.

    Attributes:
        make: Makes the network.
        batch: Samples per network update, by kind of device.
        cycles: Timed cycles, by kind of device.
        warm_up: Cycles before, by kind of device.
    """

    make: Callable[[], nn.Module]
    batch: dict[str, int]
    cycles: dict[str, int]
    warm_up: dict[str, int]


def unet(size: int) -> UNet:
    """Return the UNet of configs/cifar_uncond.yaml or, at 64 x 64, of configs/celeba.yaml."""
    return UNet(size, 3, 128, 2, [1, 2, 2, 2], [16], 64)


SIZES = {
    "demo": Size(lambda: MLP([1, 8, 8]), {"cpu": 128, "cuda": 256}, {"cpu": 30, "cuda": 30}, {"cpu": 5, "cuda": 5}),
    "cifar": Size(lambda: unet(32), {"cpu": 4, "cuda": 256}, {"cpu": 1, "cuda": 3}, {"cpu": 1, "cuda": 1}),
    "celeba": Size(lambda: unet(64), {"cpu": 1, "cuda": 128}, {"cpu": 1, "cuda": 3}, {"cpu": 1, "cuda": 1}),
}
IMAGES = 2048
"""Images of a data set."""

_FEW, _ONE = ({"cpu": count, "cuda": count} for count in (3, 1))
TINY = {  # the same kinds of network, for tests
    "demo": Size(lambda: MLP([1, 8, 8], width=16, depth=1), _FEW, _FEW, _ONE),
    "cifar": Size(lambda: UNet(8, 3, 32, 1, [1, 1], [4], 32), _FEW, _FEW, _ONE),
    "celeba": Size(lambda: UNet(16, 3, 32, 1, [1, 1], [8], 32), _FEW, _FEW, _ONE),
}


def size_of(name: str, tiny: bool) -> Size:
    """Return a size by its name."""
    return (TINY if tiny else SIZES)[name]


class Workload(NamedTuple):
    """What each row of a table does.

    Attributes:
        size: Name of the size.
        tiny: Whether it is a miniature for tests.
        kind: ``cpu`` or ``cuda``.
        batch: Samples per update.
        warm_up: Cycles that are not timed.
        cycles: Timed cycles.
    """

    size: str
    tiny: bool
    kind: str
    batch: int
    warm_up: int
    cycles: int

    @property
    def device(self) -> torch.device:
        """The device."""
        return torch.device(self.kind)

    def network(self) -> nn.Module:
        """Return the network, always with the same weights.

        Its last layers would start at zero, where gradients of most weights are zero too; they are drawn as well, as if
        it had been trained.
        """
        torch.manual_seed(0)
        made = size_of(self.size, self.tiny).make()
        for weight in made.parameters():
            if weight.ndim > 1 and not weight.any():
                nn.init.normal_(weight, std=0.02)
        return made
