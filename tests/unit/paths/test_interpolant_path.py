import math
from itertools import product

import pytest
import torch

from realuid_lightning.errors import UserError
from realuid_lightning.paths import (
    CosineSchedule,
    EncoderDecoderSchedule,
    FlowMatchingPath,
    InterpolantPath,
    LinearSchedule,
    VPSchedule,
    expand,
)
from realuid_lightning.testing import check_path

MEAN, STD = 0.7, 0.4
GAMMAS = ("sqrt", "sin2", "none")
PLAIN = [LinearSchedule(), CosineSchedule(), VPSchedule()]
ALL = [*product(PLAIN, GAMMAS), *product([EncoderDecoderSchedule()], GAMMAS[:2])]
SHAPE = (5, 3, 2, 2)
every_combination = pytest.mark.parametrize(
    ("schedule", "gamma"), ALL, ids=[f"{type(schedule).__name__}-{gamma}" for schedule, gamma in ALL]
)


def draws(seed=0):
    rng = torch.Generator().manual_seed(seed)
    t = torch.rand(SHAPE[0], generator=rng, dtype=torch.float64) * 0.98 + 0.01
    return t, *torch.randn(3, *SHAPE, generator=rng, dtype=torch.float64)


def noise_of(gamma, t):
    return {"sqrt": (2 * t * (1 - t)).sqrt(), "sin2": torch.sin(math.pi * t) ** 2, "none": 0 * t}[gamma]


def gaussian(path, t, xt):
    """Return E[x1 | xt] and the expected velocity by conditioning the joint Gaussian of both ends and the noise."""
    (a, b, da, db), g = path.schedule(t), noise_of(path.gamma, t)
    (dg,) = torch.autograd.grad(noise_of(path.gamma, at := t.clone().requires_grad_()).sum(), at)
    whitened = (xt - a * MEAN) / ((a * STD) ** 2 + b**2 + g**2)
    return MEAN + a * STD**2 * whitened, da * MEAN + (a * da * STD**2 + b * db + g * dg) * whitened


@every_combination
def test_all_combinations_keep_the_contract(schedule, gamma):
    check_path(InterpolantPath(schedule, gamma), (2,))
    if not schedule.through_noise and (type(schedule), gamma) != (VPSchedule, "sqrt"):
        check_path(InterpolantPath(schedule, gamma, translates=True), (2,))
    assert InterpolantPath(schedule, gamma).noisy == (gamma != "none")


