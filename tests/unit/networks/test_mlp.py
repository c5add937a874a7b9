import copy

import pytest
import torch
from helpers import acting

from realuid_lightning.errors import UserError
from realuid_lightning.networks import MLP
from realuid_lightning.recorded import rebuild


@pytest.mark.parametrize("shape", [[2], [1, 8, 8]])
def test_output_has_the_shape_of_x_and_starts_at_zero(shape: list[int]) -> None:
    network, x = MLP(shape, width=16), torch.randn(5, *shape)
    output = network(torch.rand(5), x)
    assert network.shape == tuple(shape)
    assert output.shape == x.shape
    assert not output.any()


def test_time_labels_and_dropout_act() -> None:
    torch.manual_seed(0)
    network = acting(MLP([3], width=32, num_classes=4, dropout=0.5)).eval()
    t, x, y = torch.full((6,), 0.3), torch.randn(6, 3), torch.zeros(6, dtype=torch.long)
    base = network(t, x, y)
    assert torch.equal(network(t, x, y), base)
    assert not torch.allclose(network(t + 0.1, x, y), base)
    assert not torch.allclose(network(t, x, y + 1), base)
    assert not torch.allclose(network.train()(t, x, y), base)


def test_size_follows_width_and_depth() -> None:
    def size(**options: int) -> int:
        return sum(parameter.numel() for parameter in MLP([1, 8, 8], **options).parameters())

    assert 450_000 < size() < 600_000
    assert size(width=128) < size() < size(depth=4)


def test_float64_agrees_with_float32() -> None:
    torch.manual_seed(0)
    network = acting(MLP([3], width=32))
    t, x = torch.rand(6), torch.randn(6, 3)
    double = copy.deepcopy(network).double()(t.double(), x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(network(t, x).double(), double, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(t, x).dtype == torch.float32


@pytest.mark.parametrize(("depth", "lower"), [(1, 1), (2, 1), (3, 2)])
def test_encode_and_decode_make_up_forward(depth: int, lower: int) -> None:
    torch.manual_seed(0)
    network = acting(MLP([1, 2, 2], width=16, depth=depth, num_classes=3))
    t, x, y = torch.rand(4), torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])
    used: list[int] = []
    for index, block in enumerate(network.blocks):
        block.register_forward_hook(lambda *_, index=index: used.append(index))
    encoding = network.encode(t, x, y)
    assert used == list(range(lower))
    assert encoding.middle.shape == (4, network.middle_channels) == (4, *network.middle_shape)
    assert not torch.allclose(encoding.middle, network.encode(t + 0.1, x, y).middle)
    used.clear()
    assert torch.equal(network.decode(encoding), network(t, x, y))
    assert used == [*range(lower, depth), *range(depth)]  # decode, then forward
    assert torch.equal(encoding.rows(slice(1, 3)).embedding, encoding.embedding[1:3])


@pytest.mark.parametrize(("shape", "taken"), [([2], (5,)), ([1, 4, 4], (4, 4, 4))])
def test_conditions_are_further_channels(shape: list[int], taken: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = acting(MLP(shape, width=16, condition_channels=3))
    t, x = torch.rand(4), torch.randn(4, *taken)
    output = network(t, x)
    assert output.shape == (4, *shape) == (4, *network.shape)
    assert network.condition_channels == 3
    other = x.clone()
    other[:, shape[0] :] += 1
    assert not torch.allclose(network(t, other), output)
    with pytest.raises(UserError, match=rf"{shape[0]} of the sample, then 3 of the condition\), got"):
        network(t, x[:, :1])


def test_no_condition_changes_nothing() -> None:
    def states(**options: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return MLP([2, 3], width=16, **options).state_dict() | {"next": torch.rand(1)}

    plain, conditioned = states(), states(condition_channels=1)
    assert all(torch.equal(value, plain[name]) for name, value in states(condition_channels=0).items())
    assert conditioned.keys() == plain.keys()
    assert conditioned["input.weight"].shape == (16, 9)


def test_record_rebuilds_the_same_architecture() -> None:
    network = MLP((1, 8, 8), width=16, depth=2, num_classes=3, dropout=0.1, condition_channels=2)
    twin = rebuild(network.recorded(), MLP)
    twin.load_state_dict(network.state_dict())
    assert twin.recorded() == network.recorded()
    assert twin.shape == network.shape


def test_all_faulty_arguments_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        MLP([], width=0, depth=0, num_classes=0, dropout=1.0, condition_channels=-1)
    lines = str(caught.value).splitlines()
    names = ["shape", "width", "depth", "num_classes", "dropout", "condition_channels"]
    assert [line.split()[1] for line in lines] == names


def test_inputs_that_do_not_fit_are_refused() -> None:
    plain, classes = MLP([2], width=8), MLP([2], width=8, num_classes=3)
    t, x, y = torch.rand(4), torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    with pytest.raises(UserError, match=r"x must have shape \(batch, 2\), got \(4, 3\)"):
        plain(t, torch.randn(4, 3))
    with pytest.raises(UserError, match=r"t must have shape \(4,\), one time a sample, got \(1,\)"):
        plain(t[:1], x)
    with pytest.raises(UserError, match="y must be None"):
        plain(t, x, y)
    with pytest.raises(UserError, match="the network has 3 classes"):
        classes(t, x)
    with pytest.raises(UserError, match=r"y must have shape \(4,\)"):
        classes(t, x, y[:2])


def test_learns_a_line() -> None:
    torch.manual_seed(0)
    network = MLP([2], width=32, depth=2)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(100):
        t, x = torch.rand(64), torch.randn(64, 2)
        loss = (network(t, x) - (x * t[:, None] - 1)).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5  # 3.3 at the start
