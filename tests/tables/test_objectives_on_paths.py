"""Every objective on every path: the exact fake model, what the generator descends, and training in fp32 and bf16.

Between Gaussians (``gaussians``) the loss of ``RealUIDModule``, with the exact teacher and the exact fake model of one
generator, must have the derivative of a functional of generators, which is integrated over ``xt`` on its own and
differentiated by finite differences. A divergence, coefficient, path or schedule that ships needs its row here.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from gaussians import Exact, Generator, Law, Moment
from helpers import F_DIVERGENCES, fit, mlp, points
from lightning import Callback
from torch import nn

from realuid_lightning.data import Gaussian
from realuid_lightning.errors import UserError
from realuid_lightning.losses import FDivergence
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.modules.roles import objective_of
from realuid_lightning.networks import MLP
from realuid_lightning.objectives import (
    D2O,
    DMD,
    GAN,
    L2,
    R1GAN,
    Adversarial,
    Corrected,
    Divergence,
    Mixture,
    Objective,
    PseudoHuber,
    RealUID,
    SiD,
    SiDAdversary,
    SquaredDistance,
)
from realuid_lightning.paths import (
    AffinePath,
    BridgePath,
    CosineSchedule,
    Data,
    DDPMSchedule,
    DiffusionPath,
    EncoderDecoderSchedule,
    FlowMatchingPath,
    InterpolantPath,
    KarrasSigma,
    LogitNormal,
    LogNormalSigma,
    MatchingPath,
    Noise,
    NoiseWeight,
    ReversedTime,
    Schedule,
    Sigma,
    TimeLaw,
    TimeWeight,
    VPrediction,
    VPSchedule,
)

PATHS: dict[str, MatchingPath] = {
    "flow": FlowMatchingPath(),
    "flow, cosine": FlowMatchingPath(CosineSchedule()),
    "flow, vp": FlowMatchingPath(VPSchedule()),
    "flow, noise": FlowMatchingPath(times=LogitNormal(0.4), shift=3.0, parameterisation=Noise(), levels=[0.2]),
    "flow, v": FlowMatchingPath(CosineSchedule(), times=LogNormalSigma(), parameterisation=VPrediction(Sigma())),
    "flow, weighted": FlowMatchingPath(weighting=NoiseWeight()),
    "edm": DiffusionPath(),
    "edm, data": DiffusionPath(generator_times=KarrasSigma(0.5), parameterisation=Data(unit_variance=True)),
    "vp": DiffusionPath(VPSchedule()),
    "ddpm": DiffusionPath(DDPMSchedule(), parameterisation=Noise(ReversedTime(999.0))),
    "bridge": BridgePath(0.7),
    "bridge, drift": BridgePath(0.7, target="drift"),
    "bridge, latent": BridgePath(0.7, latent=True),
    "bridge, x0 not shown": BridgePath(0.7, condition=False),
    "interpolant": InterpolantPath(),
    "interpolant, none": InterpolantPath(gamma="none"),
    "interpolant, cosine sin2": InterpolantPath(CosineSchedule(), gamma="sin2", noise=0.5),
    "interpolant, encoder-decoder": InterpolantPath(EncoderDecoderSchedule(), gamma="sin2"),
    "between domains": InterpolantPath(translates=True),
    "between domains, sin2": InterpolantPath(gamma="sin2", translates=True),
    "between domains, none": InterpolantPath(gamma="none", translates=True),
}
PLACES = (0.15, 0.5, 0.85)  # draws u, of which the path makes the times of generator steps


# --------------------------------------------------------------------------------------------------------- functionals


@functools.cache
def moment(name, place):
    path = PATHS[name]
    return Moment(path, path.generator_t(torch.tensor([place], dtype=torch.float64))[0])


class Scene:
    """One moment between a real law, which the teacher knows, and the law of the present generator."""

    def __init__(self, name, place, row):
        self.moment, self.row = moment(name, place), row
        tilts = (0.2, 0.3) if PATHS[name].translates else (0.0, 0.0)
        self.now, self.real = Law(0.3, 0.9, tilts[0]), Law(-0.2, 1.0, tilts[1])
        self.x, self.step = self.moment.grid(self.now, self.real, count=row.count)

    def integral(self, values):
        return float(values.sum() * self.step)

    def p(self, law):
        return self.moment.log_density(self.x, law).exp()

    def m(self, law):
        """The density of the samples that the fake model trains on."""
        return self.row.alpha * self.p(law) + (1 - self.row.alpha) * self.p(self.real)

    def gap(self, law):
        """``f* - f_opt``."""
        coefficients = self.row.alpha, self.row.beta, self.row.gamma
        return self.moment.target(self.x, self.real) - self.moment.fake(self.x, law, self.real, *coefficients)

    def log_ratio(self, law):
        return self.moment.logits(self.x, law, self.real)


def mean_square(scene, law):
    """``E_m w |f* - f_opt|^2``: what RealUID is, with all coefficients."""
    return scene.moment.weight * scene.integral(scene.m(law) * scene.gap(law) ** 2)


def partly_held(scene, law):
    """The same with a part of the density ``m`` held at the present generator."""
    share = scene.row.divergence.alpha_sid
    density = (2 - 2 * share) * scene.m(law) + (2 * share - 1) * scene.m(scene.now)
    return scene.moment.weight * scene.integral(density * scene.gap(law) ** 2)


def of_guesses(scene, law):
    """``partly_held`` between guesses of ``x1``, without the path's weight."""
    return scene.moment.unit**2 / scene.moment.weight * partly_held(scene, law)


