"""How solvers walk along a path; what they make of it is told by tests/tables/test_solvers_on_paths.py."""

import pytest
import torch
from shipped_paths import PATHS

from realuid_lightning.errors import UserError
from realuid_lightning.paths import (
    BridgePath,
    DiffusionPath,
    FlowMatchingPath,
    InterpolantPath,
    MatchingPath,
)
from realuid_lightning.solvers import Ancestral, Euler, Heun


def source(count=64):
    return torch.linspace(-3, 3, count, dtype=torch.float64)[:, None]


def curious(t, x, y=None):
    """A network like no teacher."""
    return x[:, :1].sin() + t[:, None]


@pytest.mark.parametrize("solver", [Euler(), Heun(), Ancestral()])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_single_step_is_the_one_step_generator(solver, path):
    z, x0 = source(4), source(4).flip(0) if path.translates else None
    assert torch.equal(solver.sample(path, curious, z, None, 1, x0), path.one_step(curious, z, None, x0))


@pytest.mark.parametrize("steps", [0, -1])
def test_less_than_a_step_is_refused(steps):
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        Euler().sample(FlowMatchingPath(), curious, source(), None, steps)


class Doubled(MatchingPath):
    """Its network predicts half the velocity."""

    t_range = (0.2, 0.7)

    def mean(self, t, x0, x1):
        return (1 - t) * x0 + t * x1

    def velocity(self, t, xt, prediction, x0=None):
        assert t.shape == xt.shape[:1]
        return 2 * prediction


class Hazy(Doubled):
    """Ends in noise, and its network knows how to see through it."""

    def std(self, t):
        return 0.5 * (t * (1 - t)).sqrt()

    def denoise(self, t, xt, prediction, x0=None):
        return 10 * prediction


STEPS, LAST = torch.linspace(0.2, 0.7, 5)[:4].tolist(), torch.linspace(0.2, 0.7, 4).tolist()


@pytest.mark.parametrize(
    ("solver", "path", "calls"),
    [
        (Euler(), Doubled(), STEPS),
        (Heun(), Doubled(), [STEPS[0], *(t for t in STEPS[1:] for _ in "12")]),
        (Euler(), Hazy(), LAST),
        (Heun(), Hazy(), [LAST[0], *(t for t in LAST[1:] for _ in "12")]),
    ],
    ids=["Euler", "Heun", "Euler-noisy", "Heun-noisy"],
)
def test_steps_are_equal_over_the_range_of_the_path_and_the_last_is_the_guess(solver, path, calls):
    seen, y = [], torch.arange(3)

    def network(t, x, y=None):
        seen.append((t, y))
        return torch.ones_like(x)

    x0 = torch.zeros(3, 2, 2, requires_grad=True)
    made = solver.sample(path, network, x0, y, 4)
    torch.testing.assert_close(made, torch.full((3, 2, 2), 10.0 if path.noisy else 2 * 0.5))
    assert not made.requires_grad
    assert all(labels is y for _, labels in seen)
    torch.testing.assert_close(torch.stack([t for t, _ in seen]), torch.tensor(calls)[:, None].expand(-1, 3))


class HazyWithoutGuess(Doubled):
    def std(self, t):
        return 0.5 * (t * (1 - t)).sqrt()


def test_a_noisy_path_that_cannot_see_through_it_is_followed_to_its_end():
    """``denoise`` of the base class steps straight to the end of ``t_range``: from there, nowhere."""
    z = torch.zeros(3, 2)
    made = Euler().sample(HazyWithoutGuess(), lambda t, x, y: torch.ones_like(x), z, None, 4)
    torch.testing.assert_close(made, torch.full((3, 2), 2 * 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("path", [FlowMatchingPath(), DiffusionPath(), InterpolantPath()])
def test_the_type_of_the_source_is_kept(dtype, path):
    made = Heun().sample(path, lambda t, x, _: x.sin(), torch.ones(2, 3, dtype=dtype), None, 3)
    assert made.dtype == dtype


@pytest.mark.parametrize(("solver", "expected"), [(Ancestral(), [1, 2, 3, 4]), (Euler(), []), (Heun(), [])])
def test_noise_is_asked_for_by_the_number_of_the_step(solver, expected):
    asked, z = [], source(4)

    def noise(number):
        asked.append(number)
        return torch.zeros_like(z)

    solver.sample(FlowMatchingPath(), curious, z, None, 5, noise=noise)
    assert asked == expected


def test_ancestral_sampling_ends_with_the_guess_at_the_end():
    path, z, y, seen = BridgePath(0.5), source(4), torch.arange(4), []

    def network(t, x, labels=None):
        seen.append((t, x, labels))
        return x[:, :1].sin()

    made = Ancestral().sample(path, network, z, y, 4, z.flip(0), lambda number: number * torch.ones_like(z))
    assert torch.equal(made, seen[-1][1][:, :1].sin())
    expected = torch.linspace(*path.t_range, 4, dtype=torch.float64)[:, None].expand(-1, 4)
    torch.testing.assert_close(torch.stack([t for t, _, _ in seen]), expected)
    assert all(torch.equal(x[:, 1:], z.flip(0)) and labels is y for _, x, labels in seen)
    for (t, x, _), (s, then, _), number in zip(seen, seen[1:], (1, 2, 3), strict=False):
        drawn = path.transition(t, s, x[:, :1], x[:, :1].sin(), number * torch.ones_like(z))
        assert torch.equal(then[:, :1], drawn)


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
def test_what_a_solver_cannot_do_is_told(path, solver, kind, words):
    z = source(4)
    noise = (lambda number: torch.ones_like(z)) if kind is UserError else None
    x0 = z if path.translates and kind is UserError else None
    with pytest.raises(kind, match=words):
        solver.sample(path, lambda t, x, y: x[:, :1], z, None, 3, x0, noise)
