import pytest
import torch
from test_testing import Conditioned, Curved, Denoiser, Interpolant, Stochastic

from realuid_lightning.errors import UserError
from realuid_lightning.paths import FlowMatchingPath, MatchingPath, expand
from realuid_lightning.testing import check_path


class Backwards(MatchingPath):
    def mean(self, t, x0, x1):
        return t * x0 + (1 - t) * x1


class Range(Curved):
    t_range = (1.0, 0.0)


class TooWide(Curved):
    t_range = (0.0, 1.5)


class Ahead(Curved):
    def sample_t(self, u):
        return 2 * u


class UpAndDown(Curved):
    def sample_t(self, u):
        return 4 * u * (1 - u)


class Drawn(Curved):
    def sample_t(self, u):
        return torch.rand_like(u).sort().values


class Column(Curved):
    def sample_t(self, u):
        return u[:, None]


class Single(Curved):
    def sample_t(self, u):
        return u.float()


class Spiked(Curved):
    def weight(self, t):
        return 1 / t


class Negative(Curved):
    def weight(self, t):
        return t - 0.5


class OneWeight(Curved):
    def weight(self, t):
        return torch.ones((), dtype=t.dtype)


class Weighted(Curved):
    training = frozenset({"power"})

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def weight(self, t):
        return 1 + self.power * t


class Misspelt(Weighted):
    training = frozenset({"pover"})


class Word(Weighted):
    tuning = "power"


class Summed(Curved):
    def mean(self, t, x0, x1):
        return super().mean(t, x0, x1).sum(1, keepdim=True)


class Constants(Curved):
    def mean(self, t, x0, x1):
        return super().mean(t, x0, x1).float()


class Minus(Interpolant):
    def std(self, t):
        return -super().std(t)


class Flat(Interpolant):
    def std(self, t):
        return super().std(t).flatten()


class Infinite(Interpolant):
    t_range = (0.0, 1.0)


class Off(FlowMatchingPath):
    def _point(self, t, x0, x1, eps):
        xt, target = super()._point(t, x0, x1, eps)
        return 1.01 * xt, 1.01 * target


class Random(Curved):
    def _point(self, t, x0, x1, eps):
        xt, target = super()._point(t, x0, x1, eps)
        return xt, target + 1e-6 * torch.randn_like(target)


class Coupled(Curved):
    def mean(self, t, x0, x1):
        return super().mean(t, x0 - x0.mean(0, keepdim=True), x1)


class Target(FlowMatchingPath):
    def _point(self, t, x0, x1, eps):
        return super()._point(t, x0, x1, eps)[0], x1


class Noisy(MatchingPath):
    """Never gets to the data."""

    def mean(self, t, x0, x1):
        return t * x1

    def std(self, t):
        return (1 - t**2 + 0.1).sqrt()


class Leaky(MatchingPath):
    def mean(self, t, x0, x1):
        return (1 - t) * x0 + (0.1 + 0.9 * t) * x1


class Detached(FlowMatchingPath):
    def _point(self, t, x0, x1, eps):
        xt, target = super()._point(t, x0, x1, eps)
        return xt, target.detach()


class HalfDetached(Curved):
    def mean(self, t, x0, x1):
        return super().mean(t, x0, x1.detach())


class Stretched(FlowMatchingPath):
    def denoise(self, t, xt, prediction, x0=None):
        return super().denoise(t, xt, prediction) * 1.001


class Wide(Curved):
    def velocity(self, t, xt, prediction, x0=None):
        return torch.cat([prediction, prediction], 1)


class Pole(Denoiser):
    t_range = (0.0, 1.0)


class Twice(Curved):
    def one_step(self, network, z, y=None, x0=None):
        return super().one_step(network, super().one_step(network, z, y), y)


class Unlabelled(Curved):
    def one_step(self, network, z, y=None, x0=None):
        return super().one_step(network, z)


class Closed(Curved):
    def one_step(self, network, z, y=None, x0=None):
        return super().one_step(network, z, y).detach()