def held_huber(scene, law):
    """``E_m w d(f* - f_opt)`` with all of ``m`` held."""
    h = scene.row.divergence.h
    distance = (scene.gap(law) ** 2 + h**2).sqrt() - h
    return scene.moment.weight * scene.integral(scene.m(scene.now) * distance)


def floored_norm(scene, law):
    """``E_m w |f* - f_opt|`` but for gaps below ``eps``, where the direction that it is multiplied by is shorter."""
    eps, gap, now = scene.row.divergence.eps, scene.gap(law), scene.gap(scene.now)
    smooth = torch.where(gap.abs() < eps, gap**2 / (2 * eps), gap.abs() - eps / 2)
    held = scene.m(law) * now**2 / now.abs().clamp(min=eps)
    return scene.moment.weight * scene.integral(scene.m(scene.now) * smooth + held)


def f_divergence(scene, law):
    """``E_generated f(p_real / p_generated)`` at ``xt``."""
    ratio = scene.log_ratio(law).exp()
    return scene.integral(scene.p(law) * F_DIVERGENCES[scene.row.divergence.f](ratio))


def softened(scene, law):
    """What real data in the fake model make of the reverse KL: ``r^2 f''(r) = 1 / (1 + k r)``."""
    ratio, k = scene.log_ratio(law).exp(), (1 - scene.row.alpha) / scene.row.alpha
    return scene.integral(scene.p(law) * (1 + k * ratio) * torch.log((1 + k * ratio) / ratio))


def adversarial(scene, law):
    """``E_generated softplus(-D(xt))`` with the present discriminator."""
    return scene.integral(scene.p(law) * nn.functional.softplus(-scene.log_ratio(scene.now)))


def clipped(scene, law):
    """SiDA: ``of_guesses``, and 0.3 times ``adversarial`` with logits in [-10, 10]."""
    logits = scene.log_ratio(scene.now).clamp(-10, 10)
    return of_guesses(scene, law) + 0.3 * scene.integral(scene.p(law) * nn.functional.softplus(-logits))


def mixed(scene, law):
    return 0.25 * mean_square(scene, law) + 0.75 * of_guesses(scene, law)


# ----------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Row:
    """Settings of ``RealUIDModule``, and the functional of generators that they descend."""

    functional: Callable[[Scene, Law], float]
    divergence: Divergence = SquaredDistance()  # noqa: RUF009 - it has no state
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float | None = None
    gan: GAN | None = None
    objective: Objective | None = None  # in place of those five, which then say what the functional needs to know
    rtol: float = 1e-5
    count: int = 501  # points of a grid, on which what is smooth converges at once

    @property
    def by_divergence(self):
        """Whether the functional has a unit of its own: no functional of ``f* - f``, but of densities."""
        return isinstance(self.divergence, DMD)

    def settings(self):
        names = ("objective",) if self.objective else ("divergence", "alpha", "beta", "gamma", "gan")
        return {name: getattr(self, name) for name in names}

    @property
    def whole(self):
        """The objective that the settings stand for."""
        return self.objective or objective_of(None, self.alpha, self.beta, self.gamma, self.divergence, self.gan)


