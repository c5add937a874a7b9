import math

import pytest
import torch

from realuid_lightning.errors import UserError
from realuid_lightning.losses.realuid import generator_loss
from realuid_lightning.paths import (
    CosineSchedule,
    DiffusionPath,
    EncoderDecoderSchedule,
    FlowMatchingPath,
    KarrasSchedule,
    LinearSchedule,
    Schedule,
    VPSchedule,
    expand,
)
from realuid_lightning.paths.conversions import velocity_from_denoised

PATHS = {
    "edm": DiffusionPath(),
    "vp": DiffusionPath(VPSchedule()),
    "other": DiffusionPath(KarrasSchedule(0.01, 40.0, 3.0), 0.3, -0.4, 1.0, 10.0, 0.5),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
SIGMAS = torch.tensor([0.02, 0.1, 0.5, 1.0, 2.5, 10.0, 39.0], dtype=torch.float64)


def draws(seed=0):
    return torch.randn(3, len(SIGMAS), 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(path):
    """Times of SIGMAS, and the coefficients there."""
    t = path.schedule.time(SIGMAS)
    return t, path.schedule(t[:, None, None])


# ------------------------------------------------------------------------------------------------- preconditioning


@every_path
def test_preconditioning_is_that_of_edm(path):
    # EDM, table 1: D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) with x = xt / a.
    sigma, data = SIGMAS[:, None, None], path.sigma_data
    c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / (data**2 + sigma**2).sqrt()
    c_in, c_noise = 1 / (sigma**2 + data**2).sqrt(), SIGMAS.log() / 4
    (t, c), (x, raw, _) = at(path), draws()
    seen = []

    def network(time, point, y=None):
        seen.append((time, point, y))
        return raw

    y = torch.arange(len(t))
    found = path.predict(network, t, c.a * x, y)
    ((time, point, labels),) = seen
    torch.testing.assert_close(time, c_noise, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(point, c_in * x, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found, c_skip * x + c_out * raw, rtol=1e-9, atol=1e-12)
    assert labels is y
    assert torch.equal(path.denoise(t, x, found), found)


def test_the_published_numbers_at_the_deviation_of_the_data():
    path = DiffusionPath()
    t, x = path.schedule.time(torch.tensor([0.5], dtype=torch.float64)), torch.ones(1, 1, dtype=torch.float64)
    time, point = path.inputs(t, x)
    assert float(time) == pytest.approx(math.log(0.5) / 4)
    assert float(point) == pytest.approx(math.sqrt(2))
    assert float(path.output(t, x, 0 * x)) == pytest.approx(0.5)  # c_skip
    assert float(path.output(t, 0 * x, x)) == pytest.approx(0.5 / math.sqrt(2))  # c_out
    assert float(path.weight(t)) == pytest.approx(8)
    assert (path.schedule.sigma_min, path.schedule.sigma_max, path.schedule.rho) == (0.002, 80.0, 7.0)
    assert (path.sigma_min, path.sigma_max) == pytest.approx((0.002, 80.0))


@every_path
def test_input_and_target_of_the_network_have_unit_variance(path):
    """For data of the deviation sigma_data; by what a unit of either draw does, no sampling."""
    t, _ = at(path)
    one, nothing = torch.ones(len(t), 1, 1, dtype=torch.float64), torch.zeros(len(t), 1, 1, dtype=torch.float64)
    c_out = path.output(t, nothing, one)
    point, target = torch.zeros_like(one), torch.zeros_like(one)
    for x0, x1 in [(one, nothing), (nothing, path.sigma_data * one)]:
        _, xt, clean = path.sample(t, x0, x1)
        assert torch.equal(clean, x1)
        point += path.inputs(t, xt)[1] ** 2
        target += ((clean - path.output(t, xt, nothing)) / c_out) ** 2
    torch.testing.assert_close(point, one, rtol=1e-9, atol=0)
    torch.testing.assert_close(target, one, rtol=1e-8, atol=0)
    # So EDM's weight makes the loss of the bare network plain: w c_out^2 = 1.
    torch.testing.assert_close(expand(path.weight(t), one) * c_out**2, one, rtol=1e-9, atol=0)


@every_path
def test_velocity_is_that_of_the_probability_flow(path):
    # EDM, eq. 4 for s = a, sigma = b / a: dx/dt = a'/a x + sigma' (x / a - D) a / sigma.
    (t, c), (x, denoised, _) = at(path), draws()
    sigma, slope = SIGMAS[:, None, None], (c.db * c.a - c.b * c.da) / c.a**2
    expected = c.da / c.a * x + c.a * slope * (x / c.a - denoised) / sigma
    torch.testing.assert_close(path.velocity(t, x, denoised), expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize("count", [2, 10, 18, 40])
def test_equal_steps_of_time_are_the_steps_of_edm(count):
    i = torch.arange(count, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / (count - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # eq. 5
    found = DiffusionPath().sigma(torch.linspace(0, 1, count, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@every_path
@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_the_schedule_tells_the_time_of_a_noise_level(path, dtype, accuracy):
    t = torch.linspace(*path.t_range, 1001, dtype=torch.float64)
    sigma = path.sigma(t)
    found = path.schedule.time(sigma.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), t, rtol=0, atol=accuracy)
    again = path.sigma(path.schedule.time(SIGMAS.to(dtype)))
    torch.testing.assert_close(again.double(), SIGMAS, rtol=100 * accuracy, atol=0)
    column = path.schedule.time(SIGMAS[:, None])
    assert column.shape == (len(SIGMAS), 1)


def test_vp_tells_the_time_where_its_noise_begins_at_rate_zero():
    schedule = VPSchedule(0.0, 5.0)
    t = torch.linspace(*schedule.t_range, 101, dtype=torch.float64)
    _, b, _, _ = schedule(t)
    torch.testing.assert_close(schedule.time(b / schedule(t).a), t, rtol=0, atol=1e-12)


@every_path
def test_training_draws_log_normal_noise_levels(path):
    u = torch.tensor([0.0228, 0.1587, 0.3, 0.5, 0.7, 0.8413, 0.9772], dtype=torch.float64)
    z = math.sqrt(2) * torch.erfinv(2 * u - 1)
    expected = path.log_sigma_mean + path.log_sigma_std * z
    torch.testing.assert_close(path.sigma(path.sample_t(u)).log(), expected, rtol=0, atol=1e-8)


def test_training_draws_those_of_edm_by_default():
    u = torch.tensor([0.15865525393145707, 0.5, 0.8413447460685429], dtype=torch.float64)
    found = DiffusionPath().sigma(DiffusionPath().sample_t(u)).log()
    assert found.tolist() == pytest.approx([-2.4, -1.2, 0.0], abs=1e-8)


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rarest_draws_are_cut_at_the_ends(path, dtype):
    t = path.sample_t(torch.tensor([0.0, 1 - 2**-24], dtype=dtype))
    assert t.tolist() == sorted(t.tolist(), reverse=True)
    assert t[0] == torch.tensor(path.t_range[1], dtype=dtype)
    assert t[1] >= path.t_range[0]
    assert path.sigma(t).isfinite().all()
    assert float(path.sigma(t)[1]) <= path.sigma_max * (1 + 1e-5)


def test_the_generator_draws_the_levels_of_sid():
    path, u = DiffusionPath(), torch.linspace(0, 1, 101, dtype=torch.float64)
    part = 0.8 * u
    expected = ((1 - part) * 0.002 ** (1 / 7) + part * 80 ** (1 / 7)) ** 7
    torch.testing.assert_close(path.sigma(path.generator_t(u)), expected, rtol=1e-9, atol=0)
    # On EDM's own schedule that is uniform in time.
    torch.testing.assert_close(path.generator_t(u), 1 - part, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("path", "share"), [(PATHS["vp"], 0.8), (PATHS["other"], 0.5)])
def test_the_generator_draws_its_share_of_the_levels_of_any_schedule(path, share):
    u = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    low, high = path.sigma_min ** (1 / 7), path.sigma_max ** (1 / 7)
    found = path.sigma(path.generator_t(u)) ** (1 / 7)
    torch.testing.assert_close(found, low + share * u * (high - low), rtol=1e-9, atol=0)


@pytest.mark.parametrize("path", [PATHS["edm"], PATHS["vp"]], ids=["edm", "vp"])
def test_weights_are_those_of_edm(path):
    t = at(path)[0]
    torch.testing.assert_close(path.weight(t), (SIGMAS**2 + 0.25) / (0.5 * SIGMAS) ** 2, rtol=1e-9, atol=0)
    assert path.weight(t).shape == t.shape


# ------------------------------------------------------------------------------------------------- generators


@pytest.mark.parametrize("path", [PATHS["edm"], PATHS["vp"]], ids=["edm", "vp"])
def test_one_step_is_the_generator_of_sid(path):
    z, y, seen = draws()[0], torch.arange(len(SIGMAS)), []

    def network(t, x, labels=None):
        seen.append((t, labels))
        return x.sin() + expand(t + y, x)

    made = path.one_step(network, z, y)
    total = 2.5**2 + 0.25
    raw = (2.5 * z / math.sqrt(total)).sin() + math.log(2.5) / 4 + y[:, None, None]
    expected = 0.25 / total * 2.5 * z + 2.5 * 0.5 / math.sqrt(total) * raw  # D(2.5 z; 2.5)
    torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-9)
    ((t, labels),) = seen
    torch.testing.assert_close(t, torch.full_like(SIGMAS, math.log(2.5) / 4))
    assert labels is y


@every_path
def test_levels_begin_at_that_of_the_generator(path):
    assert path.levels(1) == [path.generator_start]
    assert float(path.sigma(torch.tensor(path.generator_start, dtype=torch.float64))) == pytest.approx(
        path.generator_sigma
    )
    levels = torch.tensor([*path.levels(4), path.t_range[1]], dtype=torch.float64)
    torch.testing.assert_close(levels.diff(), levels.diff().mean().expand(4))


def test_the_change_of_variables_between_flow_and_diffusion_leaves_the_generators_gradient():
    """VP flow and VP diffusion, with networks that say the same: f_flow = k D + (b'/b) xt, so the weight is k^2."""
    schedule, (z, x0, _) = VPSchedule(), draws()
    flow, diffusion = FlowMatchingPath(schedule), DiffusionPath(schedule)
    t = torch.linspace(0.05, 0.95, len(z), dtype=torch.float64)
    weights = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def denoisers(xt):
        return [diffusion.predict(lambda time, x, y, w=w: (x @ w + expand(time, x)).sin(), t, xt) for w in weights[:2]]

    def gradient(path, predictions, weight):
        w = weights[2].clone().requires_grad_()
        _, xt, target = path.sample(t, x0, (z @ w).tanh())
        loss = generator_loss(*predictions(xt), target, alpha=0.9, beta=0.9, weight=weight)
        return torch.autograd.grad(loss, w)[0]

    def velocities(xt):
        return [velocity_from_denoised(schedule(expand(t, xt)), xt, denoised) for denoised in denoisers(xt)]

    c = schedule(t)
    k = c.da - c.a * c.db / c.b
    by_flow = gradient(flow, velocities, None)
    by_diffusion = gradient(diffusion, denoisers, k**2)
    assert by_flow.abs().min() > 1e-3
    torch.testing.assert_close(by_flow, by_diffusion, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_a_schedule_that_begins_without_data_is_refused(schedule):
    words = f"{type(schedule).__name__} begins at infinite noise over data: choose KarrasSchedule, VPSchedule, or Flow"
    with pytest.raises(UserError, match=words):
        DiffusionPath(schedule)


class Untold(VPSchedule):
    """Does not invert its noise level."""

    time = Schedule.time


def test_a_schedule_that_cannot_tell_the_time_is_refused():
    with pytest.raises(UserError, match="Untold gives no time of a noise level, which DiffusionPath and laws of noise"):
        DiffusionPath(Untold())


@pytest.mark.parametrize("path", [DiffusionPath, FlowMatchingPath])
def test_a_schedule_through_pure_noise_is_refused_where_none_is_added(path):
    with pytest.raises(UserError, match="EncoderDecoderSchedule needs added noise at half time: use it with Interp"):
        path(EncoderDecoderSchedule())


def test_faults_are_told_together():
    with pytest.raises(UserError) as caught:
        DiffusionPath(None, -0.5, 0.0, 0.0, 80.1, 1.1)
    assert str(caught.value).splitlines() == [
        "DiffusionPath: sigma_data must be above 0, got -0.5",
        "DiffusionPath: log_sigma_std must be above 0, got 0.0",
        "DiffusionPath: generator_sigma must be a noise level of the schedule, 0.002 to 80, got 80.1",
        "DiffusionPath: generator_share must be in (0, 1], got 1.1",
    ]


def test_faults_of_the_schedule_are_told_together():
    with pytest.raises(UserError) as caught:
        KarrasSchedule(-1.0, -2.0, 0.5)
    assert str(caught.value).splitlines() == [
        "KarrasSchedule: sigma_min must be above 0, got -1.0",
        "KarrasSchedule: sigma_max must be greater than sigma_min = -1.0, got -2.0",
        "KarrasSchedule: rho must be at least 1, got 0.5",
    ]


@pytest.mark.parametrize(("sigma", "sound"), [(0.002, False), (0.0021, True), (80.0, True), (81.0, False)])
def test_the_generators_level_is_one_of_the_schedule(sigma, sound):
    if sound:
        assert 0 <= DiffusionPath(generator_sigma=sigma).generator_start < 1
    else:
        with pytest.raises(UserError, match="generator_sigma must be a noise level of the schedule"):
            DiffusionPath(generator_sigma=sigma)


@pytest.mark.parametrize(("greatest", "rho"), [(80.0, 7.0), (40.0, 3.0), (10.0, 7.0), (3.7, 5.0), (55.5, 3.0)])
def test_the_greatest_level_of_a_schedule_is_one_of_its_own(greatest, rho):
    path = DiffusionPath(KarrasSchedule(0.01, greatest, rho), generator_sigma=greatest)
    assert path.generator_start == pytest.approx(0, abs=1e-12)
