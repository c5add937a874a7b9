import pytest
import torch
from helpers import acting

from realuid_lightning.errors import UserError
from realuid_lightning.networks import MLP


def test_size_follows_width_and_depth() -> None:
    def size(**options: int) -> int:
        return sum(parameter.numel() for parameter in MLP([1, 8, 8], **options).parameters())

    assert 450_000 < size() < 600_000
    assert size(width=128) < size() < size(depth=4)


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


def test_all_faulty_arguments_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        MLP([], width=0, depth=0, num_classes=0, dropout=1.0, condition_channels=-1)
    lines = str(caught.value).splitlines()
    names = ["shape", "width", "depth", "num_classes", "dropout", "condition_channels"]
    assert [line.split()[1] for line in lines] == names


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
