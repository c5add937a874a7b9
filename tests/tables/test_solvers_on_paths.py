"""Every solver on every path, with exact teachers: what is sampled, how fast it converges, and by which algorithm.

A new solver, path, schedule or option of a path has no row here, or in shipped_paths.py, and is asked for one:
``test_everything_has_a_row``.
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
    shown,
    teacher,
)
from shipped_paths import PATHS

from realuid_lightning import paths, solvers
from realuid_lightning.errors import UserError
from realuid_lightning.paths import (
    EDM,
    AffinePath,
    Data,
    InterpolantPath,
    MatchingPath,
    Noise,
    Parameterisation,
    ReversedVelocity,
    Schedule,
    TimeInput,
    Velocity,
    VPrediction,
)
from realuid_lightning.solvers import Ancestral, Euler, Heun, Solver

# ---------------------------------------------------------------------------------------------------- the two sides

SOLVERS = {"Euler": Euler(), "Heun": Heun(), "Ancestral": Ancestral()}
ORDER = {"Euler": 1, "Heun": 2}

# What a solver cannot do on a path: it says so, and names one that can.
REFUSED = {
    **{("Heun", name): "choose solver Euler" for name, path in PATHS.items() if shown(path)},
    **{
        (solver, name): "choose solver Ancestral"
        for solver, name in product(ORDER, PATHS)
        if name.startswith("bridge") and "shown" not in name
    },
    **{("Ancestral", n): "choose solver Euler" for n, p in PATHS.items() if isinstance(p, InterpolantPath)},
}
ROWS = [row for row in product(SOLVERS, PATHS) if row not in REFUSED]
every_row = pytest.mark.parametrize(("solver", "name"), ROWS, ids=" ".join)

pytestmark = pytest.mark.usefixtures("signatures_unchecked")


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
    told = [path.parameterisation for _, path in PATHS.items() if isinstance(path, AffinePath)]
    wanted += [f"parameterisation {cls.__name__}" for cls in shipped(Parameterisation)]
    wanted += [f"time as {cls.__name__}" for cls in shipped(TimeInput)]
    given |= {f"parameterisation {type(each).__name__}" for each in told}
    given |= {f"time as {type(each.time).__name__}" for each in told}
    missing = [name for name in wanted if name not in given]
    assert not missing, f"without a row in PATHS or SOLVERS: {', '.join(missing)}"
    assert {cls.__name__ for cls in kinds} <= set(paths.__all__)
    assert all(hasattr(solvers, cls.__name__) for cls in shipped(Solver))
    assert {cls.__name__ for base in (Parameterisation, TimeInput) for cls in shipped(base)} <= set(paths.__all__)


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


def limit(solver, measure):
    """What a figure tends to as steps shrink, from two numbers of steps and the order; a stochastic solver's is 1."""
    coarse, fine = measure(40), measure(80)
    return (fine + (fine - coarse) / (2 ** ORDER.get(solver, 1) - 1)).tolist()


@every_row
def test_many_steps_make_the_law_of_the_data(solver, name):
    path = PATHS[name]
    law = law_of(path, GAUSSIAN, GAUSSIAN_PAIRS)
    mean, slope, std = limit(solver, lambda steps: moments(SOLVERS[solver], path, law, steps))
    assert mean == pytest.approx(law.moments[0], abs=0.04 * law.moments[1])
    assert std == pytest.approx(law.moments[1], rel=0.04)
    if shown(path):  # the pairs are kept, too
        assert slope == pytest.approx(law.slope, abs=0.03)


