"""A frozen convolution gives what any other gives, and keeps less."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from realuid_lightning.networks import UNet, frozen_weights
from realuid_lightning.networks.convolution import Convolution

OPTIONS = [
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"bias": False},
    {"dilation": 2, "groups": 4},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": "same"},
]


def pair(**options):
    """Both kinds, with the same weights, frozen."""
    torch.manual_seed(0)
    ours, theirs = (kind(32, 64, 3, **options) for kind in (Convolution, nn.Conv2d))
    ours.load_state_dict(theirs.state_dict())
    return ours.requires_grad_(False), theirs.requires_grad_(False)


def kept(network, *inputs):
    """Bytes that a call keeps for its backward pass, beside weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    found = {}

    def note(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = network(*inputs)
    del output
    return sum(size for pointer, size in found.items() if pointer not in weights)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels_last"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_and_gradients_are_those_of_torch(options, layout, half):
    x = torch.randn(2, 32, 8, 8).to(memory_format=layout)
    found = []
    for convolution in pair(**options):
        end = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            output = convolution.to(memory_format=layout)(end)
        output.float().square().sum().backward()
        found.append((output.detach(), end.grad))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_it_works_without_memory():
    ours, _ = pair()
    ours.to("meta")(torch.ones(1, 32, 4, 4, device="meta", requires_grad=True)).sum().backward()


def test_second_derivatives_are_those_of_torch():
    found = []
    for convolution in pair(padding=1):
        end = torch.ones(1, 32, 4, 4, requires_grad=True)
        (grad,) = torch.autograd.grad(convolution(end).pow(3).sum(), end, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), end)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=0)


def test_nothing_is_kept_of_the_input_but_where_weights_train():
    ours, theirs = pair()
    x = torch.randn(2, 32, 8, 8, requires_grad=True) * 1
    assert kept(ours, x) == 0
    assert kept(theirs, x) == x.nbytes
    ours.requires_grad_(True)
    assert kept(ours, x) == x.nbytes
    ours(x).sum().backward()
    assert ours.weight.grad.any()


def test_a_frozen_unet_keeps_less_and_gives_the_same():
    torch.manual_seed(0)
    network = UNet(8, 3, 32, 1, [1, 2], [4], 16)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.05)
    inputs = torch.rand(4), torch.randn(4, 3, 8, 8, requires_grad=True)
    training = kept(network, *inputs)
    (expected,) = torch.autograd.grad(network(*inputs).square().sum(), inputs[1])
    with frozen_weights(network):
        assert kept(network, *inputs) < 0.75 * training
        (found,) = torch.autograd.grad(network(*inputs).square().sum(), inputs[1])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    twin = copy.deepcopy(network)
    assert twin.state_dict().keys() == network.state_dict().keys()