REAL = {"alpha": 0.9, "beta": 0.86}
EVERYWHERE = GAN(0.3, t_range=(0.0, 1.0))
OBJECTIVES = {
    "UID": Row(mean_square),
    "RealUID": Row(mean_square, **REAL),
    "RealUID, beta above 1": Row(mean_square, alpha=1.0, beta=1.2),
    "general RealUID": Row(mean_square, **REAL, gamma=0.7),
    "corrected": Row(mean_square, alpha=0.6, beta=1.0, gamma=1.0, objective=Corrected(0.7, 0.6)),
    "UID + GAN": Row(mean_square, gan=EVERYWHERE),
    "RealUID + GAN": Row(mean_square, **REAL, gan=EVERYWHERE),
    "SiD": Row(of_guesses, SiD(1.2)),
    "RealSiD": Row(of_guesses, SiD(1.0), **REAL),
    "SiD, not normalised": Row(partly_held, SiD(1.2, normalise=False), **REAL),
    "SIM": Row(held_huber, PseudoHuber(0.5), **REAL),
    "L2": Row(floored_norm, L2(0.3), **REAL, rtol=2e-3, count=20001),  # two kinks
    "DMD": Row(f_divergence, DMD()),
    "DMD, not normalised": Row(f_divergence, DMD(normalise=False)),
    "DMD with real data": Row(softened, DMD(normalise=False), alpha=0.7, beta=0.7),
    **{f: Row(f_divergence, DMD(False, f), gan=EVERYWHERE) for f in F_DIVERGENCES if f != "reverse_kl"},
    "RealUID + R1": Row(mean_square, **REAL, gan=R1GAN(0.5, t_range=(0.0, 1.0))),
    "D2O": Row(adversarial, objective=D2O(t_range=(0.0, 1.0))),
    "SiDA": Row(clipped, SiD(1.0), objective=Adversarial(RealUID(divergence=SiD(1.0)), SiDAdversary(0.3))),
    "mixture": Row(
        mixed,
        SiD(1.2),
        **REAL,
        objective=Mixture([RealUID(**REAL), RealUID(**REAL, divergence=SiD(1.2))], [1.0, 3.0]),
    ),
}


PARTS = [part for row in OBJECTIVES.values() for part in (row.whole, *getattr(row.whole, "objectives", []))]


def shipped(base):
    """The classes of the package that are a ``base`` and have no subclass of their own to be abstract for."""
    every = {base}
    while True:
        found = every | {child for each in every for child in each.__subclasses__()}
        if found == every:
            break
        every = found
    return {each for each in every if each.__module__.startswith("realuid_lightning") and not each.__abstractmethods__}


def test_everything_that_ships_has_its_row():
    schedules = {type(path.schedule) for path in PATHS.values() if hasattr(path, "schedule")}
    assert shipped(Divergence) == {type(row.divergence) for row in OBJECTIVES.values()}
    assert all(any(isinstance(part, kind) for part in PARTS) for kind in shipped(Objective))
    assert shipped(MatchingPath) == {type(path) for path in PATHS.values()}
    assert shipped(Schedule) == schedules
    affine = [path for path in PATHS.values() if isinstance(path, AffinePath)]
    laws = [law for path in affine for law in (path.times, path.generator_times) if law is not None]
    assert shipped(TimeLaw) == set(map(type, laws))
    assert shipped(TimeWeight) == {type(path.weighting) for path in PATHS.values() if getattr(path, "weighting", None)}
    assert set(get_args(FDivergence)) == F_DIVERGENCES.keys()
    assert {row.divergence.f for row in OBJECTIVES.values() if row.by_divergence} == F_DIVERGENCES.keys()


# ------------------------------------------------------------------------------------------------------- the exact game