def stratified(count, seed):
    """Return normal draws whose quantiles are equally spaced, in random order: moments nearly without error."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).double()
    return torch.special.ndtri((order + 0.5) / count)[:, None]


@every_row
def test_many_steps_make_both_modes_of_a_mixture(solver, name):
    path, count = PATHS[name], 1000
    law, z = law_of(path, MODES, PAIRED_MODES), stratified(count, 0)
    x0 = law.source_mean + law.source_std * stratified(count, 1) if path.translates else None

    made = SOLVERS[solver].sample(path, teacher(path, law), z, None, 80, x0, lambda k: stratified(count, 1 + k))
    mode = made - law.slope * x0 if shown(path) else made
    assert float(made.mean()) == pytest.approx(law.moments[0], abs=0.1)
    assert float(made.std()) == pytest.approx(law.moments[1], abs=0.1)
    if shown(path) or not path.translates:  # else x0 blurs the modes
        assert float((mode > 0.3).double().mean()) == pytest.approx(law.weights[1], abs=0.04)


@every_row
def test_no_noise_is_left_in_samples_of_a_point(solver, name):
    path, point = PATHS[name], Law(means=(0.7,), stds=(1e-9,))
    mean, _, std = moments(SOLVERS[solver], path, point, 20).tolist()
    assert mean == pytest.approx(0.7, abs=0.01)
    assert std < 0.01


# ------------------------------------------------------------------------------------------------ parameterisations

WORDS = (Velocity(), ReversedVelocity(), Noise(), Data(), VPrediction(), EDM(0.4), EDM(1.0))


@pytest.mark.parametrize("name", ["flow linear", "flow cosine", "flow vp", "diffusion karras", "diffusion vp"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_a_network_predicts_makes_no_difference_to_its_samples(solver, name):
    """One teacher in other words, on the narrowest range of times."""
    kind, schedule = type(PATHS[name]), PATHS[name].schedule
    z, (start, end) = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None], schedule.t_range
    made = []
    for words in WORDS:
        path = kind(schedule, parameterisation=words)
        path.t_range = (max(start, 0.001), min(end, 0.999))
        made.append(SOLVERS[solver].sample(path, teacher(path, MODES), z, None, 9, noise=drawn()))
    for words, samples in zip(WORDS[1:], made[1:], strict=True):
        told = f"{type(words).__name__} made {samples.flatten().tolist()}, expected {made[0].flatten().tolist()}"
        torch.testing.assert_close(samples, made[0], rtol=1e-7, atol=1e-7, msg=told)


# ------------------------------------------------------------------------------------------------------------ order


def without_ends(path):
    """Return the path away from its ends, where velocities may be infinite."""
    inner = copy(path)
    inner.t_range = (0.1, 0.9)
    return inner


def error(solver, name, steps):
    """How far from the exact end that many steps of a solver lead."""
    path = without_ends(PATHS[name])
    law = law_of(path, GAUSSIAN, GAUSSIAN_PAIRS)
    z, x0 = torch.linspace(-2, 2, 8, dtype=torch.float64)[:, None], torch.linspace(1, -1, 8).double()[:, None]
    x0 = x0 if path.translates else None
    exact = carried(path, law, began(path, z, x0), x0)
    exact = path.guess(teacher(path, law), torch.full((8,), path.t_range[1], dtype=torch.float64), exact, None, x0)
    made = SOLVERS[solver].sample(path, teacher(path, law), z, None, steps, x0)
    return float((made - exact).abs().max())


@pytest.mark.parametrize(
    ("solver", "name"),
    [row for row in ROWS if row[0] in ORDER and not (row[0] == "Heun" and "ddpm" in row[1])],
    ids=" ".join,
)
def test_the_error_falls_with_the_order_of_the_solver(solver, name):
    coarse, fine = (error(solver, name, steps) for steps in (41, 81))  # one of them a guess
    assert math.log2(coarse / fine) == pytest.approx(ORDER[solver], abs=0.2)


@pytest.mark.parametrize("name", [name for name in PATHS if "ddpm" in name])
def test_a_schedule_of_straight_lines_limits_heun(name):
    assert error("Heun", name, 41) < 1e-3 < error("Euler", name, 41) / 10  # its slopes are off by half a step


# -------------------------------------------------------------------------------- few steps: the published algorithms

STEPS = (2, 5, 18)


def edm_heun(denoise, sigma, scale, slopes, times, x):
    """EDM's algorithm 1 (arXiv 2206.00364), word for word, with any ``sigma(t)`` and scale ``s(t)``; at last to 0."""

    def slope(x, t):
        (dsigma, dscale), (now, s) = slopes(t), (sigma(t), scale(t))
        return (dsigma / now + dscale / s) * x - dsigma * s / now * denoise(x / s, now)

    for t, then in pairwise(times):
        d = slope(x, t)
        ahead = x + (then - t) * d
        x = x + (then - t) * (d / 2 + slope(ahead, then) / 2)
    return denoise(x / scale(times[-1]), sigma(times[-1]))  # Euler's step to sigma = 0


