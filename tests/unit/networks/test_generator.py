import pytest
import torch
from torch import nn

from realuid_lightning.errors import UserError
from realuid_lightning.networks import Generator
from realuid_lightning.paths import (
    BridgePath,
    DiffusionPath,
    EncoderDecoderSchedule,
    FlowMatchingPath,
    InterpolantPath,
    MatchingPath,
    VPSchedule,
)

SHAPE = (2, 3)
PATHS = {
    "flow": FlowMatchingPath(),
    "vp": FlowMatchingPath(VPSchedule()),
    "edm": DiffusionPath(),
    "bridge": BridgePath(0.5),
    "bridge with latent": BridgePath(0.5, "drift", latent=True),
    "interpolant": InterpolantPath(),
    "encoder-decoder": InterpolantPath(EncoderDecoderSchedule(), "sin2"),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
few_steps = pytest.mark.parametrize("steps", [2, 4])


class Net(nn.Module):
    """Any network: every output depends on time, label and all input blocks of its own sample."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(blocks, 3, 3, generator=torch.Generator().manual_seed(0)).double())
        self.calls: list[tuple[torch.Tensor, torch.Tensor, bool]] = []

    def forward(self, t, x, y=None):
        self.calls.append((t, x, torch.is_grad_enabled()))
        shift = t if y is None else t + 0.1 * y
        mixed = sum(block @ weight for block, weight in zip(x.split(SHAPE[0], 1), self.weight, strict=True))
        return (mixed + shift[:, None, None]).sin()


def generator(path, steps):
    return Generator(Net(1 + path.conditions), path, steps)


def draws(path, count, steps, seed=0):
    rng = torch.Generator().manual_seed(seed)
    z, x0 = torch.randn(2, count, *SHAPE, generator=rng, dtype=torch.float64)
    renoise = torch.randn(count, steps - 1, *SHAPE, generator=rng, dtype=torch.float64)
    return z, torch.arange(count), x0 if path.translates else None, renoise


def chain(path, network, steps, z, y, x0, renoise, detached=False):
    """Guesses of x1 by every step, one after another."""
    guesses, x1 = [], torch.zeros_like(z)
    for k, level in enumerate(path.levels(steps)):
        t = torch.full((len(z),), level, dtype=z.dtype)
        noise = z if k == 0 else renoise[:, k - 1]
        x1 = path.guess(network, t, path.noised(t, noise, x1.detach() if detached else x1, x0), y, x0, noise)
        guesses.append(x1)
    return guesses


def parts(count, steps):
    """Which step each row of a batch rolls_out."""
    return [row * steps // count for row in range(count)]


@every_path
def test_one_step_is_that_of_the_path(path):
    made, (z, y, x0, _) = generator(path, 1), draws(path, 5, 1)
    expected = path.one_step(made.network, z, y, x0)
    assert torch.equal(made(z, y, x0), expected)
    assert torch.equal(made.rollout(z, y, x0), expected)
    assert len(made.network.calls) == 3
    assert Generator(made.network, path).steps == 1


@every_path
@few_steps
def test_a_few_steps_are_a_chain_of_guesses_noised_anew(path, steps):
    made, arguments = generator(path, steps), draws(path, 5, steps)
    expected = chain(path, made.network, steps, *arguments)[-1]
    made.network.calls.clear()
    torch.testing.assert_close(made(*arguments), expected, rtol=1e-12, atol=1e-12)
    assert len(made.network.calls) == steps
    assert not torch.allclose(made(arguments[0], *arguments[1:3], arguments[3] + 1), expected)


def test_two_steps_of_flow_matching_by_hand():
    made = generator(FlowMatchingPath(), 2)
    z, y, _, renoise = draws(made.path, 3, 2)
    first = z + made.network(torch.zeros(3).double(), z, y)
    half = torch.full((3,), 0.5).double()
    xt = 0.5 * first + 0.5 * renoise[:, 0]
    torch.testing.assert_close(made(z, y, None, renoise), xt + 0.5 * made.network(half, xt, y))


@every_path
@few_steps
@pytest.mark.parametrize("count", [4, 8, 5, 7, 10])
def test_every_part_of_a_batch_rolls_out_a_step_of_sampling(path, steps, count):
    made, arguments = generator(path, steps), draws(path, count, steps)
    guesses = torch.stack(chain(path, made.network, steps, *arguments), 1)
    rows = parts(count, steps)
    assert sorted(set(rows)) == list(range(steps))
    assert max(map(rows.count, rows)) - min(map(rows.count, rows)) <= 1
    expected = guesses[range(count), rows]
    torch.testing.assert_close(made.rollout(*arguments), expected, rtol=1e-12, atol=1e-12)


@few_steps
@pytest.mark.parametrize("count", [4, 5, 7, 10])
def test_no_row_is_called_before_its_own_step_without_need(steps, count):
    made = generator(PATHS["edm"], steps)
    arguments, rows = draws(made.path, count, steps), parts(count, steps)
    made.rollout(*arguments)
    later = [sum(row > k for row in rows) for k in range(steps - 1)]
    assert [len(x) for _, x, _ in made.network.calls] == [*later, count]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_batch_smaller_than_the_steps_rolls_out_the_first_ones(count):
    made = generator(FlowMatchingPath(), 4)
    arguments = draws(made.path, count, 4)
    guesses = torch.stack(chain(made.path, made.network, 4, *arguments), 1)
    torch.testing.assert_close(made.rollout(*arguments), guesses[range(count), parts(count, 4)])


@every_path
@few_steps
def test_practice_has_a_gradient_through_the_last_call_alone(path, steps):
    made, arguments = generator(path, steps), draws(path, 7, steps)
    direction = torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight, rows = made.network.weight, parts(7, steps)
    made.network.calls.clear()
    (found,) = torch.autograd.grad((direction * made.rollout(*arguments)).sum(), weight)
    assert [graph for _, _, graph in made.network.calls] == [False] * (steps - 1) + [True]
    guesses = torch.stack(chain(path, made.network, steps, *arguments, detached=True), 1)
    (expected,) = torch.autograd.grad((direction * guesses[range(7), rows]).sum(), weight)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    through_all = torch.stack(chain(path, made.network, steps, *arguments), 1)
    (other,) = torch.autograd.grad((direction * through_all[range(7), rows]).sum(), weight)
    assert not torch.allclose(found, other)


@every_path
@pytest.mark.parametrize("steps", [1, 3])
def test_practice_is_a_call_of_the_module(path, steps):
    """So distributed training, which follows calls, sees it."""
    made, arguments = generator(path, steps), draws(path, 6, steps)
    outputs = []
    made.register_forward_hook(lambda _, args, output: outputs.append(output))
    rolled = made.rollout(*arguments)
    assert [output is rolled for output in outputs] == [True]
    assert torch.equal(made(*arguments, rollout=True), rolled)
    assert torch.equal(made(*arguments), rolled) == (steps == 1)
    made.eval()
    assert torch.equal(made.rollout(*arguments), rolled)  # whatever the mode


@every_path
def test_practice_leaves_its_arguments_as_they_are(path):
    made, arguments = generator(path, 3), draws(path, 6, 3)
    before = [None if argument is None else argument.clone() for argument in arguments]
    made.rollout(*arguments)
    assert all(now is None or torch.equal(now, then) for now, then in zip(arguments, before, strict=True))


@every_path
def test_noise_that_is_not_given_is_drawn(path):
    made, (z, y, x0, _) = generator(path, 3), draws(path, 5, 3)
    torch.manual_seed(3)
    renoise = torch.randn(5, 2, *SHAPE, dtype=torch.float64)
    torch.manual_seed(3)
    assert torch.equal(made(z, y, x0), made(z, y, x0, renoise))
    assert not torch.allclose(made(z, y, x0), made(z, y, x0, renoise))


def test_a_single_step_draws_nothing():
    made, (z, y, _, _) = generator(FlowMatchingPath(), 1), draws(FlowMatchingPath(), 5, 1)
    state = torch.get_rng_state()
    made(z, y)
    assert torch.equal(torch.get_rng_state(), state)


def test_labels_may_be_absent_and_types_are_kept():
    made = generator(BridgePath(latent=True), 2).float()
    z, _, x0, renoise = (None if field is None else field.float() for field in draws(made.path, 5, 2))
    for sample in (made(z, None, x0, renoise), made.rollout(z, None, x0, renoise)):
        assert sample.dtype == torch.float32
        assert sample.shape == z.shape
        assert sample.requires_grad


def test_the_chain_calls_at_the_levels_of_the_path_with_the_latent_of_the_step():
    path = BridgePath(0.5, latent=True)
    made, (z, y, x0, renoise) = generator(path, 3), draws(path, 5, 3)
    made(z, y, x0, renoise)
    for (t, x, _), level, noise in zip(
        made.network.calls, path.levels(3), [z, renoise[:, 0], renoise[:, 1]], strict=True
    ):
        torch.testing.assert_close(t, torch.full((5,), level, dtype=torch.float64))
        assert torch.equal(x[:, 2:], torch.cat([x0, noise], 1))


@pytest.mark.parametrize("steps", [0, -1])
def test_less_than_a_step_is_refused(steps):
    with pytest.raises(UserError, match=f"Generator: steps must be at least 1, got {steps}"):
        Generator(nn.Identity(), FlowMatchingPath(), steps)


def test_the_path_is_no_part_of_the_weights():
    made = generator(FlowMatchingPath(), 2)
    assert isinstance(made.path, MatchingPath)
    assert list(made.state_dict()) == ["network.weight"]
