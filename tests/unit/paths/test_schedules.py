import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realuid_lightning.errors import UserError
from realuid_lightning.paths import CosineSchedule, DDPMSchedule, LinearSchedule, VPSchedule
from realuid_lightning.recorded import rebuild

VP = VPSchedule(0.3, 7.0)
DDPM = [
    DDPMSchedule(),
    DDPMSchedule("squaredcos_cap_v2", steps=300),
    DDPMSchedule("sigmoid", zero_snr=True),
    DDPMSchedule([0.00001 * step**2 for step in range(1, 200)]),
]
SCHEDULES = [LinearSchedule(), CosineSchedule(), VPSchedule(), VP, VPSchedule(0.0, 5.0), *DDPM]
every_schedule = pytest.mark.parametrize(
    "schedule", SCHEDULES, ids=lambda s: f"{type(s).__name__}{[*vars(s).values()]}"[:60]
)


def grid(schedule, count=101):
    return torch.linspace(*schedule.t_range, count, dtype=torch.float64)


@given(st.floats(0, 1))
def test_linear(t):
    assert [float(c) for c in LinearSchedule()(torch.tensor(t, dtype=torch.float64))] == [t, 1 - t, 1, -1]


@given(st.floats(0, 1))
def test_cosine(t):
    angle = math.pi / 2 * t
    expected = [math.sin(angle), math.cos(angle), math.pi / 2 * math.cos(angle), -math.pi / 2 * math.sin(angle)]
    found = [float(c) for c in CosineSchedule()(torch.tensor(t, dtype=torch.float64))]
    assert found == pytest.approx(expected, rel=1e-13, abs=1e-15)


@given(st.floats(0, 1 - 1e-4))
def test_vp_solves_its_differential_equation(t):
    # Song et al.: d log a / ds = -beta(s) / 2 with beta(s) = beta_min + s (beta_max - beta_min), and a^2 + b^2 = 1.
    s = 1 - t
    integral = VP.beta_min * s + (VP.beta_max - VP.beta_min) * s**2 / 2
    beta = VP.beta_min + (VP.beta_max - VP.beta_min) * s
    a, b = math.exp(-integral / 2), math.sqrt(-math.expm1(-integral))
    expected = [a, b, beta / 2 * a, -(a**2) / b * beta / 2]
    found = [float(c) for c in VP(torch.tensor(t, dtype=torch.float64))]
    assert found == pytest.approx(expected, rel=1e-12)


@every_schedule
def test_derivatives_are_those_of_the_coefficients(schedule):
    t = grid(schedule)[1:-1].requires_grad_()
    a, b, da, db = schedule(t)
    torch.testing.assert_close(torch.autograd.grad(a.sum(), t, retain_graph=True)[0], da, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(b.sum(), t)[0], db, rtol=1e-9, atol=1e-12)


@every_schedule
def test_a_rises_to_the_data_and_b_falls(schedule):
    a, b, _, _ = schedule(grid(schedule))
    assert (a.diff() > 0).all()
    assert (b.diff() < 0).all()
    assert float(a[-1]) == pytest.approx(1, abs=1e-4)
    assert float(b[-1]) < 0.02
    assert float(b[0]) == pytest.approx(1, abs=0.05)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (5,), (5, 1, 1)])
def test_all_four_are_finite_and_of_the_shape_and_type_of_t(schedule, dtype, shape):
    for t in schedule.t_range:
        for coefficient in schedule(torch.full(shape, t, dtype=dtype)):
            assert coefficient.shape == shape
            assert coefficient.dtype == dtype
            assert coefficient.isfinite().all()


@pytest.mark.parametrize("schedule", [VPSchedule(), CosineSchedule(), *DDPM])
def test_variance_is_preserved(schedule):
    a, b, _, _ = schedule(grid(schedule))
    torch.testing.assert_close(a**2 + b**2, torch.ones_like(a), rtol=1e-12, atol=0)


def test_the_published_vp_leaves_less_than_a_percent_of_the_data_at_the_source():
    assert float(VPSchedule()(torch.tensor(0.0)).a) == pytest.approx(0.00657, abs=1e-5)


def test_float32_is_accurate_near_the_data_end():
    t = torch.tensor([0.5, 0.99, 0.9999], dtype=torch.float32)
    for single, double in zip(VPSchedule()(t), VPSchedule()(t.double()), strict=True):
        torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=0)


def test_faults_of_vp_are_told_together():
    with pytest.raises(UserError) as caught:
        VPSchedule(-1.0, -1.0)
    assert "beta_min must be at least 0, got -1.0" in str(caught.value)
    assert "beta_max must be greater than beta_min = -1.0, got -1.0" in str(caught.value)


def test_faults_of_ddpm_are_told_together():
    with pytest.raises(UserError) as caught:
        DDPMSchedule("cubic", 0.02, 0.01, steps=1)
    for part in (
        "betas must be one of linear, ",
        "beta_first and beta_last must be in (0, 1)",
        "steps must be at least",
    ):
        assert part in str(caught.value)
    for wrong in ([0.1], [0.1, 1.0], [0.0, 0.1], [0.1, math.nan]):
        with pytest.raises(UserError, match="two numbers in"):
            DDPMSchedule(wrong)


@pytest.mark.parametrize("schedule", DDPM)
def test_the_levels_of_ddpm_are_those_of_its_steps(schedule):
    levels = schedule.levels()
    t = 1 - torch.arange(len(levels), dtype=torch.float64) / (len(levels) - 1)
    torch.testing.assert_close(schedule.sigma(t), levels)
    torch.testing.assert_close(schedule.time(levels), t)
    between = (levels[1:] + levels[:-1]) / 2
    torch.testing.assert_close(schedule.sigma(schedule.time(between)), between)
    assert schedule.time(torch.tensor([0.0, 1e9])).tolist() == [1, 0]


@every_schedule
def test_a_record_gives_the_same_schedule(schedule):
    again = rebuild(schedule.recorded(), type(schedule))
    assert all(map(torch.equal, again(grid(schedule)), schedule(grid(schedule))))
