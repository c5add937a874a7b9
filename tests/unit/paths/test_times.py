"""Laws of times, the shift, and levels of one's own."""

import math

import pytest
import torch
from shipped_paths import every_schedule

from realuid_lightning.errors import UserError
from realuid_lightning.networks.generator import Generator
from realuid_lightning.paths import (
    CosineSchedule,
    DiffusionPath,
    FlowMatchingPath,
    KarrasSigma,
    LinearSchedule,
    LogitNormal,
    LogNormalSigma,
    Noise,
    Schedule,
    Uniform,
    VPSchedule,
)
from realuid_lightning.recorded import rebuild
from realuid_lightning.solvers import Euler
from realuid_lightning.testing import LAST_U, check_path

LAWS = [Uniform(), LogitNormal(), LogitNormal(-0.8, 0.3), LogNormalSigma(), LogNormalSigma(1.0, 3.0)]
U = torch.linspace(0, LAST_U, 501, dtype=torch.float64)


def normal_cdf(x):
    return (1 + torch.erf(x / math.sqrt(2))) / 2


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------------- laws


@every_schedule
@pytest.mark.parametrize("law", LAWS, ids=lambda law: str([type(law).__name__, *vars(law).get("_arguments").values()]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_law_is_finite_monotone_and_within_its_range(law, schedule, dtype):
    u = torch.cat([torch.tensor([0.0, 2**-24, 1e-7]), torch.linspace(1e-6, LAST_U, 1001)]).to(dtype)
    start, end = schedule.t_range
    t = law(u, schedule, (start, end))
    assert t.dtype == dtype
    assert t.isfinite().all()
    assert ((t >= start - 1e-7) & (t <= end + 1e-7)).all()
    assert (t.diff() >= 0).all() or (t.diff() <= 0).all()
    assert rebuild(law.recorded(), type(law)).recorded() == law.recorded()


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.1, 0.7)])
def test_the_logit_of_a_time_is_normal(start, end):
    t = LogitNormal(0.3, 0.8)(U[1:], LinearSchedule(), (start, end))
    share = (t - start) / (end - start)
    close(normal_cdf((torch.logit(share) - 0.3) / 0.8), U[1:])


@every_schedule
def test_the_logarithm_of_a_noise_level_is_normal_and_cut(schedule):
    t = LogNormalSigma(-0.4, 2.0)(U[1:], schedule, schedule.t_range)
    level, (least, greatest) = schedule.sigma(t), schedule.sigma_range
    inner = (level > least * 1.001) & (level < greatest * 0.999)
    assert inner.double().mean() > 0.8
    close(normal_cdf((level[inner].log() + 0.4) / 2.0), U[1:][inner], 1e-7)


def test_laws_of_noise_levels_are_those_of_logits_on_the_linear_schedule():
    """There ``log sigma`` is the negative logit: one symmetric law by two names."""
    linear = LinearSchedule(), (0.0, 1.0)
    close(LogNormalSigma(-0.3, 0.8)(1 - U[1:], *linear), LogitNormal(0.3, 0.8)(U[1:], *linear))


