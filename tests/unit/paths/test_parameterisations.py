"""What networks predict and how they are told the time: one ``E[x1 | xt]`` in many words gives one prediction."""

import math
from itertools import product

import pytest
import shipped_paths
import torch

from realuid_lightning.errors import UserError
from realuid_lightning.paths import (
    EDM,
    CosineSchedule,
    Data,
    DDPMSteps,
    DiffusionPath,
    FlowMatchingPath,
    KarrasSchedule,
    LogSigma,
    Noise,
    Parameterisation,
    PathTime,
    ReversedTime,
    ReversedVelocity,
    Sigma,
    Velocity,
    VPrediction,
    VPSchedule,
    VPSteps,
)
from realuid_lightning.recorded import rebuild
from realuid_lightning.testing import check_path

SCHEDULES = {**shipped_paths.SCHEDULES, "karras": shipped_paths.KARRAS}
FINITE = ("vp", "karras")  # of finite noise levels, as DiffusionPath needs them


def of_velocity(c, xt, x1, x0):
    return c.da * x1 + c.db * x0


def of_edm(sigma_data):
    def raw(c, xt, x1, x0):
        sigma, x = c.b / c.a, xt / c.a
        total = sigma**2 + sigma_data**2
        return (x1 - sigma_data**2 / total * x) * total.sqrt() / (sigma * sigma_data)

    return raw


WORDS = {
    "velocity": (Velocity(), of_velocity),
    "reversed": (ReversedVelocity(), lambda *ends: -of_velocity(*ends)),
    "noise": (Noise(Sigma()), lambda c, xt, x1, x0: x0),
    "data": (Data(unit_variance=True), lambda c, xt, x1, x0: x1),
    "v": (VPrediction(LogSigma()), lambda c, xt, x1, x0: (c.a * x0 - c.b * x1) / (c.a**2 + c.b**2).sqrt()),
    "edm": (EDM(0.3), of_edm(0.3)),
}
"""Each parameterisation, and what its network returns by definition."""

PATHS = {
    **{f"flow {s} {w}": FlowMatchingPath(SCHEDULES[s], parameterisation=WORDS[w][0]) for s in SCHEDULES for w in WORDS},
    **{f"diffusion {s} {w}": DiffusionPath(SCHEDULES[s], parameterisation=WORDS[w][0]) for s in FINITE for w in WORDS},
}
every_path = pytest.mark.parametrize("name", PATHS)


