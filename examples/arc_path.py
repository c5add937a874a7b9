"""A framework of your own: noise to data along a quarter circle."""

import torch

from realuid_lightning.paths import MatchingPath, expand


class ArcPath(MatchingPath):
    """``xt = sin(pi t / 2) x1 + cos(pi t / 2) x0``; the target, its time derivative, comes by itself."""

    def mean(self, t, x0, x1):
        """Return the mean of ``xt``."""
        return torch.sin(torch.pi / 2 * t) * x1 + torch.cos(torch.pi / 2 * t) * x0

    def denoise(self, t, xt, prediction, x0=None):  # noqa: ARG002
        """Return the guess of ``x1`` that a generator begins with."""
        angle = torch.pi / 2 * expand(t, xt)
        return torch.sin(angle) * xt + 2 / torch.pi * torch.cos(angle) * prediction
