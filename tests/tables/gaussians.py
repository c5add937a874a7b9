"""Exact models between Gaussians in one dimension, for any path that is linear in both ends and its noise.

At one time of a path everything is a linear function of independent standard normal numbers ``(z, x0, eps)``: the
sample ``x1 = mean + std z + tilt x0``, the point ``xt`` and the target ``c``. So densities and ``E[c | xt]`` are known
in closed form; what the path makes of the numbers is asked of ``path.sample`` itself. A network that is shown ``x0``
knows it: there it is held at one value.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from realuid_lightning.data import Draws

KNOWN = 0.7  # the value of x0 where the network is shown it


class Law(NamedTuple):
    """``x1 = mean + std z + tilt x0``; the tilt is for paths between two domains."""

    mean: float
    std: float
    tilt: float = 0.0

    def sample(self, z, x0):
        return self.mean + self.std * z + self.tilt * x0


class Moment:
    """One time of a path: laws of ``xt``, exact models, and batches that integrate over all numbers.

    Attributes:
        known: Whether the network is shown ``x0``.
        unit: ``dx1 / df``, what a unit of the prediction is in units of ``x1``.
        weight: The path's weight.
    """

    def __init__(self, path, t):
        self.path, self.t = path, torch.as_tensor(t, dtype=torch.float64)
        self.known = path.translates and path.conditions > getattr(path, "latent", False)
        one, x0 = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), KNOWN, dtype=torch.float64)
        now = self.t.reshape(1)
        self.unit = float(path.denoise(now, one, one, x0) - path.denoise(now, one, 0 * one, x0))
        weight = path.weight(now)
        self.weight = 1.0 if weight is None else float(weight)
        self.scale = float(path.inputs(now, one, x0)[1][0, 0])
        self.linear = functools.cache(self._linear)  # one table asks for few laws, again and again

    def __deepcopy__(self, memo):
        return self  # nothing changes it, and roles are copies of a network

    # ------------------------------------------------------------------------------------------- laws and models

    def _linear(self, law):
        """Mean of ``(xt, c)``, ``(2,)``, and what a unit of each unknown number adds, ``(2, unknown)``."""
        unknown = torch.eye(3, dtype=torch.float64)[[0, 2] if self.known else [0, 1, 2]]
        numbers = torch.cat([torch.zeros(1, 3, dtype=torch.float64), unknown])
        numbers[:, 1] += KNOWN if self.known else 0.0
        z, x0, eps = numbers.T[..., None]
        _, xt, target = self.path.sample(self.t.expand(len(z)), x0, law.sample(z, x0), eps)
        values = torch.cat([xt, target], 1).T
        return values[:, 0], values[:, 1:] - values[:, :1]

    def log_density(self, x, law):
        mean, loadings = self.linear(law)
        variance = loadings[0].square().sum()
        return -((x - mean[0]) ** 2) / (2 * variance) - (2 * math.pi * variance).log() / 2

    def target(self, x, law):
        """``E[c | xt]`` (and ``x0``, where it is known)."""
        mean, loadings = self.linear(law)
        return mean[1] + loadings[0] @ loadings[1] / loadings[0].square().sum() * (x - mean[0])

    def logits(self, x, generated, real):
        """The exact discriminator, ``log(p_real / p_generated)``."""
        return self.log_density(x, real) - self.log_density(x, generated)

    def fake(self, x, generated, real, alpha, beta, gamma=None):
        """The exact fake model, over ``m / p_generated = alpha + (1 - alpha) p_real / p_generated``."""
        ratio = self.logits(x, generated, real).exp()
        mixture = alpha + (1 - alpha) * ratio
        flux = beta * self.target(x, generated) + (1 - beta) * ratio * self.target(x, real)
        if gamma is None:
            return flux / mixture
        return (flux + (mixture - gamma - (1 - gamma) * ratio) * self.target(x, real)) / mixture

    # --------------------------------------------------------------------------------------------------- batches

    def grid(self, *laws, count):
        """Points all over the laws of ``xt``, and their distance."""
        ends = []
        for law in laws:
            mean, loadings = self.linear(law)
            ends += [mean[0] + side * 9 * loadings[0].norm() for side in (-1, 1)]
        x = torch.linspace(float(min(ends)), float(max(ends)), count, dtype=torch.float64)
        return x, x[1] - x[0]

    def along(self, law, count):
        """A batch and its shares, which integrates what is a square at most in all that ``xt`` does not tell.

        A grid in the direction that ``xt`` sees, by two Gauss-Hermite nodes in each of those that it does not.
        """
        _, loadings = self.linear(law)
        directions = torch.linalg.svd(loadings[:1])[2]  # the first is along xt
        seen = torch.linspace(-9.0, 9.0, count, dtype=torch.float64)
        signs = [torch.tensor([-1.0, 1.0], dtype=torch.float64)] * (len(directions) - 1)
        numbers = torch.cartesian_prod(seen, *signs) @ directions
        shares = torch.exp(-(seen**2) / 2) / math.sqrt(2 * math.pi) * (seen[1] - seen[0]) / 2 ** len(signs)
        return self.batch(numbers), shares.repeat_interleave(2 ** len(signs))

    def product(self, count):
        """A batch and its shares: the product of Gauss-Hermite rules."""
        nodes, shares = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(count))
        unknown = 2 if self.known else 3
        numbers = torch.cartesian_prod(*[nodes] * unknown)
        return self.batch(numbers), torch.cartesian_prod(*[shares / shares.sum()] * unknown).prod(1)

    def batch(self, numbers):
        z, *x0, eps = numbers.T[..., None]
        x0 = torch.full_like(z, KNOWN) if self.known else x0[0]
        t = self.t.expand(len(z))
        first, last = self.path.t_range
        u = (t - first) / (last - first)  # a discriminator that looks all over the range looks here, too
        return Draws(x1=None, x0=x0, z=z, t=t, eps=eps if self.path.noisy else None, u=u)


class Exact(nn.Module):
    """A network whose predictions are ``model(xt)``, and its logits ``logits(xt)``, whatever a path makes of them."""

    def __init__(self, moment, model, logits=None):
        super().__init__()
        self.moment, self.model, self.logits, self.shares = moment, model, logits, None

    def forward(self, time, point, y=None, predicted=None, judged=0):
        path, xt = self.moment.path, point[:, :1] / self.moment.scale
        t = self.moment.t.expand(len(xt))
        zero, one = (path.output(t, xt, torch.full_like(xt, value)) for value in (0.0, 1.0))
        predicted = len(xt) - judged if predicted is None else predicted
        raw = self._shared((self.model(xt[:predicted]) - zero[:predicted]) / (one - zero)[:predicted])
        return (raw, self._shared(self.logits(xt[len(xt) - judged :]))[:, 0]) if judged else raw

    def _shared(self, output):
        """Each row's gradient counts by its share, in every half of a batch."""
        if self.shares is not None and output.requires_grad:
            shares = len(self.shares) * self.shares.repeat(len(output) // len(self.shares))
            output.register_hook(lambda gradient: gradient * shares[:, None])
        return output


class Generator(nn.Module):
    """Draws from a law, of which mean and deviation train; each sample's gradient counts by its share."""

    def __init__(self, law, shares=None):
        super().__init__()
        self.mean, self.std = (nn.Parameter(torch.tensor(each, dtype=torch.float64)) for each in law[:2])
        self.tilt, self.shares = law.tilt, shares

    def rollout(self, z, y=None, x0=None, renoise=None):
        x1 = Law(self.mean, self.std, self.tilt).sample(z, torch.zeros_like(z) if x0 is None else x0)
        if self.shares is not None and x1.requires_grad:
            x1.register_hook(lambda gradient: gradient * len(z) * self.shares[:, None])
        return x1
