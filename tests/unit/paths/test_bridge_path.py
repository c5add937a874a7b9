import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realuid_lightning.errors import UserError
from realuid_lightning.paths import BridgePath, expand

EPS = 0.6
TIMES = torch.tensor([0.001, 0.2, 0.5, 0.9, 0.999], dtype=torch.float64)
SHAPE = (5, 3, 2, 2)
both_targets = pytest.mark.parametrize("target", ["x1", "drift"])


def draws(seed=0):
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@both_targets
def test_moments_are_those_of_a_brownian_bridge(target):
    path, (x0, x1, noise, _) = BridgePath(EPS, target), draws()
    t = expand(TIMES, x0)
    mean, std = (1 - t) * x0 + t * x1, EPS * (t * (1 - t)).sqrt()
    _, xt, found = path.sample(TIMES, x0, x1, noise)
    torch.testing.assert_close(path.mean(t, x0, x1), mean)
    torch.testing.assert_close(path.std(t), std)
    torch.testing.assert_close(xt, mean + std * noise)
    torch.testing.assert_close(found, x1 if target == "x1" else (x1 - xt) / (1 - t))
    assert float(path.std(torch.tensor(0.5))) == pytest.approx(EPS / 2)
    assert path.noisy
    assert path.translates


@given(seed=st.integers(0, 2**32 - 1))
def test_drift_and_data_targets_say_the_same(seed):
    by_x1, by_drift = BridgePath(EPS), BridgePath(EPS, "drift")
    x0, x1, noise, fresh = draws(seed)
    _, xt, drift = by_drift.sample(TIMES, x0, x1, noise)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(by_drift.denoise(TIMES, xt, drift), x1, **close)
    torch.testing.assert_close(by_drift.velocity(TIMES, xt, drift, x0), by_x1.velocity(TIMES, xt, x1, x0), **close)
    later = TIMES + 0.5 * (1 - TIMES)
    steps = [p.transition(TIMES, later, xt, c, fresh) for p, c in ((by_drift, drift), (by_x1, x1))]
    torch.testing.assert_close(*steps, **close)


def test_the_drift_is_the_slope_of_the_mean_of_the_transition():
    path, (x0, x1, noise, _) = BridgePath(EPS, "drift"), draws()
    _, xt, drift = path.sample(TIMES, x0, x1, noise)
    later = TIMES + 0.1 * (1 - TIMES)
    mean = path.transition(TIMES, later, xt, drift, torch.zeros_like(xt))  # linear in time, so any step will do
    torch.testing.assert_close((mean - xt) / expand(later - TIMES, xt), drift, rtol=1e-9, atol=1e-9)


