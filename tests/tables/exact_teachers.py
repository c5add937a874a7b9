"""Teachers that know it all: on any path that is linear in both ends and its noise, between Gaussians and mixtures."""

from dataclasses import dataclass

import torch

from realuid_lightning.paths import (
    AffinePath,
    DDPMSteps,
    LogSigma,
    MatchingPath,
    PathTime,
    ReversedTime,
    Sigma,
    VPSteps,
)


@dataclass(frozen=True)
class Law:
    """``x0 ~ N(source_mean, source_std^2)``; ``x1 = slope x0 +`` a draw of a mixture of Gaussians; in one dimension.

    Where a path begins at noise, ``x0`` is standard normal and ``slope`` 0.
    """

    means: tuple[float, ...] = (0.7,)
    stds: tuple[float, ...] = (0.4,)
    weights: tuple[float, ...] = (1.0,)
    slope: float = 0.0
    source_mean: float = 0.0
    source_std: float = 1.0

    @property
    def moments(self):
        """Mean and standard deviation of ``x1``."""
        mean = sum(w * m for w, m in zip(self.weights, self.means, strict=True))
        square = sum(w * (m**2 + s**2) for w, m, s in zip(self.weights, self.means, self.stds, strict=True))
        mean, variance = self.slope * self.source_mean + mean, square - mean**2 + (self.slope * self.source_std) ** 2
        return mean, variance**0.5


GAUSSIAN = Law()
MODES = Law((-1.0, 1.2), (0.3, 0.2), (0.3, 0.7))
GAUSSIAN_PAIRS = Law(slope=1.5, source_mean=0.3, source_std=0.8)
PAIRED_MODES = Law((-1.0, 1.2), (0.3, 0.2), (0.3, 0.7), slope=0.5, source_mean=0.3, source_std=0.8)


def coefficients(path, t):
    """Return what ``xt`` and the target hold of ``x1``, ``x0`` and the noise at one time: by a unit of each."""
    x1, x0, noise = torch.eye(3, dtype=t.dtype)[..., None]
    _, point, target = path.sample(t.expand(3), x0, x1, noise)
    return point.unbind(), target.unbind()


def shown(path):
    """Whether the network is shown ``x0``."""
    return path.translates and path.conditions > getattr(path, "latent", False)


def expected_target(path, law, t, xt, x0):
    """Return ``E[c | xt]``, or ``E[c | xt, x0]`` where ``x0`` is given, by conditioning every Gaussian; one time."""
    (a, b, g), (p, q, r) = coefficients(path, t)
    centre, spread = (law.source_mean, law.source_std) if x0 is None else (x0, 0.0)
    # In units of three independent standard normal draws: those of x0, of x1 given x0, and the noise.
    by_source = (a * law.slope + b, p * law.slope + q)
    guesses, logs = [], []
    for mean, std, weight in zip(law.means, law.stds, law.weights, strict=True):
        point = [by_source[0] * spread, a * std, g]
        wanted = [by_source[1] * spread, p * std, r]
        variance = sum(c**2 for c in point)
        whitened = (xt - by_source[0] * centre - a * mean) / variance
        both = sum(c * d for c, d in zip(point, wanted, strict=True))
        guesses.append(by_source[1] * centre + p * mean + both * whitened)
        logs.append(torch.log(weight / variance.sqrt()) - whitened**2 * variance / 2)
    share = torch.softmax(torch.stack(logs), 0)
    return (share * torch.stack(guesses)).sum(0)


def of_ddpm(told, time):
    """Noise level of a step, on a line in its logarithm between two of them."""
    beta = torch.linspace(told.beta_first, told.beta_last, told.steps, dtype=time.dtype)
    kept = (1 - beta).cumprod(0)
    table, below = ((1 - kept) / kept).log() / 2, time.long().clamp(max=told.steps - 2)
    return (table[below] + (time - below) * (table[below + 1] - table[below])).exp()


TOLD = {
    PathTime: lambda told, time, schedule: time / told.scale,
    ReversedTime: lambda told, time, schedule: 1 - time / told.scale,
    Sigma: lambda told, time, schedule: schedule.time(time),
    LogSigma: lambda told, time, schedule: schedule.time((time / told.scale).exp()),
    VPSteps: lambda told, time, schedule: schedule.time(told.diffusion.sigma(1 - time / (told.steps - 1))),
    DDPMSteps: lambda told, time, schedule: schedule.time(of_ddpm(told, time)),
}
"""The time ``t`` of what a network is told."""


def teacher(path, law):
    """Return the network whose prediction is the expected target, through the path's own ``inputs`` and ``output``."""

    def network(time, point, y=None):
        t, xt = time, point[:, :1]
        if isinstance(path, AffinePath):
            t = TOLD[type(path.parameterisation.time)](path.parameterisation.time, time, path.schedule)
            xt = point / path.inputs(t[:1], torch.ones_like(point[:1]))[1]
        x0 = point[:, 1:2] if shown(path) else None
        target = expected_target(path, law, t[:1], xt, x0)
        if type(path).output is MatchingPath.output:
            return target
        none, one = (path.output(t, xt, torch.full_like(xt, raw)) for raw in (0.0, 1.0))
        return (target - none) / (one - none)

    return network


def carried(path, law, start, x0):
    """Return where the exact ODE of a Gaussian takes ``start``: every point stays at its quantile."""
    ends = []
    for time in path.t_range:
        a, b, g = coefficients(path, torch.tensor([time], dtype=start.dtype))[0]
        known, rest = (x0, 0.0) if shown(path) else (law.source_mean, law.source_std)
        by_source = a * law.slope + b
        mean = by_source * known + a * law.means[0]
        ends.append((mean, ((by_source * rest) ** 2 + (a * law.stds[0]) ** 2 + g**2).sqrt()))
    (mean, std), (last_mean, last_std) = ends
    return last_mean + last_std / std * (start - mean)


def began(path, z, x0):
    """Return where samplers begin."""
    return path.noised(torch.full((len(z),), path.t_range[0], dtype=z.dtype), z, torch.zeros_like(z), x0)
