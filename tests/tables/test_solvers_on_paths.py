"""Every solver on every path, with exact teachers: what is sampled, how fast it converges, and by which algorithm.

A new solver, path, schedule or option of a path has no row here and is asked for one: ``test_everything_has_a_row``.
"""

import inspect
import math
from copy import copy
from itertools import pairwise, product
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from exact_teachers import (
    GAUSSIAN,
    GAUSSIAN_PAIRS,
    MODES,
    PAIRED_MODES,
    Law,
    began,
    carried,
    expand,
    guess,
    shown,
    teacher,
)

from realuid_lightning import paths, solvers
from realuid_lightning.errors import UserError
from realuid_lightning.paths import (
    BridgePath,
    CosineSchedule,
    DiffusionPath,
    EncoderDecoderSchedule,
    FlowMatchingPath,
    InterpolantPath,
    KarrasSchedule,
    LinearSchedule,
    MatchingPath,
    Schedule,
    VPSchedule,
)
from realuid_lightning.solvers import Ancestral, Euler, Heun, Solver

# ---------------------------------------------------------------------------------------------------- the two sides

SOLVERS = {"Euler": Euler(), "Heun": Heun(), "Ancestral": Ancestral()}
ORDER = {"Euler": 1, "Heun": 2}

SCHEDULES = {"linear": LinearSchedule(), "cosine": CosineSchedule(), "vp": VPSchedule()}
KARRAS, ENCDEC = KarrasSchedule(), EncoderDecoderSchedule()
GAMMAS = ("sqrt", "sin2", "none")
PATHS = {
    **{f"flow {name}": FlowMatchingPath(schedule) for name, schedule in SCHEDULES.items()},
    "flow karras": FlowMatchingPath(KarrasSchedule(0.02, 20.0, 2.0)),
    "diffusion karras": DiffusionPath(KARRAS),
    "diffusion vp": DiffusionPath(VPSchedule()),
    **{f"interpolant {n} {g}": InterpolantPath(s, g) for (n, s), g in product(SCHEDULES.items(), GAMMAS)},
    **{f"interpolant karras {g}": InterpolantPath(KarrasSchedule(0.02, 20.0, 2.0), g) for g in GAMMAS},
    **{f"interpolant encdec {g}": InterpolantPath(ENCDEC, g) for g in ("sqrt", "sin2")},
    **{f"translating {n} {g}": InterpolantPath(s, g, True) for (n, s), g in product(SCHEDULES.items(), GAMMAS)},
    "translating linear sqrt 0.2": InterpolantPath(translates=True, noise=0.2),
    **{
        f"bridge {target}{' shown' * condition}{' latent' * latent}": BridgePath(0.5, target, condition, latent)
        for target, condition, latent in product(("x1", "drift"), (True, False), (True, False))
    },
}
"""One row each."""

# What a solver cannot do on a path: it says so, and names one that can.
REFUSED = {
    **{("Heun", name): "choose solver Euler" for name, path in PATHS.items() if shown(path)},
    **{(solver, name): "choose solver Ancestral" for solver in ORDER for name in PATHS if name in ("bridge x1",)},
    **{
        (solver, name): "choose solver Ancestral"
        for solver, name in product(ORDER, PATHS)
        if name.startswith("bridge") and "shown" not in name
    },
    **{("Ancestral", n): "choose solver Euler" for n, p in PATHS.items() if isinstance(p, InterpolantPath)},
}
ROWS = [row for row in product(SOLVERS, PATHS) if row not in REFUSED]
every_row = pytest.mark.parametrize(("solver", "name"), ROWS, ids=" ".join)


def shipped(base):
    """Return the concrete classes of the package that derive from ``base``."""
    found, todo = [], [base]
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if cls.__module__.startswith("realuid_lightning.") and not inspect.isabstract(cls):
            found.append(cls)
    return found


def options(cls):
    """Yield every option of a path that is a choice between words or a yes or no: its name and one value."""
    for name, hint in get_type_hints(cls.__init__).items():
        yield from ((name, value) for value in (get_args(hint) if get_origin(hint) is Literal else ()))
        yield from ((name, value) for value in ((True, False) if hint is bool else ()))


def takes(cls, schedule):
    """Whether a class of paths takes a schedule."""
    try:
        return "schedule" in inspect.signature(cls.__init__).parameters and bool(cls(schedule()))
    except UserError:
        return False


def test_everything_has_a_row():
    rows = [(type(path), path._arguments) for path in PATHS.values()]
    kinds = shipped(MatchingPath)
    wanted = [f"solver {cls.__name__}" for cls in shipped(Solver)]
    wanted += [f"path {cls.__name__}" for cls in kinds]
    wanted += [f"{cls.__name__} with {name}={value}" for cls in kinds for name, value in options(cls)]
    wanted += [f"{c.__name__} with {s.__name__}" for c, s in product(kinds, shipped(Schedule)) if takes(c, s)]
    given = {f"solver {type(solver).__name__}" for solver in SOLVERS.values()}
    for cls, arguments in rows:
        given.add(f"path {cls.__name__}")
        given |= {f"{cls.__name__} with {name}={value}" for name, value in arguments.items()}
        given.add(f"{cls.__name__} with {type(arguments.get('schedule')).__name__}")
    missing = [name for name in wanted if name not in given]
    assert not missing, f"without a row in PATHS or SOLVERS: {', '.join(missing)}"
    assert {cls.__name__ for cls in kinds} <= set(paths.__all__)
    assert all(hasattr(solvers, cls.__name__) for cls in shipped(Solver))