def draws(count=9, seed=0):
    return torch.randn(3, count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def raw_of(name, path, t, xt, denoised):
    """What the network of a path returns where ``E[x1 | xt]`` is ``denoised``."""
    c = path.schedule(t[:, None])
    return WORDS[name.split()[2]][1](c, xt, denoised, (xt - c.a * denoised) / c.b)


# ------------------------------------------------------------------------------------------------------- identities


@every_path
def test_one_expectation_gives_one_prediction(name):
    path, (xt, denoised, _) = PATHS[name], draws()
    start, end = path.t_range
    t = start + (end - start) * torch.linspace(0.01, 0.99, len(xt), dtype=torch.float64)
    c = path.schedule(t[:, None])
    noise = (xt - c.a * denoised) / c.b
    expected = denoised if isinstance(path, DiffusionPath) else of_velocity(c, xt, denoised, noise)
    scale = 1 + expected.abs()
    found = path.output(t, xt, raw_of(name, path, t, xt, denoised))
    close(found / scale, expected / scale, 1e-10)
    close(path.denoise(t, xt, found), denoised)
    scale = 1 + (noise / c.b).abs()
    close(path.score(t, xt, found) / scale, -noise / c.b / scale)


def test_the_default_of_diffusion_is_edm_and_its_network_predicts_v_at_unit_deviation():
    schedule, t, (xt, raw, _) = VPSchedule(), torch.linspace(0.1, 0.9, 9, dtype=torch.float64), draws()
    path = DiffusionPath(schedule, sigma_data=1.0)
    by_v = DiffusionPath(schedule, 1.0, parameterisation=VPrediction(LogSigma(), unit_variance=True))
    close(path.output(t, xt, raw), by_v.output(t, xt, -raw))
    for found, expected in zip(path.inputs(t, xt), by_v.inputs(t, xt), strict=True):
        close(found, expected)


# ------------------------------------------------------------------------------------------- what networks are told


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_times_as_networks_are_told_them(schedule):
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    a, b, _, _ = schedule(t)
    assert PathTime()(t, schedule) is t
    assert torch.equal(PathTime(1000.0)(t, schedule), 1000 * t)
    assert torch.equal(ReversedTime()(t, schedule), 1 - t)
    assert torch.equal(ReversedTime(1000.0)(t, schedule), 1000 * (1 - t))
    close(Sigma()(t, schedule), b / a)
    close(LogSigma()(t, schedule), (b / a).log() / 4)
    close(LogSigma(1.0)(t, schedule), (b / a).log())
    close(VPSteps()(t, schedule), 999 * (1 - VPSchedule().time(b / a)))


def test_the_steps_of_the_variance_preserving_diffusion_are_equal_in_its_time():
    t = torch.linspace(0, 0.999, 9, dtype=torch.float64)
    close(VPSteps(0.2, 15.0, 500)(t, VPSchedule(0.2, 15.0)), 499 * (1 - t))


@pytest.mark.parametrize("path", [DiffusionPath, FlowMatchingPath])
@pytest.mark.parametrize("schedule", [KarrasSchedule(0.002, 200.0), VPSchedule(0.1, 20.5)])
def test_noise_at_the_steps_of_ddpm_denoises(path, schedule):
    """A network that knows the noise gives back ``x1`` at each step's own level, and sees what DDPM's sees."""
    path = path(schedule, parameterisation=Noise(DDPMSteps(), unit_variance=True))
    steps = torch.tensor([0, 1, 499, 998, 999])
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[steps]
    t, (x0, x1, _) = schedule.time(((1 - kept) / kept).sqrt()), draws(5)
    _, xt, _ = path.sample(t, x0, x1)
    time, point = path.inputs(t, xt)
    close(time, steps.double(), 1e-6)
    close(point, kept.sqrt()[:, None] * x1 + (1 - kept).sqrt()[:, None] * x0, 1e-8)
    close(path.denoise(t, xt, path.output(t, xt, x0)), x1, 1e-6)


def test_beyond_the_steps_of_ddpm_time_stands_still():
    told = DDPMSteps().of(torch.tensor([0.0, 1e-3, 200.0, math.inf]))
    assert told.tolist() == [0, 0, 999, 999]


# ----------------------------------------------------------------------------------------- safe where it is undefined


@pytest.mark.parametrize(
    ("parameterisation", "expected"),
    [
        (Velocity(), (0.0, 1.0)),
        (VPrediction(), (0.0, 1.0)),
        (Noise(), (0.001, 1.0)),
        (Data(), (0.0, 0.999)),
        (EDM(), (0.001, 0.999)),
        (Velocity(Sigma()), (0.001, 1.0)),
        (Velocity(LogSigma()), (0.001, 0.999)),
        (Data(VPSteps()), (0.007, 0.999)),  # of noise levels up to 152
        (Velocity(DDPMSteps()), (0.007, 0.99)),  # from 0.01 to 157
    ],
    ids=lambda each: type(each).__name__,
)
def test_times_at_which_a_prediction_says_nothing_are_left_out(parameterisation, expected):
    path = FlowMatchingPath(parameterisation=parameterisation)
    assert path.t_range == pytest.approx(expected, abs=1e-9)
    check_path(path, (2,))


@pytest.mark.parametrize("name", [name for name in PATHS if "linear" not in name])
def test_every_parameterisation_keeps_the_contract(name):
    check_path(PATHS[name], (2,))
    if name.startswith("diffusion"):
        assert PATHS[name].t_range == PATHS[name].schedule.t_range


def test_what_a_prediction_is_divided_by_is_told_of_the_schedule_not_of_the_time():
    schedule = CosineSchedule()
    start, end = FlowMatchingPath(schedule, parameterisation=EDM()).t_range
    ends = schedule(torch.tensor([start, end], dtype=torch.float64))
    assert 1e-3 <= float(ends.a[0]) < 3e-3
    assert 1e-3 <= float(ends.b[1]) < 3e-3


# ----------------------------------------------------------------------------------------------- records and refusals


class Half(Parameterisation):
    """One of one's own: half the denoised sample, told the noise level."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__(Sigma())
        self.factor = factor

    def denoised(self, schedule, t, xt, raw):
        return self.factor * raw


@pytest.mark.parametrize("path", [*list(PATHS.values())[::5], DiffusionPath(parameterisation=Half(3.0))])
def test_a_record_rebuilds_the_path(path):
    again, (xt, raw, _) = rebuild(path.recorded(), type(path)), draws()
    t = torch.full((9,), 0.4, dtype=torch.float64)
    assert again.recorded() == path.recorded()
    assert torch.equal(again.output(t, xt, raw), path.output(t, xt, raw))
    assert all(map(torch.equal, again.inputs(t, xt), path.inputs(t, xt)))


def test_defaults_are_recorded_as_nothing_and_times_in_full():
    for plain, written in [
        (FlowMatchingPath(), FlowMatchingPath(parameterisation=Velocity(PathTime()))),
        (DiffusionPath(sigma_data=0.4), DiffusionPath(sigma_data=0.4, parameterisation=EDM(0.4))),
    ]:
        assert written.recorded() == plain.recorded()
        assert "parameterisation" not in plain.recorded()["init_args"]
    assert Noise().recorded() == Noise(PathTime()).recorded()
    assert ReversedVelocity().recorded() == ReversedVelocity(ReversedTime()).recorded() != Velocity().recorded()
    other = DiffusionPath(sigma_data=0.4, parameterisation=EDM(0.5)).recorded()
    assert other["init_args"]["parameterisation"]["init_args"] == {"sigma_data": 0.5}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EDM(0.0), "EDM: sigma_data must be above 0, got 0.0"),
        (lambda: PathTime(-1.0), "PathTime: scale must be above 0, got -1.0"),
        (lambda: LogSigma(math.nan), "LogSigma: scale must be finite"),
        (lambda: VPSteps(steps=1), "VPSteps: steps must be at least 2, got 1"),
        (lambda: DDPMSteps(0.5, 0.1), "DDPMSteps: beta_first and beta_last must be in"),
        (
            lambda: DiffusionPath(KarrasSchedule(200.0, 300.0), parameterisation=Noise(DDPMSteps())),
            "Noise tells no time of KarrasSchedule, whose noise levels are 200 to 300: its own are 0.01 to 157",
        ),
        (lambda: DDPMSteps(steps=0), "DDPMSteps: steps must be at least 2, got 0"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_all_of_both_are_tried_here():
    assert {type(words) for words, _ in WORDS.values()} == set(kinds(Parameterisation))
    assert len(PATHS) == len(set(product(SCHEDULES, WORDS))) + len(set(product(FINITE, WORDS)))


def kinds(base):
    """Concrete classes of the package below ``base``."""
    for cls in base.__subclasses__():
        yield from kinds(cls)
        if cls.__module__.startswith("realuid_lightning."):
            yield cls
