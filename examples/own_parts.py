"""A data set, a network, features and an objective of your own: what each must have, and no more."""

import torch
from torch import nn

from realuid_lightning.data import MemorySource
from realuid_lightning.losses import generator_loss, matching_loss
from realuid_lightning.objectives import Objective
from realuid_lightning.recorded import Recorded


class Ring(MemorySource):
    """Points on the unit circle; data too large for memory derive from ``Source``."""

    shape, num_classes = (2,), None

    def load(self):
        """Return all samples, and their labels or None."""
        angle = torch.arange(512) * (2 * torch.pi / 512)
        return torch.stack([angle.cos(), angle.sin()], dim=1), None


class Net(Recorded, nn.Module):
    """Called with times ``(B,)``, points ``(B, *D)`` and labels; ``Recorded`` lets checkpoints rebuild it."""

    def __init__(self, width=64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, t, x, y=None):  # noqa: ARG002
        """Return the prediction, shaped as ``x``."""
        return self.layers(torch.cat([x, t[:, None]], dim=1))


class Radius(nn.Module):
    """Features of which the Fréchet distance is taken: ``num_features`` numbers a sample."""

    num_features = 1

    def forward(self, x):
        """Return features ``(B, num_features)``."""
        return x.norm(dim=1, keepdim=True)


class UID(Objective):
    """What both players minimise: here the fake model matches the generator, which nears the teacher (UID, FGM)."""

    needs_real = False

    def fake(self, game):
        """Return the fake model's loss."""
        point = game.generated
        return matching_loss(game.fake(point), point.target, game.weight)

    def generator(self, game):
        """Return the generator's loss."""
        point = game.generated
        teacher, fake = game.teacher(point), game.fake(point)
        return generator_loss(teacher, fake, point.target, alpha=1.0, beta=1.0, weight=game.weight)
