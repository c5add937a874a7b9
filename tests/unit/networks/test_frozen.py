import pytest
import torch
from torch import nn

from realuid_lightning.networks import MLP, Frozen, frozen_weights


class Trainer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = Frozen(MLP([2], width=8, depth=1, dropout=0.5))


def test_nothing_brings_a_frozen_network_back_to_training() -> None:
    module = Trainer().train()
    assert module.training
    assert not any(part.training for part in module.teacher.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert module.teacher.train(True) is module.teacher
    assert not module.teacher.network.training


def test_frozen_delegates_and_passes_gradients_to_inputs() -> None:
    network = MLP([2], width=8, depth=1)
    nn.init.ones_(network.out[-1].weight)
    t, x = torch.rand(3), torch.randn(3, 2, requires_grad=True)
    frozen = Frozen(network)
    output = frozen(t, x=x)
    assert torch.equal(output, network(t, x))
    output.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_frozen_weights_restores_the_exact_state() -> None:
    network = MLP([2], width=8, depth=1)
    nn.init.ones_(network.out[-1].weight)
    network.input.bias.requires_grad_(False)
    before = [parameter.requires_grad for parameter in network.parameters()]
    x = torch.randn(3, 2, requires_grad=True)
    with frozen_weights(network):
        assert not any(parameter.requires_grad for parameter in network.parameters())
        network(torch.rand(3), x).sum().backward()
    assert [parameter.requires_grad for parameter in network.parameters()] == before
    assert all(parameter.grad is None for parameter in network.parameters())
    assert x.grad is not None
    with pytest.raises(RuntimeError, match="stop"), frozen_weights(network):
        raise RuntimeError("stop")
    assert [parameter.requires_grad for parameter in network.parameters()] == before
