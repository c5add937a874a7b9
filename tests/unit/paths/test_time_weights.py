"""Weights of times."""

import pytest
import torch
from shipped_paths import every_schedule

from realuid_lightning.errors import UserError
from realuid_lightning.paths import DiffusionPath, FlowMatchingPath, NoiseWeight, TimeWeight
from realuid_lightning.recorded import rebuild
from realuid_lightning.testing import LAST_U, check_path


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_on_the_linear_schedule_it_is_a_power_of_the_noise(power):
    path, t = FlowMatchingPath(weighting=NoiseWeight(power)), torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(path.weight(t), (1 - t) ** power, rtol=1e-12, atol=0)


@every_schedule
def test_at_power_two_gaps_are_those_of_guesses(schedule):
    path = FlowMatchingPath(schedule, weighting=NoiseWeight(2.0))
    check_path(path)
    rng = torch.Generator().manual_seed(0)
    one, other, xt = torch.randn(3, 9, 4, generator=rng, dtype=torch.float64)
    t = path.sample_t(torch.linspace(0.01, 0.99, 9, dtype=torch.float64))
    guesses = path.denoise(t, xt, one) - path.denoise(t, xt, other)
    found = path.weight(t) * (one - other).square().sum(1)
    torch.testing.assert_close(found, guesses.square().sum(1), rtol=1e-9, atol=1e-12)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_finite_and_shaped_as_times(schedule, dtype):
    path = FlowMatchingPath(schedule, weighting=NoiseWeight())
    t = path.sample_t(torch.tensor([0.0, 2**-24, 0.5, LAST_U], dtype=dtype))
    weight = path.weight(t)
    assert weight.shape == t.shape
    assert weight.dtype == dtype
    assert weight.isfinite().all()
    assert (weight > 0).all()


@every_schedule
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_weights_are_at_least_zero_at_the_very_end(schedule, power):
    end = torch.tensor([schedule.t_range[1]])
    assert NoiseWeight(power)(end, schedule) >= 0


def test_a_record_holds_a_weight_only_where_there_is_one():
    path = FlowMatchingPath(weighting=NoiseWeight(0.5))
    assert rebuild(path.recorded(), FlowMatchingPath).weighting.power == 0.5
    assert "weighting" not in FlowMatchingPath().recorded()["init_args"]
    assert "weighting" in FlowMatchingPath.tuning
    assert DiffusionPath().weight(torch.tensor([0.5])) is not None


@pytest.mark.parametrize("power", [0.0, -1.0, float("nan"), float("inf")])
def test_a_power_that_is_none_is_refused(power):
    with pytest.raises(UserError, match="power must be"):
        NoiseWeight(power)


def own(weights):
    class Own(TimeWeight):
        def __call__(self, t, schedule):
            return weights(t)

    return Own()


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (lambda t: (2 - t)[:, None], r"shape \(99,\) must be a tensor like them, got shape \(99, 1\)"),
        (lambda t: t.new_tensor(2.0), r"got shape \(\)"),
        (lambda t: 2.0, "got 2.0"),
        (lambda t: None, "got None"),
        (lambda t: 0.5 - t, "above 0 within t_range, got -0.49 to 0.49"),
        (lambda t: 0 * t, "above 0 within t_range, got 0 to 0"),
        (lambda t: (t > 0.8).to(t.dtype), "got 0 to 1"),
        (lambda t: t / 0, "finite.* got inf to inf"),
        (lambda t: 0 * t / 0, "got nan to nan"),
    ],
)
def test_weights_that_would_train_something_else_are_refused(weights, told):
    with pytest.raises(UserError, match=f"Own: .*{told}"):
        FlowMatchingPath(weighting=own(weights))