def test_the_law_of_sd3_counts_time_the_other_way():
    """Eq. 19 of arXiv 2403.03206: ``pi(tau; m, s)``, a density of the share of noise ``tau = 1 - t``."""
    m, s, step = 0.5, 0.6, 1e-5
    u = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    t, later = (LogitNormal(-m, s)(u + shift, LinearSchedule(), (0.0, 1.0)) for shift in (0, step))
    tau = 1 - (t + later) / 2
    density = torch.exp(-((torch.logit(tau) - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi) * tau * (1 - tau))
    close(step / (later - t), density, 1e-5)


@pytest.mark.parametrize("path", [DiffusionPath(), DiffusionPath(VPSchedule())])
def test_the_shorthands_of_diffusion_are_these_laws(path):
    schedule = path.schedule
    written = DiffusionPath(schedule, times=LogNormalSigma(-1.2, 1.2), generator_times=KarrasSigma(0.8))
    for u in (U, U.float()):
        assert torch.equal(written.sample_t(u), path.sample_t(u))
        assert torch.equal(written.generator_t(u), path.generator_t(u))
    short = DiffusionPath(schedule, log_sigma_mean=-0.5, log_sigma_std=0.7, generator_share=0.4)
    assert torch.equal(short.sample_t(U), LogNormalSigma(-0.5, 0.7)(U, schedule, schedule.t_range))
    assert torch.equal(short.generator_t(U), KarrasSigma(0.4)(U, schedule, schedule.t_range))


def test_the_generator_has_times_of_its_own():
    path = FlowMatchingPath(times=LogitNormal(1.0), generator_times=Uniform(), shift=2.0)
    close(path.generator_t(U), U / (U + 2 * (1 - U)))
    path = FlowMatchingPath(times=LogitNormal(1.0))
    assert torch.equal(path.generator_t(U), path.sample_t(U))


# ------------------------------------------------------------------------------------------------------------ shift


def shifted_by_sd3(tau, shift):
    """Eq. 23 of arXiv 2403.03206, ``shift`` for the root of ``m / n``: of the share of noise."""
    return shift * tau / (1 + (shift - 1) * tau)


@pytest.mark.parametrize("shift", [3.0, 1.0, 0.25])
def test_the_shift_is_that_of_sd3_seen_from_the_data(shift):
    path, t = FlowMatchingPath(shift=shift), torch.linspace(0, 1, 11, dtype=torch.float64)
    close(path.shifted(t), 1 - shifted_by_sd3(1 - t, shift))
    close(path.sample_t(t), 1 - shifted_by_sd3(1 - t, shift))
    close(LinearSchedule().sigma(path.shifted(t))[1:], shift * LinearSchedule().sigma(t)[1:])
    close(torch.tensor(path.levels(5), dtype=torch.float64), path.shifted(torch.linspace(0, 0.8, 5).double()), 1e-6)
    laws = [FlowMatchingPath(times=LogNormalSigma(m), shift=s) for m, s in [(0.0, shift), (math.log(shift), 1.0)]]
    close(laws[0].sample_t(U), laws[1].sample_t(U))


def test_solvers_make_shifted_steps():
    seen = []

    def network(t, x, y=None):
        seen.append(float(t[0]))
        return x

    Euler().sample(FlowMatchingPath(shift=3.0), network, torch.zeros(2, 1, dtype=torch.float64), None, 4)
    assert seen == pytest.approx([1 - shifted_by_sd3(1 - k / 4, 3.0) for k in range(4)])


@every_schedule
def test_both_ends_stay_where_they_are(schedule):
    path = FlowMatchingPath(schedule, shift=5.0)
    ends = torch.tensor(path.t_range, dtype=torch.float64)
    close(path.shifted(ends), ends)
    assert path.levels(4)[0] == path.t_range[0]


# ----------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("kind", [FlowMatchingPath, DiffusionPath])
def test_a_generator_calls_its_network_at_levels_of_its_own(kind):
    path, seen = kind(levels=[0.1, 0.3, 0.6, 0.8]), []
    assert (path.generator_start, path.generator_steps) == (0.1, 4)
    assert [path.levels(steps) for steps in (1, 2, 4)] == [[0.1], [0.1, 0.6], [0.1, 0.3, 0.6, 0.8]]

    class Network(torch.nn.Module):
        def forward(self, t, x, y=None):
            seen.append(t[0])
            return x

    z, renoise = torch.ones(2, 3, dtype=torch.float64), torch.zeros(2, 3, 3, dtype=torch.float64)
    Generator(Network(), path, 4)(z, None, None, renoise)
    told = path.inputs(torch.tensor([0.1, 0.3, 0.6, 0.8], dtype=torch.float64), torch.ones(4, 1).double())[0]
    assert torch.equal(torch.stack(seen), told)
    with pytest.raises(UserError, match=rf"{kind.__name__}: levels names 4 times.*but sampling_steps is 3: set it to"):
        path.levels(3)


def test_faults_of_levels_are_told():
    for levels in ([], [0.2, 0.2], [0.5, 0.1], [-0.1, 0.5], [0.5, 1.0], [0.1, math.nan]):
        with pytest.raises(UserError, match="FlowMatchingPath: levels must rise within t_range, from 0 to below 1,"):
            FlowMatchingPath(levels=levels)
    with pytest.raises(UserError, match=r"must rise within t_range, from 0\.001 to below 1, got"):
        FlowMatchingPath(levels=[0.0, 0.5], parameterisation=Noise())


# --------------------------------------------------------------------------------------------- records and refusals


@pytest.mark.parametrize(
    "path",
    [
        FlowMatchingPath(times=LogitNormal(0.2, 1.1), shift=3.0, generator_times=Uniform(), levels=[0.0, 0.4, 0.7]),
        FlowMatchingPath(CosineSchedule(), times=LogNormalSigma(), generator_times=LogitNormal(1.0)),
        DiffusionPath(times=LogitNormal(), generator_times=LogNormalSigma(0.0, 1.0), levels=[0.25, 0.5]),
        DiffusionPath(VPSchedule(), times=Uniform(), generator_times=KarrasSigma(0.5)),
    ],
    ids=["flow", "flow, cosine", "edm", "vp"],
)
def test_paths_with_times_of_their_own_keep_the_contract(path):
    check_path(path, (2,))
    again = rebuild(path.recorded(), type(path))
    assert again.recorded() == path.recorded()
    assert torch.equal(again.sample_t(U), path.sample_t(U))
    assert again.generator_steps == path.generator_steps
    assert set(path.recorded()["init_args"]) & {"times", "generator_times"} == {"times", "generator_times"}


def test_records_of_before_are_those_of_paths_without():
    old = {"class_path": "realuid_lightning.paths.flow.FlowMatchingPath", "init_args": {"schedule": None}}
    assert rebuild(old, FlowMatchingPath).recorded() == FlowMatchingPath().recorded()
    assert set(FlowMatchingPath().recorded()["init_args"]) == {"schedule"}
    shorthands = {"sigma_data", "log_sigma_mean", "log_sigma_std", "generator_sigma", "generator_share"}
    assert set(DiffusionPath().recorded()["init_args"]) == {"schedule"} | shorthands


class Untold(LinearSchedule):
    time = Schedule.time


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LogitNormal(math.inf, 0.0), "(?s)LogitNormal: mean must be finite.*LogitNormal: std must be above 0"),
        (lambda: LogNormalSigma(0.0, -1.0), "LogNormalSigma: std must be above 0, got -1.0"),
        (lambda: KarrasSigma(1.5), r"KarrasSigma: share must be in \(0, 1\], got 1.5"),
        (lambda: FlowMatchingPath(shift=0.0), "FlowMatchingPath: shift must be above 0, got 0.0"),
        (lambda: FlowMatchingPath(shift=math.nan), "FlowMatchingPath: shift must be finite"),
        (lambda: FlowMatchingPath(times=KarrasSigma()), "greatest noise level, but that of LinearSchedule is infinite"),
        (lambda: FlowMatchingPath(Untold(), generator_times=LogNormalSigma()), "Untold gives no time of a noise level"),
        (lambda: DiffusionPath(times=Uniform(), log_sigma_std=1.0), "times stands in for log_sigma_mean and log_sigm"),
        (lambda: DiffusionPath(generator_times=Uniform(), generator_share=0.5), "stands in for generator_share"),
        (lambda: DiffusionPath(levels=[0.1], generator_sigma=1.0), "levels stands in for generator_sigma"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
