import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shipped_paths import PATHS

from realuid_lightning.paths import (
    AffinePath,
    BridgePath,
    CosineSchedule,
    DiffusionPath,
    FlowMatchingPath,
    InterpolantPath,
    KarrasSchedule,
    LinearSchedule,
    VPSchedule,
)
from realuid_lightning.paths import conversions as convert
from realuid_lightning.testing import check_path

MEAN, STD = 0.7, 0.4
SCHEDULES = [LinearSchedule(), CosineSchedule(), VPSchedule(), VPSchedule(0.3, 7.0), KarrasSchedule()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
TUNED = {
    "flow vp": FlowMatchingPath(VPSchedule(0.5, 30.0)),
    "diffusion": DiffusionPath(KarrasSchedule(0.01, 40.0, 3.0), 0.3, 0.0, 1.0, 10.0, 1.0),
    **{f"bridge {eps}": BridgePath(eps) for eps in (0.2, 1.0)},
    **{f"linear {noise}": InterpolantPath(translates=True, noise=noise) for noise in (0.1, 1.0)},
    **{f"cosine {noise}": InterpolantPath(CosineSchedule(), translates=True, noise=noise) for noise in (0.1, 0.2)},
}


def inner_times(schedule, count=200):
    """Times without the ends, where a or b may be 0."""
    start, end = schedule.t_range
    return start + (end - start) * torch.linspace(0.001, 0.999, count, dtype=torch.float64)


def draws(count=200, seed=0):
    return torch.randn(3, count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(c, xt):
    """Return E[x1 | xt], E[x0 | xt], the velocity and the score, for x1 ~ N(MEAN, STD^2)."""
    variance = (c.a * STD) ** 2 + c.b**2
    whitened = (xt - c.a * MEAN) / variance
    denoised, noise = MEAN + c.a * STD**2 * whitened, c.b * whitened
    return denoised, noise, c.da * denoised + c.db * noise, -whitened


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)], ids=str)
@pytest.mark.parametrize("path", [*PATHS.values(), *TUNED.values()], ids=[*PATHS, *(f"tuned {name}" for name in TUNED)])
def test_every_shipped_path_keeps_the_contract(path, shape):
    check_path(path, shape)
    shown = path.condition + path.latent if isinstance(path, BridgePath) else path.translates and path.gamma == "sqrt"
    assert path.conditions == int(shown)


class OwnFlow(FlowMatchingPath):
    def __init__(self, shift: float = 1.0) -> None:
        super().__init__(CosineSchedule(), shift=shift)


class OwnInterpolant(InterpolantPath):
    def __init__(self, noise: float = 1.0) -> None:
        super().__init__(CosineSchedule(), noise=noise)


class Any(FlowMatchingPath):
    def __init__(self, **options) -> None:
        super().__init__(**options)


@pytest.mark.parametrize(
    "path", [OwnFlow(2.0), OwnInterpolant(0.5), Any(shift=2.0)], ids=lambda each: type(each).__name__
)
def test_a_subclass_is_rebuilt_by_the_arguments_that_it_takes(path):
    check_path(path, (2,))
    assert ("schedule" in path.recorded()["init_args"]) == isinstance(path, Any)


