import math
from itertools import pairwise

import pytest
import torch

from realuid_lightning.paths import CosineSchedule, FlowMatchingPath, LinearSchedule, MatchingPath, VPSchedule
from realuid_lightning.solvers import Euler, Heun

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


def exact_end(path, x0):
    """Where the exact ODE of a Gaussian takes x0: xt stays at the same quantile, shifted and scaled."""
    a, b, _, _ = path.schedule(torch.tensor(path.t_range, dtype=x0.dtype))
    mean, std = a * MEAN, ((a * STD) ** 2 + b**2).sqrt()
    return mean[1] + std[1] / std[0] * (x0 - mean[0])


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

    def velocity(self, t, xt, prediction):
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
