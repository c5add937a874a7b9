import math
from itertools import pairwise

import pytest
import torch

from realuid_lightning.errors import UserError
from realuid_lightning.paths import (
    BridgePath,
    CosineSchedule,
    DiffusionPath,
    EncoderDecoderSchedule,
    FlowMatchingPath,
    InterpolantPath,
    LinearSchedule,
    MatchingPath,
    VPSchedule,
)
from realuid_lightning.solvers import Ancestral, Euler, Heun

MEAN, STD = 0.7, 0.4
PATHS = {
    "linear": FlowMatchingPath(),
    "cosine": FlowMatchingPath(CosineSchedule()),
    "vp": FlowMatchingPath(VPSchedule()),
}


def exact_velocity(path):
    """The teacher that knows it all: E[c | xt] for x0 ~ N(0, 1), x1 ~ N(MEAN, STD^2)."""

    def network(t, x, y=None):
        assert y is None
        a, b, da, db = path.schedule(t[:, None])
        variance = (a * STD) ** 2 + b**2
        return da * MEAN + (a * da * STD**2 + b * db) / variance * (x - a * MEAN)

    return network


def exact_end(path, z):
    """Where the exact ODE of a Gaussian takes the start: xt stays at the same quantile, shifted and scaled."""
    a, b, _, _ = path.schedule(torch.tensor(path.t_range, dtype=z.dtype))
    mean, std = a * MEAN, ((a * STD) ** 2 + b**2).sqrt()
    start = path.noised(z.new_full((len(z),), path.t_range[0]), z, torch.zeros_like(z))
    return mean[1] + std[1] / std[0] * (start - mean[0])


def source(count=64):
    return torch.linspace(-3, 3, count, dtype=torch.float64)[:, None]


def error(solver, path, steps):
    x0 = source()
    return float((solver.sample(path, exact_velocity(path), x0, None, steps) - exact_end(path, x0)).abs().max())


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Heun(), 2)])
def test_the_error_falls_with_the_order_of_the_solver(name, solver, order):
    errors = [error(solver, PATHS[name], steps) for steps in (200, 400, 800)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.02)


@pytest.mark.parametrize(
    ("solver", "name", "accuracy"),
    [
        (Euler(), "linear", 0.01),
        (Euler(), "cosine", 0.01),
        (Euler(), "vp", 0.01),
        (Heun(), "linear", 5e-5),
        (Heun(), "cosine", 1e-4),
        (Heun(), "vp", 3e-3),  # its source still knows 0.7% of the mean
    ],
)
def test_a_hundred_steps_make_the_data_distribution(solver, name, accuracy):
    path = PATHS[name]
    x0 = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = (x0 - x0.mean()) / x0.std()  # of mean 0 and variance 1 exactly: no sampling error
    made = solver.sample(path, exact_velocity(path), x0, None, 100)
    assert float(made.mean()) == pytest.approx(MEAN, abs=accuracy)
    assert float(made.std()) == pytest.approx(STD, abs=accuracy)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("solver", [Euler(), Heun()])
def test_a_single_step_is_the_one_step_generator(name, solver):
    path, network = PATHS[name], exact_velocity(PATHS[name])
    assert torch.equal(solver.sample(path, network, source(), None, 1), path.one_step(network, source()))


@pytest.mark.parametrize("steps", [0, -1])
def test_less_than_a_step_is_refused(steps):
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        Euler().sample(FlowMatchingPath(), exact_velocity(FlowMatchingPath()), source(), None, steps)


class Doubled(MatchingPath):
    """Its network predicts half the velocity."""

    t_range = (0.2, 0.7)

    def mean(self, t, x0, x1):
        return (1 - t) * x0 + t * x1

    def velocity(self, t, xt, prediction, x0=None):
        assert t.shape == xt.shape[:1]
        return 2 * prediction