def module(path, row):
    network = MLP([1], width=8, depth=1, condition_channels=path.conditions)
    return RealUIDModule(network, None, path=path, ema=[], **row.settings()).double()


def exact(made, scene, shares=None, shift=(0.0, 0.0)):
    """Give the module exact networks; ``shift`` moves what the fake model's gives."""
    moment, row, now, real = scene.moment, scene.row, scene.now, scene.real

    def fake(x):
        return moment.fake(x, now, real, row.alpha, row.beta, row.gamma) + shift[0] + shift[1] * x / moment.scale

    made.teacher = Exact(moment, lambda x: moment.target(x, real))
    made.fake = Exact(moment, fake, lambda x: moment.logits(x, now, real) + shift[0])
    made.generator = Generator(now, shares)
    return made


def gives(path, row):
    """Whether the path gives the weight that an objective asks for."""
    return not list(row.whole.faults(path))


def slope(functional, law):
    """Derivative by mean and deviation: finite differences of fourth order."""
    found = []
    for name in ("mean", "std"):
        at = [functional(law._replace(**{name: getattr(law, name) + k * 3e-3})) for k in (-2, -1, 1, 2)]
        found.append((at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * 3e-3))
    return torch.tensor(found, dtype=torch.float64)


def descended(made, scene):
    """The gradient that the module gives its generator."""
    batch, shares = scene.moment.along(scene.now, scene.row.count)
    exact(made, scene, shares)
    loss = made.generator_loss(batch)
    return torch.stack(torch.autograd.grad(loss, [made.generator.mean, made.generator.std])), batch


def expected(scene, batch):
    """The derivative of the row's functional, in the units of its loss."""
    row, moment = scene.row, scene.moment
    found = slope(lambda law: row.functional(scene, law), scene.now)
    if row.by_divergence and row.divergence.normalise:  # the weight of one that stands in for the path's ratio
        ratio = float(moment.path.signal_to_noise(moment.t.reshape(1)))
        found = found / ratio if ratio else 0 * found
    if row.by_divergence and row.divergence.reads_ratio:  # scaled to mean 1 over the batch
        _, xt, _ = moment.path.sample(batch.t, batch.x0, scene.now.sample(batch.z, batch.x0), batch.eps)
        found = found / curvature(row.divergence.f, moment.logits(xt, scene.now, scene.real).exp()).mean()
    if row.gan is not None:
        found = found + row.gan.generator_weight * slope(lambda law: adversarial(scene, law), scene.now)
    return found


def curvature(f, ratio):
    """``r^2 f''(r)``."""
    r = ratio.clone().requires_grad_()
    (first,) = torch.autograd.grad(F_DIVERGENCES[f](r).sum(), r, create_graph=True)
    return r.detach() ** 2 * torch.autograd.grad(first.sum(), r)[0]


@pytest.mark.usefixtures("signatures_unchecked")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", PATHS)
def test_the_generator_descends_the_functional(name, objective, monkeypatch):
    """At every time alone: so times count as they should. A normalising weight is held at 1, ratios are not clipped."""
    path, row = PATHS[name], OBJECTIVES[objective]
    if not gives(path, row):
        with pytest.raises(UserError, match="gives no signal_to_noise, which DMD with normalise: false weighs by"):
            module(path, row)
        return
    if row.by_divergence and not gives(path, OBJECTIVES["DMD, not normalised"]):
        return  # x0 is not shown: differences of guesses of x1 are none of scores, and DMD is a rule without functional
    for file in ("divergences", "sida"):
        monkeypatch.setattr(
            f"realuid_lightning.objectives.{file}.normalising_weight", lambda x1, _: torch.ones(len(x1))
        )
    monkeypatch.setattr("realuid_lightning.losses.divergences.RATIO_RANGE", (0.0, math.inf))
    made, largest = module(path, row), 0.0
    for place in PLACES:
        scene = Scene(name, place, row)
        got, batch = descended(made, scene)
        wanted = expected(scene, batch)
        told = f"at u = {place}: expected {wanted.tolist()}, got {got.tolist()}"
        torch.testing.assert_close(got, wanted, rtol=row.rtol, atol=1e-9, msg=told)
        largest = max(largest, float(wanted.abs().min()))
    assert largest > 1e-5, "gradients of zero would prove nothing"


