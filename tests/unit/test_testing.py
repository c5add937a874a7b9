import pytest
import torch

from realuid_lightning.errors import UserError
from realuid_lightning.paths import CosineSchedule, FlowMatchingPath, LinearSchedule, MatchingPath, VPSchedule, expand
from realuid_lightning.testing import check_path

SHAPES = [(3, 4, 4), (2,), (1,)]


class Curved(MatchingPath):
    """A path of one's own, by its mean."""

    def __init__(self, power: float = 2.0) -> None:
        self.power = power

    def mean(self, t, x0, x1):
        return (1 - t**self.power) * x0 + t**self.power * x1


class Interpolant(Curved):
    """And one with noise."""

    t_range = (1e-3, 1 - 1e-3)

    def std(self, t):
        return 0.5 * (2 * t * (1 - t)).sqrt()


class Denoiser(MatchingPath):
    """A diffusion: x0 is the noise, the network predicts x1."""

    t_range = (0.0, 0.99)

    def sigma(self, t):
        return 80 * (1 - t) ** 3

    def mean(self, t, x0, x1):
        return x1 + self.sigma(t) * x0

    def _point(self, t, x0, x1, eps):
        return self.mean(t, x0, x1), x1

    def weight(self, t):
        return 1 / self.sigma(t) ** 2

    def velocity(self, t, xt, prediction, x0=None):
        return -3 / expand(1 - t, xt) * (xt - prediction)

    def denoise(self, t, xt, prediction, x0=None):
        return prediction

    def one_step(self, network, z, y=None, x0=None):
        t = torch.full(z.shape[:1], 0.685, dtype=z.dtype)
        return network(t, 2.5 * z, y)


class Translator(Interpolant):
    """A bridge: x0 is a picture, its latent comes as further channels."""

    def one_step(self, network, z, y=None, x0=None):
        t = torch.full(z.shape[:1], self.t_range[0], dtype=z.dtype)
        return network(t, torch.cat([x0, z], 1), y)


class Preconditioned(Denoiser):
    """The same with scales around the network, times of its own for the generator, and levels in equal ratios."""

    def inputs(self, t, xt, x0=None, z=None):
        sigma = self.sigma(t)
        return sigma.log() / 4, xt / expand((sigma**2 + 1).sqrt(), xt)

    def output(self, t, xt, raw):
        sigma = expand(self.sigma(t), xt)
        return (xt + sigma * (sigma**2 + 1).sqrt() * raw) / (sigma**2 + 1)

    def generator_t(self, u):
        return 0.99 * (1 - 0.8 * u)

    def levels(self, steps):
        return [1 - (1 - 0.01) * 0.3 ** (step / steps) for step in range(steps)]

    @property
    def generator_start(self):
        return self.levels(1)[0]


class Conditioned(Interpolant):
    """A bridge that shows the network its source and its latent."""

    translates = True
    conditions = 2

    def inputs(self, t, xt, x0=None, z=None):
        return t, torch.cat([xt, x0, torch.zeros_like(xt) if z is None else z], 1)


class Stochastic(Interpolant):
    """A path without an ODE, but with a law of later points."""

    def velocity(self, t, xt, prediction, x0=None):
        raise UserError("Stochastic has no ODE")

    def denoise(self, t, xt, prediction, x0=None):
        return prediction

    def transition(self, t, s, xt, prediction, noise):
        t, s = expand(t, xt), expand(s, xt)
        return xt + (s - t) / (1 - t) * (prediction - xt) + ((s - t) * (1 - s) / (1 - t)).sqrt() * noise

    def _point(self, t, x0, x1, eps):
        return super()._point(t, x0, x1, eps)[0], x1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "path",
    [
        FlowMatchingPath(),
        FlowMatchingPath(LinearSchedule()),
        FlowMatchingPath(CosineSchedule()),
        FlowMatchingPath(VPSchedule()),
        FlowMatchingPath(VPSchedule(0.5, 30.0)),
        Curved(),
        Curved(1.5),
        Interpolant(1.0),
        Denoiser(),
        Translator(),
        Preconditioned(),
        Conditioned(),
        Stochastic(),
    ],
    ids=lambda path: type(path).__name__,
)
def test_sound_paths_pass(path, shape):
    state = torch.get_rng_state()
    check_path(path, shape)
    assert torch.equal(torch.get_rng_state(), state)