@every_schedule
@given(seed=st.integers(0, 2**32 - 1))
def test_the_way_there_and_back_changes_nothing(schedule, seed):
    c, (xt, value, _) = schedule(inner_times(schedule)[:, None]), draws(seed=seed)
    # Rounding is that of xt, as seen in the units of what is converted into.
    there_and_back = {
        "velocity": (convert.denoised_from_velocity, convert.velocity_from_denoised),
        "noise": (convert.denoised_from_noise, convert.noise_from_denoised),
        "score": (convert.denoised_from_score, convert.score_from_denoised),
    }
    for name, (to_denoised, from_denoised) in there_and_back.items():
        denoised = to_denoised(c, xt, from_denoised(c, xt, value))
        torch.testing.assert_close(denoised, value, rtol=1e-10, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")
        # Values as large as the others of one sample may make them.
        scale = 1 + from_denoised(c, xt, value).abs()
        again = from_denoised(c, xt, to_denoised(c, xt, value * scale)) / scale
        torch.testing.assert_close(again, value, rtol=1e-10, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")


@every_schedule
def test_conversions_agree_with_the_closed_form_of_a_gaussian(schedule):
    c, z = schedule(inner_times(schedule)[:, None]), draws()[0]
    xt = c.a * MEAN + ((c.a * STD) ** 2 + c.b**2).sqrt() * z
    denoised, noise, velocity, score = gaussian(c, xt)
    for found, expected in [
        (convert.denoised_from_velocity(c, xt, velocity), denoised),
        (convert.denoised_from_noise(c, xt, noise), denoised),
        (convert.denoised_from_score(c, xt, score), denoised),
        (convert.velocity_from_denoised(c, xt, denoised), velocity),
        (convert.velocity_from_noise(c, xt, noise), velocity),
        (convert.noise_from_denoised(c, xt, denoised), noise),
        (convert.score_from_denoised(c, xt, denoised), score),
    ]:
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@every_schedule
def test_conversions_hold_for_every_single_pair_of_ends(schedule):
    c, (x0, x1, _) = schedule(inner_times(schedule)[:, None]), draws()
    xt, velocity = c.a * x1 + c.b * x0, c.da * x1 + c.db * x0
    torch.testing.assert_close(convert.denoised_from_velocity(c, xt, velocity), x1, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(convert.denoised_from_noise(c, xt, x0), x1, rtol=1e-9, atol=1e-9)
    scale = 1 + velocity.abs()
    torch.testing.assert_close(convert.velocity_from_denoised(c, xt, x1) / scale, velocity / scale, rtol=0, atol=1e-10)


@every_schedule
def test_no_weight_is_below_zero(schedule):
    c = schedule(torch.linspace(*schedule.t_range, 1001))
    assert min(c.a.min(), c.b.min()) >= 0


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_a_flow_begins_at_the_source_and_ends_at_data_to_the_last_bit(schedule):
    c = schedule(torch.tensor([0.0, 1.0]))
    assert (c.a.tolist(), c.b.tolist()) == ([0, 1], [1, 0])


@pytest.mark.parametrize("path", [*map(FlowMatchingPath, SCHEDULES[:4]), DiffusionPath(), DiffusionPath(VPSchedule())])
def test_the_score_is_the_gradient_of_the_log_density(path):
    t, z = inner_times(path.schedule), draws()[0]
    c = path.schedule(t[:, None])
    std = ((c.a * STD) ** 2 + c.b**2).sqrt()
    xt = (c.a * MEAN + std * z).requires_grad_()
    log_density = torch.distributions.Normal((c.a * MEAN).expand_as(xt), std.expand_as(xt)).log_prob(xt)
    (slope,) = torch.autograd.grad(log_density.sum(), xt)
    denoised, _, velocity, _ = gaussian(c, xt.detach())
    prediction = denoised if isinstance(path, DiffusionPath) else velocity
    torch.testing.assert_close(path.score(t, xt.detach(), prediction), slope, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", [*map(FlowMatchingPath, SCHEDULES[:4]), DiffusionPath(), DiffusionPath(VPSchedule())])
def test_a_transition_keeps_the_law_of_every_later_time(path):
    """Mean and variance of xs given x1, drawn from xt given x1, are a_s x1 and b_s^2."""
    start, end = path.t_range
    t = start + (end - start) * torch.tensor([0.0, 0.0, 0.3, 0.3, 0.8], dtype=torch.float64)
    s = start + (end - start) * torch.tensor([0.2, 0.9, 0.301, 0.7, 0.999], dtype=torch.float64)
    now, then = path.schedule(t[:, None]), path.schedule(s[:, None])

    def later(x1, x0, noise):  # of one value each, by what is drawn
        x1, x0, noise = (torch.full((5, 1), value, dtype=torch.float64) for value in (x1, x0, noise))
        xt, target = path.sample(t, x0, x1)[1:]
        return path.transition(t, s, xt, target, noise)

    mean = later(1.3, 0.0, 0.0)
    by_old, by_new = later(1.3, 1.0, 0.0) - mean, later(1.3, 0.0, 1.0) - mean
    torch.testing.assert_close(mean, then.a * 1.3, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(by_old**2 + by_new**2, then.b**2, rtol=1e-9, atol=0)
    # And xt given xs is the Markov chain of the forward process: cov(xs, xt | x1) = a_t / a_s b_s^2.
    torch.testing.assert_close(by_old * now.b, now.a / then.a * then.b**2, rtol=1e-9, atol=1e-12)


def test_the_linear_schedule_is_the_default():
    assert isinstance(FlowMatchingPath().schedule, LinearSchedule)
    assert isinstance(FlowMatchingPath(), AffinePath)
    assert isinstance(DiffusionPath(), AffinePath)
    assert FlowMatchingPath(VPSchedule()).t_range == VPSchedule.t_range


@pytest.mark.parametrize("path", [FlowMatchingPath(), FlowMatchingPath(VPSchedule()), DiffusionPath()])
def test_samplers_begin_with_the_latent_in_place_of_the_noise(path):
    t, (z, x1, x0) = torch.full((200,), path.t_range[0] + 0.1, dtype=torch.float64), draws()
    assert torch.equal(path.noised(t, z, x1), path.sample(t, z, x1).xt)
    assert torch.equal(path.noised(t, z, x1, x0), path.sample(t, x0, x1).xt)
