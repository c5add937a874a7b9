import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realuid_lightning.paths import (
    CosineSchedule,
    FlowMatchingPath,
    LinearSchedule,
    MatchingPath,
    PathSample,
    VPSchedule,
    expand,
)

SCHEDULES = [LinearSchedule(), CosineSchedule(), VPSchedule()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
SHAPE = (5, 3, 2, 2)


class ByDerivative(MatchingPath):
    """The same paths, with the target that the base class differentiates."""

    def __init__(self, schedule):
        self.schedule = schedule
        self.t_range = schedule.t_range

    def mean(self, t, x0, x1):
        a, b, _, _ = self.schedule(t)
        return a * x1 + b * x0


class Bridge(ByDerivative):
    """With noise in between: std = sqrt(t (1 - t))."""

    t_range = (0.01, 0.99)

    def __init__(self):
        self.schedule = LinearSchedule()

    def std(self, t):
        return (t * (1 - t)).sqrt()


def draws(seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    x0, x1, eps = torch.randn(3, *SHAPE, generator=rng, dtype=dtype)
    return torch.rand(SHAPE[0], generator=rng, dtype=dtype) * 0.98 + 0.01, x0, x1, eps


def test_the_linear_path_is_the_default():
    t, x0, x1, _ = draws()
    sample = FlowMatchingPath().sample(t, x0, x1)
    time = t.view(5, 1, 1, 1)
    assert isinstance(sample, PathSample)
    assert torch.equal(sample.t, t)
    torch.testing.assert_close(sample.xt, (1 - time) * x0 + time * x1)
    torch.testing.assert_close(sample.target, x1 - x0)


@every_schedule
@given(seed=st.integers(0, 2**32 - 1))
def test_the_base_class_finds_the_closed_form(schedule, seed):
    t, x0, x1, _ = draws(seed)
    closed, derived = FlowMatchingPath(schedule).sample(t, x0, x1), ByDerivative(schedule).sample(t, x0, x1)
    torch.testing.assert_close(closed.xt, derived.xt, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(closed.target, derived.target, rtol=1e-9, atol=1e-9)


@every_schedule
def test_the_base_class_finds_its_gradients_too(schedule):
    t, x0, x1, direction = draws()
    gradients = []
    for path in (FlowMatchingPath(schedule), ByDerivative(schedule)):
        inputs = [tensor.clone().requires_grad_() for tensor in (t, x0, x1)]
        sample = path.sample(*inputs)
        score = (direction * sample.xt).sum() + (direction.flip(0) * sample.target**2).sum()
        gradients.append(torch.autograd.grad(score, inputs))
    for closed, derived in zip(*gradients, strict=True):
        assert closed.abs().min() > 0
        torch.testing.assert_close(closed, derived, rtol=1e-9, atol=1e-9)


def test_noise_enters_the_sample_and_its_derivative():
    t, x0, x1, eps = draws()
    sample = Bridge().sample(t, x0, x1, eps)
    time = t.view(5, 1, 1, 1)
    std = (time * (1 - time)).sqrt()
    torch.testing.assert_close(sample.xt, (1 - time) * x0 + time * x1 + std * eps)
    torch.testing.assert_close(sample.target, x1 - x0 + (1 - 2 * time) / (2 * std) * eps)
    assert Bridge().noisy
    assert not FlowMatchingPath().noisy


def test_a_path_without_noise_does_not_look_at_it():
    t, x0, x1, eps = draws()
    assert all(map(torch.equal, FlowMatchingPath().sample(t, x0, x1, eps), FlowMatchingPath().sample(t, x0, x1)))
    derived = ByDerivative(LinearSchedule())
    assert all(map(torch.equal, derived.sample(t, x0, x1, eps), derived.sample(t, x0, x1)))


@every_schedule
@given(seed=st.integers(0, 2**32 - 1))
def test_denoise_turns_the_target_into_the_data(schedule, seed):
    t, x0, x1, _ = draws(seed)
    path = FlowMatchingPath(schedule)
    torch.testing.assert_close(path.denoise(*path.sample(t, x0, x1)), x1, rtol=1e-9, atol=1e-9)


def test_denoise_of_the_base_class_is_one_straight_step_to_the_end():
    t, x, prediction, _ = draws()
    expected = x + (0.99 - t.view(5, 1, 1, 1)) * prediction
    torch.testing.assert_close(Bridge().denoise(t, x, prediction), expected)


def test_one_step_is_the_published_generator():
    z, y = draws()[1], torch.arange(5)
    made = FlowMatchingPath().one_step(lambda t, x, y: x.sin() + expand(t + y, x), z, y)
    torch.testing.assert_close(made, z + z.sin() + y.view(5, 1, 1, 1))  # z + f(0, z, y), arXiv 2509.22459


@every_schedule
def test_one_step_denoises_at_the_start(schedule):
    path, z = FlowMatchingPath(schedule), draws()[1]
    seen = []

    def network(t, x, y=None):
        seen.append((t, y))
        return x.sin()

    made = path.one_step(network, z)
    (t, y), *rest = seen
    assert not rest
    assert y is None
    assert torch.equal(t, torch.full((5,), path.t_range[0], dtype=z.dtype))
    start = path.noised(t, z, torch.zeros_like(z))
    torch.testing.assert_close(made, path.denoise(t, start, start.sin()))


@every_schedule
def test_times_are_uniform_on_the_range(schedule):
    path = FlowMatchingPath(schedule)
    start, end = path.t_range
    torch.testing.assert_close(
        path.sample_t(torch.tensor([0.0, 0.25])), torch.tensor([start, start + (end - start) / 4])
    )
    assert path.weight(torch.rand(3)) is None


def test_velocity_is_the_prediction():
    t, x, prediction, _ = draws()
    assert FlowMatchingPath().velocity(t, x, prediction) is prediction


class Wrong(FlowMatchingPath):
    def _point(self, t, x0, x1, eps):
        xt, target = super()._point(t, x0, x1, eps)
        return xt, target.sum(1, keepdim=True)


# Under test, signatures are checked before ``sample`` sees its arguments.
unchecked = MatchingPath.sample.__wrapped__


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        (FlowMatchingPath(), {"t": torch.rand(4)}, r"t must have shape \(5,\), one time a sample, got \(4,\)"),
        (FlowMatchingPath(), {"t": torch.rand(5, 1)}, r"t must have shape \(5,\).*got \(5, 1\)"),
        (FlowMatchingPath(), {"x0": torch.randn(5, 3, 2, 1)}, r"one shape, got \(5, 3, 2, 1\) and \(5, 3, 2, 2\)"),
        (Bridge(), {"eps": None}, r"Bridge is noisy: eps must have shape \(5, 3, 2, 2\), got None"),
        (Bridge(), {"eps": torch.randn(5, 3)}, r"eps must have shape \(5, 3, 2, 2\), got \(5, 3\)"),
        (Wrong(), {}, r"Wrong: mean, std and target must give shape .* target \(5, 1, 2, 2\)"),
    ],
)
def test_what_cannot_be_is_refused(path, change, words):
    arguments = dict(zip(["t", "x0", "x1", "eps"], draws(), strict=True)) | change
    with pytest.raises(ValueError, match=words):
        unchecked(path, **arguments)


def test_expand():
    assert expand(torch.rand(5), torch.rand(5, 3, 2, 2)).shape == (5, 1, 1, 1)
    assert expand(torch.rand(5), torch.rand(5, 3)).shape == (5, 1)
