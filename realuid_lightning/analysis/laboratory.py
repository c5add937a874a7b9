"""RealUID as it is trained, between Gaussians on the linear flow path: many small problems in one vectorised run.

The game is the real one: samples are drawn, the fake model is a network that learns, and both players minimise the
package's own losses on the package's own path (RealUID, arXiv 2509.22459). Only the teacher is exact, and the generator
is ``mean + std z``, so that where it ends can be compared with ``best_generator``.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from realuid_lightning.analysis.gaussian import Normal, velocity
from realuid_lightning.losses import fake_loss, general_fake_loss, general_generator_loss, generator_loss
from realuid_lightning.paths import FlowMatchingPath, PathSample
from realuid_lightning.seeding import keyed_generator

WIDTH = 32
LEARNING_RATE = 0.01
BETAS = (0.0, 0.999)  # of Adam, as in the published recipe
PER_SAMPLE = Float[Tensor, "b problems"]


class Problem(NamedTuple):
    """A distillation between Gaussians.

    Attributes:
        real: Distribution of the data.
        teacher: Distribution that the teacher was trained on; another than ``real`` makes it a wrong teacher.
        alpha: In (0, 1].
        beta: Any real number.
        gamma: Third coefficient of general RealUID; None stands for alpha, which is RealUID.
    """

    real: Normal
    teacher: Normal
    alpha: float
    beta: float
    gamma: float | None = None


def train_generators(
    problems: Sequence[Problem], steps: int = 800, seed: int = 0, batch_size: int = 256, fake_steps: int = 3
) -> list[Normal]:
    """Play the min-max game of every problem and return where the generators end, in the order of ``problems``.

    Fake models and generators start at the teacher, as in the package's recipes. Learning rates warm up, then decay to
    a hundredth; the result averages the second half of the generator's iterates. The problems share their draws and
    initial weights and nothing else, so each ends where it would end alone, up to rounding.

    Args:
        problems: At least one.
        steps: Generator updates, at least 1. With 800, 24 problems take half a minute of one core.
        seed: Any integer; the same seed gives the same result on the same machine.
        batch_size: Draws an update.
        fake_steps: Fake updates before each generator update.

    Raises:
        ValueError: Without problems or steps.
    """
    if not problems or steps < 1:
        raise ValueError(f"train_generators needs a problem and a step, got {len(problems)} and {steps}")
    # Problems of the same coefficients lie side by side: they are the dimensions of a sample in one call of a loss.
    coefficients = [problem[2:] for problem in problems]
    order = sorted(range(len(problems)), key=lambda index: coefficients.index(coefficients[index]))
    game = _Game([problems[index] for index in order], seed)
    fake = torch.optim.Adam(game.correction.parameters(), LEARNING_RATE, BETAS)
    generators = torch.optim.Adam([game.mean, game.log_std], LEARNING_RATE, BETAS)
    schedules = [LambdaLR(optimizer, lambda step: _rate(step, steps)) for optimizer in (fake, generators)]
    draws = keyed_generator(seed, 1)
    total, first = torch.zeros(2, len(problems)), steps // 2
    for step in range(steps):
        for _ in range(fake_steps):
            _descend(fake, game.fake_loss(_draw(batch_size, draws)))
        _descend(generators, game.generator_loss(_draw(batch_size, draws)))
        for schedule in schedules:
            schedule.step()
        if step >= first:
            total += torch.stack([game.mean.detach(), game.log_std.detach().exp()])
    ends = dict(zip(order, (total / (steps - first)).T.tolist(), strict=True))
    return [Normal(*ends[index]) for index in range(len(problems))]


class _Correction(nn.Module):
    """What the fake models add to the teacher: ``shift + slope x`` by a perceptron for each problem, zero at first."""

    def __init__(self, problems: int, seed: int) -> None:
        super().__init__()
        generator = keyed_generator(seed, 0)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in ((4, WIDTH), (WIDTH, WIDTH), (WIDTH, 2)):
            scale = 0.0 if outputs == 2 else 1.0
            weight = scale * math.sqrt(3 / inputs) * (2 * torch.rand(1, inputs, outputs, generator=generator) - 1)
            bias = scale * (2 * torch.rand(1, 1, outputs, generator=generator) - 1)
            self.weights.append(nn.Parameter(weight.repeat(problems, 1, 1)))
            self.biases.append(nn.Parameter(bias.repeat(problems, 1, 1)))

    def forward(self, t: Float[Tensor, " b"], x: PER_SAMPLE) -> PER_SAMPLE:
        """Return each problem's correction at its own points."""
        points, times = x.T, t.expand(x.shape[1], -1)
        hidden = torch.stack([points, points * times, 2 * times - 1, 4 * times**2 - 2], dim=-1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, nn.functional.silu(hidden) if layer else hidden, weight)
        shift, slope = hidden.unbind(-1)
        return (shift + slope * points).T