# ------------------------------------------------------------------------------------------------------ many steps


def units(steps):
    """A row of zeros, a row with a unit of the latent, one of the source, and one of the noise of every step.

    With a Gaussian teacher every solver is affine in its draws, so that what becomes of these rows tells the mean and
    the variance of the samples without any sampling error.
    """
    z, x0 = torch.zeros(2, steps + 3, 1, dtype=torch.float64)
    z[1], x0[2] = 1, 1

    def noise(number):
        row = torch.zeros_like(z)
        row[2 + number] = 1
        return row

    return z, x0, noise


def law_of(path, plain, paired):
    return paired if path.translates else plain


def moments(solver, path, law, steps):
    """Return the mean, the slope by ``x0``, and the standard deviation of the samples."""
    z, x0, noise = units(steps)
    x0 = law.source_mean + law.source_std * x0 if path.translates else None
    made = solver.sample(path, teacher(path, law), z, None, steps, x0, noise)
    moved = made[1:] - made[0]
    return torch.stack([made[0, 0], moved[1, 0] / law.source_std, moved.square().sum().sqrt()])


def extrapolated(measure, steps):
    """What a solver of first order tends to as its steps shrink."""
    return 2 * measure(2 * steps) - measure(steps)


@every_row
def test_many_steps_make_the_law_of_the_data(solver, name):
    path = PATHS[name]
    law = law_of(path, GAUSSIAN, GAUSSIAN_PAIRS)
    steps = {"Euler": 200, "Heun": 150, "Ancestral": 200}[solver]
    measure = lambda count: moments(SOLVERS[solver], path, law, count)  # noqa: E731
    mean, slope, std = (measure(steps) if solver == "Heun" else extrapolated(measure, steps)).tolist()
    print(solver, name, mean, slope, std)
    assert mean == pytest.approx(law.moments[0], abs=0.01)
    assert std == pytest.approx(law.moments[1], rel=0.02)
    if shown(path):  # the pairs are kept, too
        assert slope == pytest.approx(law.slope, abs=0.01)


def stratified(count, seed):
    """Return normal draws whose quantiles are equally spaced, in random order: moments nearly without error."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).double()
    return torch.special.ndtri((order + 0.5) / count)[:, None]


@every_row
def test_many_steps_make_both_modes_of_a_mixture(solver, name):
    path, count = PATHS[name], 1000
    law, z = law_of(path, MODES, PAIRED_MODES), stratified(count, 0)
    x0 = law.source_mean + law.source_std * stratified(count, 1) if path.translates else None
    noise = lambda number: stratified(count, 1 + number)  # noqa: E731
    made = SOLVERS[solver].sample(path, teacher(path, law), z, None, 200, x0, noise)
    mean, std = law.moments
    print(solver, name, float(made.mean()), float(made.std()), mean, std)
    assert float(made.mean()) == pytest.approx(mean, abs=0.05)
    assert float(made.std()) == pytest.approx(std, rel=0.05)
    if not path.translates:  # else x0 blurs the modes
        assert float((made > 0.3).double().mean()) == pytest.approx(law.weights[1], abs=0.03)


# ------------------------------------------------------------------------------------------------------------ order


def without_ends(path):
    """Return the path away from its ends, where velocities may be infinite."""
    inner = copy(path)
    inner.t_range = (0.1, 0.9)
    return inner


@pytest.mark.parametrize(("solver", "name"), [row for row in ROWS if row[0] in ORDER], ids=" ".join)
def test_the_error_falls_with_the_order_of_the_solver(solver, name):
    path = without_ends(PATHS[name])
    law = law_of(path, GAUSSIAN, GAUSSIAN_PAIRS)
    z, x0 = torch.linspace(-2, 2, 8, dtype=torch.float64)[:, None], torch.linspace(1, -1, 8).double()[:, None]
    x0 = x0 if path.translates else None
    exact = carried(path, law, began(path, z, x0), x0)
    exact = guess(path, law, torch.full((8,), path.t_range[1], dtype=torch.float64), exact, x0)
    errors = []
    for steps in (101, 201, 401):  # the last step is the guess
        made = SOLVERS[solver].sample(path, teacher(path, law), z, None, steps, x0)
        errors.append(float((made - exact).abs().max()))
    print(solver, name, errors)
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(ORDER[solver], abs=0.15)


# -------------------------------------------------------------------------------- few steps: the published algorithms