def of_gaussian(x, sigma, law=GAUSSIAN):
    """The ideal denoiser ``D(x; sigma)`` of Gaussian data."""
    mean, std = law.means[0], law.stds[0]
    return mean + std**2 / (std**2 + sigma**2) * (x - mean)


@pytest.mark.parametrize("steps", STEPS)
def test_heun_on_edm_is_algorithm_1_with_karras_steps(steps):
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    levels = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # eq. 5
    expected = edm_heun(of_gaussian, lambda t: t, lambda t: 1.0, lambda t: (1.0, 0.0), levels, 80 * z)
    path = PATHS["diffusion karras"]
    torch.testing.assert_close(Heun().sample(path, teacher(path, GAUSSIAN), z, None, steps), expected)


@pytest.mark.parametrize("steps", STEPS)
def test_heun_on_a_variance_preserving_diffusion_is_algorithm_1_in_its_time(steps):
    z, beta_min, beta_d = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None], 0.1, 19.9
    sigma = lambda t: torch.expm1(beta_d * t**2 / 2 + beta_min * t).sqrt()  # noqa: E731 - table 1, column VP

    def slopes(t):
        rate, level = beta_d * t + beta_min, sigma(t)
        return rate * (level**2 + 1) / (2 * level), -rate / (2 * (level**2 + 1).sqrt())

    times = torch.linspace(1, 1e-4, steps, dtype=torch.float64)
    scale = lambda t: 1 / (sigma(t) ** 2 + 1).sqrt()  # noqa: E731
    expected = edm_heun(of_gaussian, sigma, scale, slopes, times, sigma(times[0]) * scale(times[0]) * z)
    path = PATHS["diffusion vp"]
    torch.testing.assert_close(Heun().sample(path, teacher(path, GAUSSIAN), z, None, steps), expected)


@pytest.mark.parametrize(("std", "sampled"), [(0.05, 0.0555), (0.5, 0.5276)])
def test_18_steps_of_edm_make_what_algorithm_1_makes(std, sampled):
    path, law = PATHS["diffusion karras"], Law(means=(0.0,), stds=(std,))
    assert moments(Heun(), path, law, 18)[2] == pytest.approx(sampled, abs=1e-4)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["diffusion karras", "diffusion vp"])
def test_euler_on_diffusion_is_ddim(name, steps):
    """Eq. 12 of arXiv 2010.02502 with sigma = 0: the predicted sample, and the predicted noise."""
    path, x = PATHS[name], torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    z, times = x, torch.linspace(*path.t_range, steps, dtype=torch.float64)
    x = path.schedule(times[0]).b * z
    for t, then in pairwise(times):
        (a, b, *_), (later_a, later_b, *_) = path.schedule(t), path.schedule(then)
        clean = of_gaussian(x / a, b / a)
        x = later_a * clean + later_b * (x - a * clean) / b
    a, b, *_ = path.schedule(times[-1])
    made = Euler().sample(path, teacher(path, GAUSSIAN), z, None, steps)
    torch.testing.assert_close(made, of_gaussian(x / a, b / a))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("solver", ORDER)