@pytest.mark.parametrize(
    ("solver", "calls"),
    [(Euler(), [0.2, 0.325, 0.45, 0.575]), (Heun(), [0.2, 0.325, 0.325, 0.45, 0.45, 0.575, 0.575, 0.7])],
)
def test_steps_are_equal_over_the_range_of_the_path(solver, calls):
    seen, y = [], torch.arange(3)

    def network(t, x, y=None):
        seen.append((t, y))
        return torch.ones_like(x)

    x0 = torch.zeros(3, 2, 2, requires_grad=True)
    made = solver.sample(Doubled(), network, x0, y, 4)
    torch.testing.assert_close(made, torch.full((3, 2, 2), 2 * 0.5))
    assert not made.requires_grad
    assert all(labels is y for _, labels in seen)
    torch.testing.assert_close(torch.stack([t for t, _ in seen]), torch.tensor(calls)[:, None].expand(-1, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_type_of_the_source_is_kept(dtype):
    made = Heun().sample(
        FlowMatchingPath(LinearSchedule()), lambda t, x, _: x * t[:, None], torch.ones(2, 3, dtype=dtype), None, 3
    )
    assert made.dtype == dtype


# ------------------------------------------------------------------------------------------------- every framework

GAMMAS = {
    "sqrt": lambda t: ((2 * t * (1 - t)).sqrt(), 1 - 2 * t),
    "sin2": lambda t: (torch.sin(math.pi * t) ** 2, math.pi * torch.sin(math.pi * t) ** 2 * torch.sin(2 * math.pi * t)),
    "none": lambda t: (0 * t, 0 * t),
}
INTERPOLANTS = {
    f"{name} {gamma}": InterpolantPath(schedule, gamma)
    for name, schedule in {"linear": None, "cosine": CosineSchedule(), "encdec": EncoderDecoderSchedule()}.items()
    for gamma in GAMMAS
    if (name, gamma) != ("encdec", "none")
}
DIFFUSIONS = {"edm": DiffusionPath(), "vp diffusion": DiffusionPath(VPSchedule())}
ODES = PATHS | DIFFUSIONS | INTERPOLANTS


def spread(path, t):
    """Standard deviation gamma of the noise in between, and gamma gamma'."""
    return GAMMAS[getattr(path, "gamma", "none")](t)


def exact(path):
    """The teacher of any path with Gaussian x0: what it returns, ``output`` turns into the expected target."""

    def network(time, point, y=None):
        t = path.schedule.time((4 * time).exp()) if isinstance(path, DiffusionPath) else time
        xt = point / path.inputs(t, torch.ones_like(point))[1]
        a, b, da, db = path.schedule(t[:, None])
        gamma, growth = spread(path, t[:, None])
        whitened = (xt - a * MEAN) / ((a * STD) ** 2 + b**2 + gamma**2)
        if isinstance(path, DiffusionPath):
            expected = MEAN + a * STD**2 * whitened
        else:
            expected = da * MEAN + (a * da * STD**2 + b * db + growth) * whitened
        skipped, all_of_it = (path.output(t, xt, torch.full_like(xt, raw)) for raw in (0.0, 1.0))
        return (expected - skipped) / (all_of_it - skipped)

    return network


def units(count):
    """A row of zeros, a row that is 1 at the start, and for every step a row whose noise is 1 in that step alone.

    With exact Gaussian teachers every solver is affine in its draws, so what these rows become tells the mean and the
    variance of the samples without any sampling error.
    """
    z = torch.zeros(count + 1, 1, dtype=torch.float64)
    z[1] = 1

    def noise(number):
        row = torch.zeros_like(z)
        row[1 + number] = 1
        return row

    return z, noise


def moments(solver, path, steps):
    z, noise = units(steps)
    made = solver.sample(path, exact(path), z, None, steps, noise=noise)
    return torch.stack([made[0, 0], (made[1:] - made[0]).square().sum()])


def extrapolated(measure, steps):
    """What a solver of first order tends to as its steps shrink."""
    return 2 * measure(2 * steps) - measure(steps)


def law(path, t):
    t = torch.tensor(t, dtype=torch.float64)
    a, b, _, _ = path.schedule(t)
    return torch.stack([a * MEAN, (a * STD) ** 2 + b**2 + spread(path, t)[0] ** 2])


@pytest.mark.parametrize("name", ODES)
def test_euler_tends_to_the_law_of_the_data_end(name):
    path = ODES[name]
    found = extrapolated(lambda steps: moments(Euler(), path, steps), 300 if name == "edm" else 100)
    torch.testing.assert_close(found, law(path, path.t_range[1]), rtol=0.01, atol=0)


@pytest.mark.parametrize("name", ODES)
def test_heun_makes_the_law_of_the_data_end(name):
    path = ODES[name]
    torch.testing.assert_close(moments(Heun(), path, 150), law(path, path.t_range[1]), rtol=0.01, atol=0)


@pytest.mark.parametrize("name", PATHS | DIFFUSIONS)
def test_ancestral_sampling_tends_to_the_law_of_the_data(name):
    path = ODES[name]
    found = extrapolated(lambda steps: moments(Ancestral(), path, steps), 200)
    torch.testing.assert_close(found, torch.tensor([MEAN, STD**2], dtype=torch.float64), rtol=0.01, atol=0)


def test_ancestral_sampling_is_of_first_order_in_the_variance_and_exact_in_the_mean():
    found = torch.stack([moments(Ancestral(), PATHS["linear"], steps) for steps in (100, 200, 400)])
    error = found - torch.tensor([MEAN, STD**2], dtype=torch.float64)
    assert error[:, 0].abs().max() < 1e-9
    assert (error[:, 1] < 0).all()  # a guess in place of a draw of x1 knows less variety
    for coarse, fine in pairwise(error[:, 1].tolist()):
        assert coarse / fine == pytest.approx(2, rel=0.1)


# A bridge between x0 ~ N(0.3, 0.8^2) and x1 = SLOPE x0 + SHIFT + REST n.
SOURCE_MEAN, SOURCE_STD, SLOPE, SHIFT, REST, EPS = 0.3, 0.8, -0.6, 0.7, 0.4, 0.5


def exact_bridge(path):
    """The teacher that knows E[x1 | xt, x0], or E[x1 | xt] where it is not shown x0."""

    def network(t, x, y=None):
        t = t[:, None]
        bridge = EPS**2 * t * (1 - t)
        if path.condition:
            xt, x0 = x.chunk(2, 1)
            mean = SLOPE * x0 + SHIFT
            ahead = REST**2 / (t * REST**2 + EPS**2 * (1 - t)) * (xt - (1 - t) * x0 - t * mean)
        else:
            xt, mean = x, torch.full_like(x, SLOPE * SOURCE_MEAN + SHIFT)
            both, end = SLOPE * SOURCE_STD**2, SLOPE**2 * SOURCE_STD**2 + REST**2
            variance = ((1 - t) * SOURCE_STD) ** 2 + t**2 * end + 2 * t * (1 - t) * both + bridge
            ahead = (t * end + (1 - t) * both) / variance * (xt - (1 - t) * SOURCE_MEAN - t * mean)
        return mean + ahead if path.target == "x1" else (mean + ahead - xt) / (1 - t)

    return network


def bridge_moments(solver, path, steps):
    """Mean, slope by x0, and variance given x0 and altogether; the last row has an x0 one deviation further."""
    z, noise = units(steps)
    z, x0 = torch.cat([z, z[:1]]), torch.full((len(z) + 1, 1), SOURCE_MEAN, dtype=torch.float64)
    x0[-1] += SOURCE_STD
    made = solver.sample(path, exact_bridge(path), z, None, steps, x0, lambda k: torch.cat([noise(k), 0 * z[:1]]))
    by_draw, by_source = (made[1:-1] - made[0]).square().sum(), made[-1, 0] - made[0, 0]
    return torch.stack([made[0, 0], by_source / SOURCE_STD, by_draw, by_draw + by_source**2])


@pytest.mark.parametrize("target", ["x1", "drift"])
def test_ancestral_sampling_of_a_conditioned_bridge_tends_to_the_law_of_the_pairs(target):
    path = BridgePath(EPS, target)
    found = extrapolated(lambda steps: bridge_moments(Ancestral(), path, steps), 200)
    mean, end = SLOPE * SOURCE_MEAN + SHIFT, (SLOPE * SOURCE_STD) ** 2 + REST**2
    expected = torch.tensor([mean, SLOPE, REST**2, end], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)


@pytest.mark.parametrize("target", ["x1", "drift"])
def test_ancestral_sampling_of_an_unconditioned_bridge_tends_to_the_law_of_the_data(target):
    path = BridgePath(EPS, target, condition=False)
    mean, _, _, variance = extrapolated(lambda steps: bridge_moments(Ancestral(), path, steps), 200).tolist()
    assert mean == pytest.approx(SLOPE * SOURCE_MEAN + SHIFT, rel=0.01)
    assert variance == pytest.approx((SLOPE * SOURCE_STD) ** 2 + REST**2, rel=0.01)


class Inner(BridgePath):
    """A bridge without its ends, where the ODE is singular."""

    t_range = (0.05, 0.95)


@pytest.mark.parametrize("target", ["x1", "drift"])
def test_euler_reproduces_the_law_of_a_whole_bridge_given_the_source(target):
    """From end to end, singular as they are: mean and variance to 1 %, extrapolated from two step counts."""
    path, z = BridgePath(EPS, target), torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    x0 = torch.full_like(z, 0.7)
    # The ODE carries (z = -1, 0, 1) to mean and mean +- std, for the exact teacher is affine.
    ends = [Euler().sample(path, exact_bridge(path), z, None, steps, x0) for steps in (100, 200)]
    low, mean, high = (2 * ends[1] - ends[0]).flatten().tolist()
    assert mean == pytest.approx(SLOPE * 0.7 + SHIFT, rel=0.01)
    assert ((high - low) / 2) ** 2 == pytest.approx(REST**2 + EPS**2 * 1e-3, rel=0.01)


@pytest.mark.parametrize("target", ["x1", "drift"])
@pytest.mark.parametrize(("solver", "order", "accuracy"), [(Euler(), 1, 0.02)])
def test_the_ode_of_a_conditioned_bridge_keeps_the_quantiles_given_the_source(solver, order, accuracy, target):
    path, z = Inner(EPS, target), source(8)
    x0 = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    t = torch.tensor(path.t_range, dtype=torch.float64)
    mean = (1 - t) * x0 + t * (SLOPE * x0 + SHIFT)
    std = ((t * REST) ** 2 + EPS**2 * t * (1 - t)).sqrt()
    start = path.noised(t[0].expand(8), z, torch.zeros_like(z), x0)
    expected = mean[:, 1:] + std[1] / std[0] * (start - mean[:, :1])
    errors = [
        float((solver.sample(path, exact_bridge(path), z, None, steps, x0) - expected).abs().max())
        for steps in (50, 100, 200)
    ]
    assert errors[-1] < accuracy
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("solver", "expected"), [(Ancestral(), [1, 2, 3, 4]), (Euler(), []), (Heun(), [])])
def test_noise_is_asked_for_by_the_number_of_the_step(solver, expected):
    asked, z = [], source(4)

    def noise(number):
        asked.append(number)
        return torch.zeros_like(z)

    solver.sample(FlowMatchingPath(), exact(FlowMatchingPath()), z, None, 5, noise=noise)
    assert asked == expected


def test_ancestral_sampling_ends_with_the_guess_at_the_last_time():
    path, z, y, seen = BridgePath(EPS), source(4), torch.arange(4), []

    def network(t, x, labels=None):
        seen.append((t, x, labels))
        return x[:, :1].sin()

    made = Ancestral().sample(path, network, z, y, 4, z.flip(0), lambda number: number * torch.ones_like(z))
    assert torch.equal(made, seen[-1][1][:, :1].sin())
    expected = torch.linspace(*path.t_range, 5, dtype=torch.float64)[:-1, None].expand(-1, 4)
    torch.testing.assert_close(torch.stack([t for t, _, _ in seen]), expected)
    assert all(torch.equal(x[:, 1:], z.flip(0)) and labels is y for _, x, labels in seen)
    for (t, x, _), (s, then, _), number in zip(seen, seen[1:], (1, 2, 3), strict=False):
        drawn = path.transition(t, s, x[:, :1], x[:, :1].sin(), number * torch.ones_like(z))
        assert torch.equal(then[:, :1], drawn)


@pytest.mark.parametrize("solver", [Euler(), Heun(), Ancestral()])
@pytest.mark.parametrize("path", [DiffusionPath(), BridgePath(latent=True), INTERPOLANTS["encdec sin2"]])
def test_a_single_step_is_the_one_step_generator_of_any_path(solver, path):
    def network(t, x, y=None):
        return x.sum(1, keepdim=True).sin() + t[:, None]

    z, x0 = source(4), source(4).flip(0) if path.translates else None
    assert torch.equal(solver.sample(path, network, z, None, 1, x0), path.one_step(network, z, None, x0))


@pytest.mark.parametrize(
    ("path", "solver", "kind", "words"),
    [
        (FlowMatchingPath(), Ancestral(), ValueError, "needs noise: pass a function that gives that of step 1"),
        (InterpolantPath(), Ancestral(), UserError, "InterpolantPath has no stochastic sampling: choose solver Euler"),
        (Doubled(), Ancestral(), UserError, "Doubled has no stochastic sampling: choose solver Euler or Heun"),
        (BridgePath(condition=False), Euler(), UserError, "has no ODE with these settings: choose solver Ancestral"),
        (BridgePath(condition=False), Heun(), UserError, "no velocity that Heun could follow: choose solver Ancestral"),
        (BridgePath(), Heun(), UserError, "choose solver Euler, which makes the path's own steps, or Ancestral"),
        (InterpolantPath(translates=True), Heun(), UserError, "choose solver Euler, which makes the path's own steps"),
        (BridgePath(), Euler(), ValueError, "begins at a source-domain sample: pass x0"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_solver_can_not_do_is_told(path, solver, kind, words):
    z = source(4)
    noise = (lambda number: torch.ones_like(z)) if kind is UserError else None
    x0 = z if path.translates and kind is UserError else None
    with pytest.raises(kind, match=words):
        solver.sample(path, lambda t, x, y: x[:, :1], z, None, 3, x0, noise)