@pytest.mark.parametrize(
    "objective", ["RealUID", "RealUID, beta above 1", "general RealUID", "corrected", "RealUID + GAN", "UID + GAN"]
)
@pytest.mark.parametrize("name", PATHS)
def test_the_exact_fake_model_is_where_its_loss_is_least(name, objective):
    path, row = PATHS[name], OBJECTIVES[objective]
    made, scene = module(path, row), Scene(name, 0.7, row)
    batch, shares = scene.moment.product(24)
    real = scene.real.sample(batch.z, batch.x0)

    def gradient(off):
        shift = torch.full((2,), off, dtype=torch.float64, requires_grad=True)
        exact(made, scene, shift=shift)
        made.fake.shares = shares
        return torch.autograd.grad(made.fake_loss(batch._replace(x1=real)), shift)[0]

    assert gradient(0.0).abs().max() < 1e-5 * gradient(0.1).abs().min()


@pytest.mark.parametrize("divergence", [SiD(), SiD(1.2), DMD(), DMD(normalise=False)], ids=lambda each: str(vars(each)))
@pytest.mark.parametrize(
    "pair",
    [("flow, vp", "vp"), ("bridge", "bridge, drift"), ("flow", "interpolant, none"), ("bridge", "bridge, latent")],
    ids=" and ".join,
)
def test_losses_between_guesses_of_x1_do_not_depend_on_what_networks_predict(pair, divergence):
    """Paths of one law of ``xt``, with real normalising weights."""
    row, found = Row(mean_square, divergence), []
    numbers = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name in pair:
        scene = Scene(pair[0], 0.6, row)
        scene.moment = Moment(PATHS[name], scene.moment.t)
        made = exact(module(PATHS[name], row), scene)
        batch = scene.moment.batch(numbers[:, [0, 2]] if scene.moment.known else numbers)
        loss = made.generator_loss(batch)
        found.append((loss, *torch.autograd.grad(loss, [made.generator.mean, made.generator.std])))
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=0)


# -------------------------------------------------------------------------------------------------------- in training


class InTurn(Callback):
    """Trains one objective after the other, a cycle each, and notes the faults of each."""

    def __init__(self, rows):
        self.rows, self.faults = rows, []

    def on_train_batch_start(self, trainer, made, *_):
        self.name = list(self.rows)[trainer.global_step]
        made.objective = self.rows[self.name].whole
        self.skipped = int(made.guard.skipped)

    def on_train_batch_end(self, trainer, made, *_):
        if int(made.guard.skipped) != self.skipped:
            self.faults.append(f"{self.name}: an update was left out")
        self.faults += [f"{self.name}: a loss is {loss}" for loss in made.seen if not loss.isfinite()]
        made.seen.clear()


IN_FULL = ("flow", "edm", "bridge", "interpolant", "between domains")
TRAINED = [*((name, "bf16-mixed") for name in PATHS), *((name, "32-true") for name in IN_FULL)]


def test_each_kind_of_path_trains_in_full_precision():
    assert {type(PATHS[name]) for name in IN_FULL} == {type(path) for path in PATHS.values()}


@pytest.mark.parametrize(("name", "precision"), TRAINED)
def test_training_leaves_no_update_out(name, precision, tmp_path):
    path = PATHS[name]
    rows = {objective: row for objective, row in OBJECTIVES.items() if gives(path, row)}
    network = mlp([3], condition_channels=3 * path.conditions)
    made = RealUIDModule(network, None, path=path, fake_steps=1, gan=EVERYWHERE, ema=[0.5])
    made.seen, turns = [], InTurn(rows)
    for player in ("fake_loss", "generator_loss"):
        loss = getattr(made, player)
        setattr(made, player, lambda batch, loss=loss: (made.seen.append(loss(batch)), made.seen[-1])[1])
    origin = Gaussian([0.5] * 3, [0.7] * 3, size=64) if path.translates else None
    fit(made, points(64, origin=origin), tmp_path, len(rows), precision=precision, callbacks=[turns])
    assert made.global_step == len(rows)
    assert turns.faults == []