def test_on_the_linear_flow_they_are_the_textbooks(solver, steps):
    path, x = PATHS["flow linear"], torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    z, h, (mean, std) = x, 1 / steps, (0.7, 0.4)

    def velocity(t, x):
        return mean + (t * std**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * std**2) * (x - t * mean)

    for step in range(steps):
        slope = velocity(step * h, x)
        ahead = x + h * slope
        last = step == steps - 1  # where no noise is left EDM's algorithm 1 makes no correction
        x = ahead if solver == "Euler" or last else x + h / 2 * (slope + velocity((step + 1) * h, ahead))
    torch.testing.assert_close(SOLVERS[solver].sample(path, teacher(path, GAUSSIAN), z, None, steps), x)


def drawn(seed=5):
    """Return the noise of every step, and the same every time."""
    return lambda number: torch.randn(5, 1, generator=torch.Generator().manual_seed(seed + number)).double()


@pytest.mark.parametrize("steps", STEPS)
def test_ancestral_sampling_of_diffusion_is_ddpm(steps):
    """The posterior ``q(x_{t-1} | x_t, x_0)`` of arXiv 2006.11239, eq. 6 and 7, at the predicted sample."""
    path, z, noise = PATHS["diffusion vp"], torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None], drawn()
    times = torch.linspace(*path.t_range, steps, dtype=torch.float64)
    x = path.schedule(times[0]).b * z
    for number, (t, then) in enumerate(pairwise(times), 1):
        total, earlier = path.schedule(t).a ** 2, path.schedule(then).a ** 2  # alpha bar of t and t - 1
        alpha, clean = total / earlier, of_gaussian(x / total.sqrt(), ((1 - total) / total).sqrt())
        mean = (earlier.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - earlier) * x) / (1 - total)
        x = mean + ((1 - earlier) / (1 - total) * (1 - alpha)).sqrt() * noise(number)
    a, b, *_ = path.schedule(times[-1])
    made = Ancestral().sample(path, teacher(path, GAUSSIAN), z, None, steps, noise=noise)
    torch.testing.assert_close(made, of_gaussian(x / a, b / a))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("target", ["x1", "drift"])
def test_ancestral_sampling_of_a_bridge_is_euler_maruyamas_exact_step(target, steps):
    """Between ``xt`` and the guess of ``x1`` a Brownian bridge; from ``x0`` to ``x1``: arXiv 2302.05872."""
    path, law, noise = PATHS[f"bridge {target} shown"], GAUSSIAN_PAIRS, drawn()
    z, x0 = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None], torch.linspace(1, -1, 5).double()[:, None]
    times = torch.linspace(*path.t_range, steps, dtype=torch.float64)

    def guess(t, x):
        mean, std = law.slope * x0 + law.means[0], law.stds[0]
        spread = (t * std) ** 2 + 0.25 * t * (1 - t)
        return mean + t * std**2 / spread * (x - (1 - t) * x0 - t * mean)

    x = (1 - times[0]) * x0 + 0.5 * (times[0] * (1 - times[0])).sqrt() * z
    for number, (t, then) in enumerate(pairwise(times), 1):
        pull = (then - t) / (1 - t)
        x = x + pull * (guess(t, x) - x) + 0.5 * (pull * (1 - then)).sqrt() * noise(number)
    made = Ancestral().sample(path, teacher(path, law), z, None, steps, x0, noise)
    torch.testing.assert_close(made, guess(times[-1], x))


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("solver", "name"), REFUSED, ids=" ".join)
def test_what_a_solver_cannot_do_is_told_with_one_that_can(solver, name):
    z = torch.zeros(2, 1, dtype=torch.float64)
    with pytest.raises(UserError, match=REFUSED[solver, name]):
        SOLVERS[solver].sample(PATHS[name], teacher(PATHS[name], GAUSSIAN), z, None, 3, z, lambda number: z)