@every_combination
@pytest.mark.parametrize("seed", [0, 1])
def test_the_target_is_the_time_derivative_with_that_of_the_noise(schedule, gamma, seed):
    t, x0, x1, noise = draws(seed)
    _, xt, target = InterpolantPath(schedule, gamma).sample(t, x0, x1, noise)

    def point(t):
        time = expand(t, x0)
        a, b, _, _ = schedule(time)
        return a * x1 + b * x0 + noise_of(gamma, time) * noise

    expected, slope, *_ = torch.func.jvp(point, (t,), (torch.ones_like(t),))
    torch.testing.assert_close(xt, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(target, slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("path", "gamma"), [(InterpolantPath(), 0.5**0.5), (InterpolantPath(gamma="sin2"), 1.0)], ids=["sqrt", "sin2"]
)
def test_noise_is_greatest_at_half_time(path, gamma):
    assert isinstance(path.schedule, LinearSchedule)
    t = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    x0, x1, noise = torch.full((3, 3), 1.0).double(), torch.full((3, 3), 3.0).double(), torch.ones(3, 3).double()
    _, xt, target = path.sample(t, x0, x1, noise)
    assert xt[1].tolist() == pytest.approx([2 + gamma] * 3)
    assert target[1].tolist() == pytest.approx([2.0] * 3)
    assert (target[0] > 2).all()
    assert (target[2] < 2).all()


@every_combination
def test_the_guess_is_the_conditional_mean_of_the_data(schedule, gamma):
    path, (_, z, _, _) = InterpolantPath(schedule, gamma), draws()
    times = (0.55, 0.7, 0.95) if schedule.through_noise else (0.05, 0.3, 0.5, 0.7, 0.95)
    for time in times:
        t = torch.full((5,), time, dtype=torch.float64)
        denoised, velocity = gaussian(path, expand(t, z), z)
        found = path.guess(lambda t, x, y, velocity=velocity: velocity, t, z)
        torch.testing.assert_close(found, denoised, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gamma", ["sqrt", "sin2"])
def test_an_encoder_knows_nothing_of_the_data(gamma):
    path, (_, xt, prediction, _) = InterpolantPath(EncoderDecoderSchedule(), gamma), draws()
    for time in (0.1, 0.4, 0.5):
        found = path.denoise(torch.full((5,), time, dtype=torch.float64), xt, prediction)
        assert not found.any()
    assert path.denoise(torch.full((5,), 0.51, dtype=torch.float64), xt, prediction).any()


@pytest.mark.parametrize("gamma", ["sqrt", "sin2"])
def test_an_encoder_decoder_passes_through_pure_noise(gamma):
    path, (_, x0, x1, noise) = InterpolantPath(EncoderDecoderSchedule(), gamma), draws()
    half = torch.full((5,), 0.5, dtype=torch.float64)
    spread = {"sqrt": 0.5**0.5, "sin2": 1.0}[gamma]
    torch.testing.assert_close(path.sample(half, x0, x1, noise).xt, spread * noise, rtol=1e-12, atol=1e-12)
    for time, absent in [(0.2, {"x1": x1.flip(0)}), (0.8, {"x0": x0.flip(0)})]:
        t = torch.full((5,), time, dtype=torch.float64)
        here = path.sample(t, x0, x1, noise)
        there = path.sample(t, absent.get("x0", x0), absent.get("x1", x1), noise)
        assert torch.equal(here.xt, there.xt)
        assert torch.equal(here.target, there.target)
        assert not torch.equal(here.xt, path.sample(t, x0.flip(0), x1.flip(0), noise).xt)


@every_combination
def test_the_generator_starts_at_the_source_or_past_the_noise(schedule, gamma):
    path, (_, z, _, _) = InterpolantPath(schedule, gamma), draws()
    seen = []

    def network(t, x, y=None):
        seen.append((t, x))
        return x.sin()

    made = path.one_step(network, z)
    ((t, x),) = seen
    expected = 0.55 if schedule.through_noise else 0.0 if gamma == "none" else 0.001
    assert path.generator_start == expected
    torch.testing.assert_close(t, torch.full((5,), expected, dtype=torch.float64))
    time = expand(t, z)
    spread = (schedule(time).b ** 2 + noise_of(gamma, time) ** 2).sqrt()
    torch.testing.assert_close(x, spread * z, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made, path.denoise(t, x, x.sin()))


@every_combination
def test_noised_points_have_the_variance_of_the_path(schedule, gamma):
    """Both noises are one: the latent takes the place of x0 and of the noise, with the same marginals."""
    path, (t, z, x1, _) = InterpolantPath(schedule, gamma), draws()
    time = expand(t, z)
    a, b, _, _ = schedule(time)
    mean, by_latent = path.noised(t, 0 * z, x1), path.noised(t, torch.ones_like(z), 0 * x1)
    torch.testing.assert_close(mean, a * x1)
    torch.testing.assert_close(by_latent**2, (b**2 + noise_of(gamma, time) ** 2).expand_as(z))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_between_two_domains_the_latent_is_the_noise_in_between(gamma):
    path, (t, x0, x1, z) = InterpolantPath(CosineSchedule(), gamma, translates=True), draws()
    assert path.translates
    assert torch.equal(path.noised(t, z, x1, x0), path.sample(t, x0, x1, z).xt)
    # The guess is that without the noise: exact where there is none.
    clean = InterpolantPath(CosineSchedule(), "none", translates=True).sample(t, x0, x1)
    torch.testing.assert_close(path.denoise(*clean, x0), x1, rtol=1e-9, atol=1e-9)


def test_without_noise_it_is_flow_matching():
    (t, x0, x1, noise), flow = draws(), FlowMatchingPath(CosineSchedule())
    path = InterpolantPath(CosineSchedule(), "none")
    assert path.t_range == flow.t_range
    assert all(map(torch.equal, path.sample(t, x0, x1, noise), flow.sample(t, x0, x1)))
    assert torch.equal(path.denoise(t, x1, x0), flow.denoise(t, x1, x0))


def test_refused_combinations():
    with pytest.raises(UserError, match="EncoderDecoderSchedule is zero at half time, where gamma 'none' leaves noth"):
        InterpolantPath(EncoderDecoderSchedule(), "none")
    with pytest.raises(UserError, match=r"EncoderDecoderSchedule forgets x0 at half time.*set translates to false"):
        InterpolantPath(EncoderDecoderSchedule(), "sin2", translates=True)


def test_faults_are_told_together():
    refuse = InterpolantPath.__init__.__wrapped__  # its types are checked under test
    with pytest.raises(UserError) as caught:
        refuse(object.__new__(InterpolantPath), EncoderDecoderSchedule(), "none", True)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["InterpolantPath"] * 2
    with pytest.raises(UserError) as caught:
        refuse(object.__new__(InterpolantPath), EncoderDecoderSchedule(), "cubic", True)
    first, second = str(caught.value).splitlines()
    assert first == "InterpolantPath: gamma must be 'sqrt', 'sin2' or 'none', got 'cubic'"
    assert "forgets x0" in second


@pytest.mark.parametrize("gamma", ["sqrt", "none"])
@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_between_two_domains_the_guess_from_the_conditional_target_is_the_data_end(schedule, gamma):
    path, (_, x0, x1, noise) = InterpolantPath(schedule, gamma, translates=True, noise=0.3), draws()
    for time in (path.t_range[0], 0.3, 0.9):
        t, xt, target = path.sample(torch.full((len(x0),), time, dtype=x0.dtype), x0, x1, noise)
        torch.testing.assert_close(path.denoise(t, xt, target, x0), x1, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("schedule", PLAIN)
def test_between_two_domains_without_noise_at_the_start_the_network_is_not_shown_the_source(schedule):
    """With ``sin2`` or ``none`` the pair (xt, x0) reveals x1 near the source, where samplers know nothing of it."""
    (t, x0, x1, _) = draws()
    for gamma in ("sin2", "none"):
        path = InterpolantPath(schedule, gamma, translates=True)
        assert path.conditions == 0
        assert path.ode == "any"
        assert torch.equal(path.inputs(t, x1, x0)[1], x1)


@pytest.mark.parametrize("gamma", ["sin2", "none"])
def test_between_two_domains_without_the_source_the_guess_is_right_at_both_ends(gamma):
    path, (_, x0, x1, noise) = InterpolantPath(CosineSchedule(), gamma, translates=True), draws()
    for time in path.t_range:
        t, xt, target = path.sample(torch.full((len(x0),), time, dtype=x0.dtype), x0, x1, noise)
        torch.testing.assert_close(path.denoise(t, xt, target, x0), x1, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("schedule", "noise", "words"), [(VPSchedule(), 1.0, "holds 0.0066"), (LinearSchedule(), 0.03, "holds 1e-05")]
)
def test_too_little_noise_to_hide_the_data_from_a_network_that_is_shown_the_source_is_refused(schedule, noise, words):
    with pytest.raises(UserError, match=f"{words} of x1 beside noise of .*gamma 'none'" if noise < 1 else words):
        InterpolantPath(schedule, translates=True, noise=noise)


def test_the_less_noise_the_nearer_to_the_source_a_translating_path_begins():
    ratios = []
    for noise in (1.0, 0.5, 0.2):
        path = InterpolantPath(translates=True, noise=noise)
        ratios.append(path.t_range[0] / float(path.std(torch.tensor(path.t_range[0], dtype=torch.float64))))
    assert ratios == pytest.approx([ratios[0]] * 3, rel=1e-3)


def test_between_two_domains_the_network_is_shown_the_source():
    path, (t, x0, x1, _) = InterpolantPath(translates=True), draws()
    time, point = path.inputs(t, x1, x0)
    assert time is t
    assert torch.equal(point, torch.cat([x1, x0], 1))
    with pytest.raises(ValueError, match="begins at a source-domain sample: pass x0"):
        path.inputs(t, x1)


def test_equal_paths_have_equal_records_however_they_are_spelt():
    assert InterpolantPath().recorded() == InterpolantPath(LinearSchedule()).recorded()
