"""What a matching framework of your own must satisfy: call ``check_path`` in a test."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from realuid_lightning.conditions import Condition
from realuid_lightning.errors import UserError
from realuid_lightning.paths import MatchingPath, expand
from realuid_lightning.recorded import rebuild

END_TOLERANCE = 0.05  # what may be left of the wrong end: a VP schedule leaves 0.7%, VE up to sigma = 80 leaves 1.8%
SLOPE_TOLERANCE = 1e-4  # between the target and a finite difference in float64, relative
LAST_U = 1 - 2**-24  # the largest float32 draw below 1

Expect = Callable[[bool | Tensor, str], None]


class _Draws(NamedTuple):
    """Arguments of ``MatchingPath.sample``: times from one end of ``t_range`` to the other, and normal draws."""

    t: Tensor
    x0: Tensor
    x1: Tensor
    eps: Tensor

    def rows(self, start: int, stop: int) -> "_Draws":
        return _Draws(*(field[start:stop] for field in self))


def check_path(path: MatchingPath, shape: Sequence[int] = (3, 4, 4)) -> None:
    """Check that a path keeps what ``MatchingPath`` promises to losses, modules and solvers.

    Checked on normal draws, at times all over ``t_range``: shapes, types, finite values and determinism; ``sample``
    against ``mean`` and ``std``; the target, or what ``velocity`` makes of it, against the time derivative of ``xt``;
    both ends, where 5% of the other one may be left; gradients against finite differences; what the network is shown,
    which must not tell ``x1`` where sampling begins, and what becomes of its output; ``denoise`` against ``x1``, where
    it is overridden and the path has no noise; the steps of solvers, the levels of a generator of several steps;
    ``one_step``; the record that goes into checkpoints, and which arguments may differ from it.

    Example:
        >>> from realuid_lightning.paths import FlowMatchingPath
        >>> check_path(FlowMatchingPath(), shape=(2,))

    Args:
        path: The path to check, made as a config would make it.
        shape: Shape of one sample.

    Raises:
        AssertionError: With every point that does not hold: what was expected, what was found, what to do. A wrong
            ``t_range`` is told alone, for everything else rests on it.
    """
    found: list[str] = []

    def expect(point: str, holds: bool | Tensor, message: str) -> None:
        if not holds:
            found.append(f"{point}: {message}")

    start, end = path.t_range
    expect("t_range", 0 <= start < end <= 1, f"must increase, source to data end, in [0, 1], got {path.t_range}")
    for check in () if found else _CHECKS:
        point = check.__name__[1:]
        try:
            check(path, _draws(path, shape), partial(expect, point))
        except Exception as error:  # whatever a user's formula raises is a finding
            expect(point, False, f"expected no error, got {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    if found:
        lines = "\n- ".join(dict.fromkeys(found))
        raise AssertionError(f"{type(path).__name__} breaks the contract of MatchingPath:\n- {lines}")


def _draws(path: MatchingPath, shape: Sequence[int], count: int = 9) -> _Draws:
    noise = torch.randn(3, count, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return _Draws(torch.linspace(*path.t_range, count, dtype=torch.float64), *noise)


def _fits(expect: Expect, name: str, got: Tensor, like: Tensor) -> None:
    """Expect a finite tensor of the shape and type of ``like``."""
    shape, dtype = tuple(like.shape), like.dtype
    expect(got.shape == shape, f"{name} must have shape {shape}, got {tuple(got.shape)}; check what broadcasts")
    expect(got.dtype == dtype, f"{name} must keep {dtype}, got {got.dtype}; let constants be numbers, not tensors")
    expect(got.isfinite().all(), f"{name} must be finite, got inf or nan; narrow t_range, or rewrite for its ends")


def _times(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    for dtype in (torch.float32, torch.float64):
        u = torch.linspace(0, LAST_U, 101, dtype=dtype)
        own = {"sample_t": path.sample_t, "generator_t": path.generator_t}
        if type(path).generator_t is MatchingPath.generator_t:
            del own["generator_t"]
        for name, draw in own.items():
            t = draw(u)
            _fits(expect, name, t, u)
            inside = (t >= path.t_range[0] - 1e-6) & (t <= path.t_range[1] + 1e-6)
            found = f"{float(t.min()):.6g} to {float(t.max()):.6g}"
            expect(inside.all(), f"{name} must stay in t_range {path.t_range}, got {found}; rescale or clamp it")
            monotone = (t.diff() >= 0).all() | (t.diff() <= 0).all()
            expect(monotone, f"{name} must be monotone in u, but turns around; use an inverse distribution function")
            expect(torch.equal(t, draw(u)), f"{name} gave other times in a second call; use u, draw nothing")
    weight = path.weight(draws.t)
    if weight is not None:
        _fits(expect, "weight", weight, draws.t)
        least = float(weight.min())
        positive = least >= 0 and (weight[1:-1] > 0).all()  # an end without noise may count for nothing
        expect(positive, f"weight must be positive, got {least:.6g}; leave such times out of t_range")


def _moments(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    t = expand(draws.t, draws.x1)
    _fits(expect, "mean", path.mean(t, draws.x0, draws.x1), draws.x1)
    std = path.std(t)
    _fits(expect, "std", std, t)
    expect((std >= 0).all(), f"std must be at least 0, got {float(std.min()):.6g}; check its sign")


def _sample(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    t = expand(draws.t, draws.x1)
    _, xt, target = path.sample(*draws)
    mean = path.mean(t, draws.x0, draws.x1)
    gap = (xt - (mean + path.std(t) * draws.eps if path.noisy else mean)).abs().max()
    expect(gap < 1e-9 * (1 + xt.abs().max()), f"xt must be mean + std eps, differs by {gap:.3g}; correct _point")
    again, alone = path.sample(*draws), path.sample(*draws.rows(4, 5))
    same = torch.equal(again.xt, xt) and torch.equal(again.target, target)
    expect(same, "a second call gave another result; use eps for noise, draw nothing")
    apart = torch.allclose(alone.xt, xt[4:5]) and torch.allclose(alone.target, target[4:5])
    expect(apart, "a sample must not depend on others in its batch, but does; keep the batch dimension apart")
    # Training meets both ends of u, in float32.
    ends = _Draws(path.sample_t(torch.tensor([0, LAST_U])), *(field[:2].float() for field in draws[1:]))
    _, xt, target = path.sample(*ends)
    _fits(expect, "xt at the first and last training time", xt, ends.x1)
    _fits(expect, "the target at the first and last training time", target, ends.x1)


def _target(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    inner, step = draws.rows(1, -1), 1e-6 * (path.t_range[1] - path.t_range[0])
    later, earlier = (path.sample(*inner._replace(t=inner.t + shift)).xt for shift in (step, -step))
    slope = (later - earlier) / (2 * step)
    _, xt, target = path.sample(*inner)
    if type(path).velocity is MatchingPath.velocity:
        found, advice = target, "correct _point, or override velocity if the network predicts something else"
    else:
        try:
            found = path.velocity(inner.t, xt, target, inner.x0 if path.translates else None)
        except UserError:  # a path without an ODE
            return
        advice = "correct velocity, which makes it of the target"
    gap = (found - slope).abs().max()
    close = gap <= SLOPE_TOLERANCE * (1 + slope.abs().max())
    expect(close, f"must be the time derivative of xt, differs by {gap:.3g}; {advice}")


def _ends(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    start, end = (draws._replace(t=torch.full_like(draws.t, t)) for t in path.t_range)
    xt, other = path.sample(*start).xt, path.sample(*start._replace(x1=draws.x1.roll(1, 0))).xt
    left = float((xt - other).square().mean().sqrt() / xt.square().mean().sqrt())
    advice = f"; up to {END_TOLERANCE:.0%} is fine, else widen t_range or turn time around"
    expect(left <= END_TOLERANCE, f"at t_range[0] xt must not depend on x1, but changes by {left:.1%}{advice}")
    left = float((path.sample(*end).xt - draws.x1).square().mean().sqrt())
    expect(left <= END_TOLERANCE, f"at t_range[1] xt must be x1, but differs by {left:.1%}{advice}")


def _start(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    """A network that is shown ``x0`` can take its part out of ``xt``: only noise then hides ``x1``."""
    t, other = torch.full_like(draws.t, path.t_range[0]), draws._replace(x0=draws.x0.roll(1, 0), x1=draws.x1.roll(1, 0))
    shown, unlike = (path.inputs(t, draws.x1, x0, draws.eps)[1] for x0 in (draws.x0, other.x0))
    if not path.translates or torch.equal(shown, unlike):
        return
    time = expand(t, draws.x1)
    moved = path.mean(time, draws.x0, draws.x1) - path.mean(time, draws.x0, other.x1)
    part = float(moved.square().mean().sqrt() / (draws.x1 - other.x1).square().mean().sqrt())
    noise = float(path.std(time).max())
    expect(
        part < END_TOLERANCE * noise,
        "the network is shown x0, and with it xt tells x1 at t_range[0], where sampling knows nothing of x1: xt holds "
        f"{part:.3g} of x1 beside noise of {noise:.3g}, expected less than {END_TOLERANCE:.0%} of the noise; let std "
        "grow faster than what xt holds of x1 (as the square root of t) and begin where it is above 0, or leave x0 out "
        "of inputs",
    )


def _gradients(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    inner = draws.rows(1, -1)
    for part, end in product(("xt", "target"), ("x0", "x1")):

        def moved(x: Tensor, part: str = part, end: str = end) -> Any:
            return getattr(path.sample(*inner._replace(**{end: x})), part)

        leaf = getattr(inner, end).clone().requires_grad_()
        sound = torch.autograd.gradcheck(moved, leaf, fast_mode=True, raise_exception=False)
        expect(sound, f"those of {part} by {end} differ from finite differences; remove detach, no_grad or item")


def _prediction(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    single = _Draws(*(field.float() for field in draws))
    for t, x0, x1, eps in (draws, single._replace(t=path.sample_t(torch.linspace(0, LAST_U, len(draws.t))))):
        time, point = path.inputs(t, x1, x0, eps)
        _fits(expect, "the network's time", time, t)
        _fits(expect, "the network's input", point, torch.cat([x1] * (1 + path.conditions), 1))
        _fits(expect, "output", path.output(t, x1, eps), x1)
    told = path.inputs(draws.t, draws.x1, draws.x0, draws.eps)[0].diff()
    expect((told >= 0).all() | (told <= 0).all(), "the network's time must be monotone in t, but turns around")
    moved = path.output(draws.t, draws.x1, draws.eps) != path.output(draws.t, draws.x1, draws.eps + 1)
    expect(moved.flatten(1).any(1).all(), "output must depend on what the network returns at every t, but does not")


def _solving(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    x0 = draws.x0 if path.translates else None
    stochastic = type(path).transition is not MatchingPath.transition
    try:
        _fits(expect, "velocity", path.velocity(draws.t, draws.eps, draws.x0, x0), draws.x1)
    except UserError:  # has no ODE, so it must have the other
        stochastic = True
    if stochastic:
        earlier, later = draws.rows(0, -1), draws.t[1:]
        _fits(expect, "transition", path.transition(*earlier[:1], later, *earlier[1:]), earlier.x1)
    _fits(expect, "denoise", path.denoise(draws.t, draws.eps, draws.x0, x0), draws.x1)
    if type(path).denoise is not MatchingPath.denoise and not path.noisy:
        gap = (path.denoise(*path.sample(*draws), x0) - draws.x1).abs().max()
        expect(gap < 1e-6, f"denoise must turn the target back into x1, differs by {gap:.3g}; solve for x1")
    stops = path.shifted(draws.t)
    _fits(expect, "shifted", stops, draws.t)
    rising = (stops.diff() > 0).all() and torch.allclose(stops[[0, -1]], draws.t[[0, -1]])
    expect(rising, f"shifted must rise from one end of t_range to the other, got {stops.tolist()}")
    levels = path.levels(path.generator_steps or 4)
    rising = levels[0] == path.generator_start and levels == sorted(set(levels)) and levels[-1] < path.t_range[1]
    expect(rising, f"levels must rise from generator_start {path.generator_start} to below t_range[1], got {levels}")


def _one_step(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    calls: list[tuple[Tensor, Condition | None]] = []
    scale = torch.full_like(draws.t[0], 0.7)  # at 1, a path that subtracts the prediction from z would be left with 0
    scale, z, x0 = (x.clone().requires_grad_() for x in (scale, draws.eps, draws.x0))

    def network(t: Tensor, x: Tensor, y: Condition | None = None) -> Tensor:
        calls.append((t, y))
        return scale * x.reshape(len(x), -1, *z.shape[1:]).mean(1)  # also takes conditioning channels

    y = torch.arange(len(z))
    made = path.one_step(network, z, y, x0)
    _fits(expect, "the sample", made, z)
    expect(len(calls) == 1, f"must call the network once, got {len(calls)} calls")
    for t, labels in calls:
        _fits(expect, "the network's time", t, draws.t)
        expect(labels is y, "must hand the labels on, but does not; call network(t, x, y)")
    if made.requires_grad:
        (made * draws.x1).sum().backward()  # type: ignore[no-untyped-call]
    expect(scale.grad is not None, "no gradient reaches the network's parameters; remove detach or no_grad")
    reached = any(end.grad is not None and end.grad.any() for end in (z, x0))
    expect(reached, "no gradient reaches z (nor x0, which a translating path starts from); make the sample of z")


def _recorded(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    again = rebuild(path.recorded(), MatchingPath)  # type: ignore[type-abstract]
    same = all(map(torch.equal, again.sample(*draws), path.sample(*draws)))
    expect(same, "a path rebuilt from its record must give equal samples; take every setting in __init__")


def _arguments(path: MatchingPath, draws: _Draws, expect: Expect) -> None:
    del draws
    makers = [vars(base)["__init__"] for base in type(path).__mro__ if "__init__" in vars(base)]
    known = {name for maker in makers for name in inspect.signature(maker).parameters}  # ** hands on to a base's
    for field in ("tuning", "training"):
        names = getattr(path, field)
        expect(isinstance(names, frozenset), f"{field} must be a frozenset of names of arguments, got {names!r}")
        unknown = [] if isinstance(names, str) else sorted({*names} - known)
        expect(not unknown, f"{field} must name arguments of __init__, got {', '.join(unknown)}; correct or remove it")


_CHECKS = (
    *(_times, _moments, _sample, _target, _ends, _start),
    *(_gradients, _prediction, _solving, _one_step, _recorded, _arguments),
)