class _Draw(NamedTuple):
    """A batch that all problems share: times, and standard normal sources, latents and data, ``(B,)`` each."""

    t: Tensor
    x0: Tensor
    z: Tensor
    data: Tensor


class _Game:
    """Both players of all problems, grouped by their coefficients, and their losses, summed over the problems.

    A sum keeps the problems apart: the gradient of a problem's parameters comes from its own loss alone, and Adam
    updates every parameter by itself.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.path = FlowMatchingPath()
        self.real = torch.tensor([problem.real for problem in problems]).T
        self.teacher = torch.tensor([problem.teacher for problem in problems]).T
        self.correction = _Correction(len(problems), seed)
        self.mean = self.teacher[0].clone().requires_grad_()
        self.log_std = self.teacher[1].log().requires_grad_()
        groups = Counter(problem[2:] for problem in problems)
        self.coefficients = list(groups)
        self.sizes = list(groups.values())

    def fake_loss(self, draw: _Draw) -> Tensor:
        """Return what the fake models minimise; the generators are held fixed."""
        with torch.no_grad():
            generated, real = self._generated(draw), self._point(draw, self.real[0] + self.real[1] * draw.data[:, None])
        t, x = torch.cat([draw.t, draw.t]), torch.cat([generated.xt, real.xt])
        teacher = self._velocity(t, x)
        fakes, teachers = (teacher + self.correction(t, x)).chunk(2), teacher.chunk(2)
        terms = [fakes[0], teachers[0], generated.target, fakes[1], teachers[1], real.target]
        groups = zip(*map(self._split, terms), self.coefficients, strict=True)
        losses = [_fake_loss(group[:3], group[3:], *own) for *group, own in groups]
        return torch.stack(losses).sum()

    def generator_loss(self, draw: _Draw) -> Tensor:
        """Return what the generators minimise; gradients reach the fake models' weights, too, and are not used."""
        generated = self._generated(draw)
        teacher = self._velocity(draw.t, generated.xt)
        fake = teacher + self.correction(draw.t, generated.xt)
        terms = [self._split(term) for term in (teacher, fake, generated.target)]
        losses = [_generator_loss(*group, *own) for *group, own in zip(*terms, self.coefficients, strict=True)]
        return torch.stack(losses).sum()

    def _generated(self, draw: _Draw) -> PathSample:
        return self._point(draw, self.mean + self.log_std.exp() * draw.z[:, None])

    def _point(self, draw: _Draw, x1: Tensor) -> PathSample:
        return self.path.sample(draw.t, draw.x0[:, None].expand_as(x1), x1)

    def _velocity(self, t: Tensor, x: Tensor) -> Tensor:
        return velocity(self.teacher[0], self.teacher[1], t[:, None], x)

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        return torch.split(values, self.sizes, dim=1)


def _fake_loss(
    generated: Sequence[Tensor], real: Sequence[Tensor], alpha: float, beta: float, gamma: float | None
) -> Tensor:
    """Return the loss of a group; both halves are fake, teacher and target."""
    if gamma is None:
        return fake_loss(*generated[::2], *real[::2], alpha=alpha, beta=beta)
    return general_fake_loss(*generated, *real, alpha=alpha, beta=beta, gamma=gamma)


def _generator_loss(
    teacher: Tensor, fake: Tensor, target: Tensor, alpha: float, beta: float, gamma: float | None
) -> Tensor:
    if gamma is None:
        return generator_loss(teacher, fake, target, alpha=alpha, beta=beta)
    return general_generator_loss(teacher, fake, target, alpha=alpha, beta=beta, gamma=gamma)


def _draw(batch_size: int, generator: torch.Generator) -> _Draw:
    normal = torch.randn(3, batch_size, generator=generator)
    return _Draw(torch.rand(batch_size, generator=generator), *normal)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    loss.backward(inputs=parameters)  # type: ignore[no-untyped-call]  # the other player's gradients are never computed
    optimizer.step()


def _rate(step: int, steps: int) -> float:
    """Return the share of the full learning rate: up over an eighth of the run, then down along a cosine."""
    warm = min(1.0, (step + 1) / max(1, steps // 8))
    return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