class Bypassed(Curved):
    def one_step(self, network, z, y=None, x0=None):
        return z + super().one_step(network, z.detach(), y).detach()


class Blind(Curved):
    def one_step(self, network, z, y=None, x0=None):
        return super().one_step(network, torch.ones_like(z), y)


class Forgetful(Curved):
    def __init__(self, power: float = 2.0) -> None:
        super().__init__(power)
        self.calls = 0

    def mean(self, t, x0, x1):
        return (1 - t**self.power) * x0 + t**self.power * x1


class Crashing(Curved):
    def weight(self, t):
        raise RuntimeError("no weight\nat all")


class GeneratorAhead(Curved):
    def generator_t(self, u):
        return 2 * u - 0.5


class GeneratorUpAndDown(Curved):
    generator_t = UpAndDown.sample_t


class GeneratorDrawn(Curved):
    generator_t = Drawn.sample_t


class GeneratorSingle(Curved):
    def generator_t(self, u):
        return 0.8 * u.float()


class TimeColumn(Curved):
    def inputs(self, t, xt, x0=None, z=None):
        return t[:, None], xt


class Logarithm(Curved):
    def inputs(self, t, xt, x0=None, z=None):
        return t.log(), xt


class Untold(Conditioned):
    conditions = 0


class Overtold(Conditioned):
    conditions = 3


class Unsourced(Conditioned):
    def inputs(self, t, xt, x0=None, z=None):
        return t, torch.cat([xt, x0[:, :1], z], 1)


class InputOfBatch(Curved):
    def inputs(self, t, xt, x0=None, z=None):
        return t, xt.float()


class HalfOutput(Curved):
    def output(self, t, xt, raw):
        return raw[:, :1]


class SingleOutput(Curved):
    def output(self, t, xt, raw):
        return raw.float()


class InfiniteOutput(Curved):
    def output(self, t, xt, raw):
        return raw / t.reshape(-1, *[1] * (raw.ndim - 1))


class InfiniteAtTheEnd(Curved):
    """Only in float32, and at the last draw of training, does the time of the network overflow."""

    def inputs(self, t, xt, x0=None, z=None):
        return 1e34 / (1 - t + 1e-6), xt


class TurningInput(Curved):
    def inputs(self, t, xt, x0=None, z=None):
        return t * (1 - t), xt


class DeafOutput(Curved):
    def output(self, t, xt, raw):
        return xt + raw * (expand(t, xt) < 1)


class ShiftedBack(Curved):
    def shifted(self, t):
        return 1 - t


class ShiftedOff(Curved):
    def shifted(self, t):
        return t / 2


class SameLevels(Curved):
    def levels(self, steps):
        return [self.generator_start] * steps


class FallingLevels(Curved):
    def levels(self, steps):
        return [0.0, *super().levels(steps)[:0:-1]]


class LateLevels(Curved):
    def levels(self, steps):
        return [0.1 + level for level in super().levels(steps)]


class LevelsToTheEnd(Curved):
    def levels(self, steps):
        return [step / (steps - 1) for step in range(steps)]


class Motionless(Curved):
    def velocity(self, t, xt, prediction, x0=None):
        raise UserError("Motionless has no ODE")


class WideStep(Stochastic):
    def transition(self, t, s, xt, prediction, noise):
        return torch.cat([xt, noise], 1)


class NarrowStep(FlowMatchingPath):
    def transition(self, t, s, xt, prediction, noise):
        return super().transition(t, s, xt, prediction, noise)[:, :1]


class LateStep(Stochastic):
    def transition(self, t, s, xt, prediction, noise):
        return super().transition(t, s, xt, prediction, noise) / (s - s).reshape(-1, 1, 1, 1)


class Revealing(Conditioned):
    """Near t = 0 it holds more of x1 than noise, and shows x0 beside: the two together tell x1."""

    def std(self, t):
        return 0.5 * t * (1 - t)