@both_targets
@pytest.mark.parametrize("times", [(0.001, 0.3), (0.2, 0.201), (0.2, 0.9), (0.5, 0.999)])
def test_transitions_compose(target, times):
    """The law of xs given both ends is the same through xt: by what a unit of either draw does, no sampling."""
    path, (x0, x1, _, _) = BridgePath(EPS, target), draws()
    t, s = (torch.full((5,), time, dtype=torch.float64) for time in times)
    zero, one = torch.zeros_like(x0), torch.ones_like(x0)

    def through(noise, fresh):
        _, xt, prediction = path.sample(t, x0, x1, noise)
        return path.transition(t, s, xt, prediction, fresh)

    mean = through(zero, zero)
    variance = (through(one, zero) - mean) ** 2 + (through(zero, one) - mean) ** 2
    torch.testing.assert_close(mean, path.mean(expand(s, x0), x0, x1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(variance, (path.std(expand(s, x0)) ** 2).expand_as(variance), rtol=1e-9, atol=1e-12)


def test_a_transition_to_the_end_arrives_at_the_data():
    path, (xt, x1, noise, _) = BridgePath(EPS), draws()
    end = path.transition(TIMES, torch.ones_like(TIMES), xt, x1, noise)
    torch.testing.assert_close(end, x1, rtol=1e-12, atol=1e-12)


def test_velocity_is_the_time_derivative_of_the_points_of_given_ends():
    """Given x0 and x1 the flow carries xt along with its noise kept: that is the derivative of mean + std n."""
    path, (x0, x1, noise, _) = BridgePath(EPS), draws()
    step = 1e-6 * TIMES * (1 - TIMES)
    later, earlier = (path.sample(TIMES + shift, x0, x1, noise).xt for shift in (step, -step))
    slope = (later - earlier) / expand(2 * step, x0)
    xt = path.sample(TIMES, x0, x1, noise).xt
    torch.testing.assert_close(path.velocity(TIMES, xt, x1, x0), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("latent", [True, False])
def test_the_network_is_shown_what_is_asked_for(condition, latent):
    path, (xt, x0, z, _) = BridgePath(EPS, "x1", condition, latent), draws()
    blocks = [xt, *([x0] if condition else []), *([z] if latent else [])]
    time, point = path.inputs(TIMES, xt, x0, z)
    assert time is TIMES
    assert torch.equal(point, torch.cat(blocks, 1))
    assert path.conditions == len(blocks) - 1
    if latent:  # teacher and fake model are shown none
        shown = path.inputs(TIMES, xt, x0)[1]
        assert torch.equal(shown[:, :-3], point[:, :-3])
        assert not shown[:, -3:].any()


@both_targets
@pytest.mark.parametrize("latent", [True, False])
def test_the_generator_guesses_the_data_from_the_source(target, latent):
    path, (x0, z, _, _) = BridgePath(EPS, target, latent=latent), draws()
    y, seen = torch.arange(5), []

    def network(t, x, labels=None):
        seen.append((t, x, labels))
        return x[:, :3].sin()

    made = path.one_step(network, z, y, x0)
    start = (1 - 1e-5) * x0 + EPS * (1e-5 * (1 - 1e-5)) ** 0.5 * z
    ((t, x, labels),) = seen
    assert labels is y
    torch.testing.assert_close(t, torch.full((5,), 1e-5, dtype=torch.float64))
    torch.testing.assert_close(x, torch.cat([start, x0, z] if latent else [start, x0], 1))
    torch.testing.assert_close(made, start.sin() if target == "x1" else start + (1 - 1e-5) * start.sin())


def test_noised_points_are_those_of_the_path():
    path, (x0, x1, z, _) = BridgePath(EPS), draws()
    assert torch.equal(path.noised(TIMES, z, x1, x0), path.sample(TIMES, x0, x1, z).xt)


def test_what_cannot_be_is_refused():
    xt, x0, z, prediction = draws()
    with pytest.raises(ValueError, match=r"condition=True\) shows x0 to the network: pass the source-domain sample"):
        BridgePath().inputs(TIMES, xt)
    with pytest.raises(ValueError, match="begins at a source-domain sample: pass x0"):
        BridgePath(condition=False).noised(TIMES, z, xt)
    with pytest.raises(ValueError, match="begins at a source-domain sample: pass x0"):
        BridgePath(condition=False).one_step(lambda t, x, y: x, z)
    for path, source in [(BridgePath(condition=False), x0), (BridgePath(), None)]:
        with pytest.raises(
            UserError, match="the ODE needs condition: true and source samples; or choose solver Ancestral"
        ):
            path.velocity(TIMES, xt, prediction, source)
    assert torch.equal(BridgePath(condition=False).inputs(TIMES, xt)[1], xt)


@pytest.mark.parametrize("eps", [0.0, -1.0])
def test_faults_are_told(eps):
    with pytest.raises(UserError) as caught:
        BridgePath(eps)
    assert str(caught.value) == f"BridgePath: eps must be in (0, 1.5], got {eps}; more would be left at the data end"


def test_a_mistyped_target_is_told_with_all_else():
    with pytest.raises(UserError) as caught:
        BridgePath.__init__.__wrapped__(object.__new__(BridgePath), -1.0, "x0")  # its types are checked under test
    assert str(caught.value).splitlines() == [
        "BridgePath: eps must be in (0, 1.5], got -1.0; more would be left at the data end",
        "BridgePath: target must be 'x1' or 'drift', got 'x0'",
    ]