class Noiseless(Curved):
    translates, conditions = True, 1

    def inputs(self, t, xt, x0=None, z=None):
        return t, torch.cat([xt, x0], 1)


class Subtracting(Noiseless):
    """Shows x0 without a block of its own."""

    conditions = 0

    def inputs(self, t, xt, x0=None, z=None):
        return t, xt - x0


def forgetful():
    path = Forgetful()
    path.power = 3.0
    return path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (Range(), ["t_range: must increase", "(1.0, 0.0)"]),
        (TooWide(), ["t_range: must increase", "in [0, 1]", "(0.0, 1.5)"]),
        (Ahead(), ["sample_t must stay in t_range (0.0, 1.0), got 0 to 2"]),
        (UpAndDown(), ["sample_t must be monotone"]),
        (Drawn(), ["sample_t gave other times in a second call"]),
        (Column(), ["sample_t must have shape (101,), got (101, 1)"]),
        (Single(), ["sample_t must keep torch.float64, got torch.float32"]),
        (Spiked(), ["weight must be finite"]),
        (Negative(), ["weight must be positive, got -0.5"]),
        (OneWeight(), ["weight must have shape (9,), got ()"]),
        (Misspelt(), ["arguments: training must name arguments of __init__, got pover"]),
        (Word(), ["arguments: tuning must be a frozenset of names of arguments, got 'power'"]),
        (Summed(), ["mean must have shape (9, 3, 2, 2), got (9, 1, 2, 2)"]),
        (Constants(), ["mean must keep torch.float64"]),
        (Minus(), ["std must be at least 0, got -0.35"]),
        (Flat(), ["std must have shape (9, 1, 1, 1), got (9,)"]),
        (Infinite(), ["the target at the first and last training time must be finite"]),
        (Off(), ["sample: xt must be mean + std eps"]),
        (Random(), ["sample: a second call gave another result"]),
        (Coupled(), ["must not depend on others in its batch"]),
        (Target(), ["target: must be the time derivative of xt", "override velocity"]),
        (Noisy(), ["at t_range[1] xt must be x1, but differs by 3"]),
        (Leaky(), ["at t_range[0] xt must not depend on x1, but changes by 1"]),
        (Backwards(), ["at t_range[0]", "at t_range[1]", "turn time around"]),
        (Detached(), ["gradients: those of target by x0", "gradients: those of target by x1", "detach"]),
        (HalfDetached(), ["gradients: those of xt by x1", "gradients: those of target by x1"]),
        (Stretched(), ["denoise must turn the target back into x1"]),
        (Wide(), ["velocity must have shape (9, 3, 2, 2), got (9, 6, 2, 2)"]),
        (Pole(), ["velocity must be finite", "weight must be finite"]),
        (Twice(), ["one_step: must call the network once, got 2"]),
        (Unlabelled(), ["one_step: must hand the labels on"]),
        (Closed(), ["no gradient reaches the network's parameters", "no gradient reaches z"]),
        (Bypassed(), ["no gradient reaches the network's parameters"]),
        (Blind(), ["no gradient reaches z"]),
        (forgetful(), ["recorded: a path rebuilt from its record must give equal samples"]),
        (GeneratorAhead(), ["generator_t must stay in t_range (0.0, 1.0), got -0.5 to 1.5"]),
        (GeneratorUpAndDown(), ["generator_t must be monotone"]),
        (GeneratorDrawn(), ["generator_t gave other times in a second call"]),
        (GeneratorSingle(), ["generator_t must keep torch.float64, got torch.float32"]),
        (TimeColumn(), ["prediction: the network's time must have shape (9,), got (9, 1)"]),
        (Logarithm(), ["prediction: the network's time must be finite"]),
        (Untold(), ["prediction: the network's input must have shape (9, 3, 2, 2), got (9, 9, 2, 2)"]),
        (Overtold(), ["prediction: the network's input must have shape (9, 12, 2, 2), got (9, 9, 2, 2)"]),
        (Unsourced(), ["prediction: the network's input must have shape (9, 9, 2, 2), got (9, 7, 2, 2)"]),
        (InputOfBatch(), ["prediction: the network's input must keep torch.float64, got torch.float32"]),
        (HalfOutput(), ["prediction: output must have shape (9, 3, 2, 2), got (9, 1, 2, 2)"]),
        (SingleOutput(), ["prediction: output must keep torch.float64, got torch.float32"]),
        (InfiniteOutput(), ["prediction: output must be finite"]),
        (InfiniteAtTheEnd(), ["prediction: the network's time must be finite"]),
        (TurningInput(), ["prediction: the network's time must be monotone in t"]),
        (DeafOutput(), ["prediction: output must depend on what the network returns at every t"]),
        (ShiftedBack(), ["solving: shifted must rise from one end of t_range to the other, got [1.0, 0.875"]),
        (ShiftedOff(), ["solving: shifted must rise from one end of t_range to the other, got [0.0, 0.0625"]),
        (SameLevels(), ["levels must rise from generator_start 0.0 to below t_range[1], got [0.0, 0.0, 0.0, 0.0]"]),
        (FallingLevels(), ["levels must rise", "got [0.0, 0.75, 0.5, 0.25]"]),
        (LateLevels(), ["levels must rise from generator_start 0.0", "got [0.1, "]),
        (LevelsToTheEnd(), ["levels must rise", "to below t_range[1]"]),
        (Motionless(), ["solving: expected no error, got UserError: Motionless has no stochastic sampling"]),
        (WideStep(), ["solving: transition must have shape (8, 3, 2, 2), got (8, 6, 2, 2)"]),
        (NarrowStep(), ["solving: transition must have shape (8, 3, 2, 2), got (8, 1, 2, 2)"]),
        (LateStep(), ["solving: transition must be finite"]),
        (Revealing(1.0), ["start: the network is shown x0, and with it xt tells x1", "leave x0 out of inputs"]),
        (Noiseless(1.0), ["start: the network is shown x0", "xt holds 0 of x1 beside noise of 0"]),
        (Subtracting(), ["start: the network is shown x0"]),
        (Crashing(), ["expected no error, got RuntimeError: no weight at all"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MatchingPath) else "",
)
def test_broken_paths_are_told_what_is_wrong(path, words):
    with pytest.raises(AssertionError) as caught:
        check_path(path, (3, 2, 2))
    message = str(caught.value)
    assert message.startswith(f"{type(path).__name__} breaks the contract of MatchingPath:\n- ")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("path", "count"),
    [
        (UpAndDown(), 1),
        (Negative(), 1),
        (Target(), 2),
        (Twice(), 1),
        (Blind(), 1),
        (forgetful(), 1),
        (Leaky(), 1),
        (GeneratorUpAndDown(), 1),
        (Untold(), 1),
        (InfiniteAtTheEnd(), 1),
        (TurningInput(), 1),
        (DeafOutput(), 1),
        (ShiftedBack(), 1),
        (SameLevels(), 1),
        (Motionless(), 2),
        (WideStep(), 1),
        (NarrowStep(), 1),
        (Revealing(1.0), 1),
        (Noiseless(1.0), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MatchingPath) else "",
)
def test_nothing_else_is_told(path, count):
    with pytest.raises(AssertionError) as caught:
        check_path(path)
    assert str(caught.value).count("\n") == count, caught.value


def test_a_class_that_no_checkpoint_can_name_is_told():
    class Local(Curved):
        pass

    with pytest.raises(AssertionError, match=r"recorded: expected no error, got UserError: .*top of a module"):
        check_path(Local())


def test_several_faults_come_together():
    class Bad(Negative):
        def one_step(self, network, z, y=None, x0=None):
            return super().one_step(network, z)

    with pytest.raises(AssertionError) as caught:
        check_path(Bad())
    assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "- times",
        "- one_step",
        "- recorded",
    ]
