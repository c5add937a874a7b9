"""A frozen convolution gives what any other gives, and keeps less."""

import copy
from contextlib import nullcontext

import pytest
import torch
from helpers import acting, kept
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

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


@pytest.mark.parametrize("make", [lambda: torch.randn(32, 8, 8), lambda: torch.randn(2, 32, 8, 8).double()])
def test_single_images_and_float64_under_autocast_are_those_of_torch(make):
    """One image needs no batch, and autocast leaves float64 alone."""
    x, found = make(), []
    for convolution in pair(padding=1):
        end = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.float64):
            output = convolution.to(x.dtype)(end)
        output.square().sum().backward()
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


@pytest.mark.parametrize("trains", ["bias", "weight"])
def test_what_trains_beside_a_frozen_half_gets_its_gradient(trains):
    """A bias beside a frozen weight, as in bias-only fine-tuning, and the other way round."""
    x, found = torch.randn(2, 32, 8, 8, requires_grad=True), []
    for convolution in pair(padding=1):
        getattr(convolution, trains).requires_grad_(True)
        ends = x, getattr(convolution, trains)
        found.append(torch.autograd.grad(convolution(x).square().sum(), ends))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert all(gradient.any() for gradient in found[0])


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).pow(3).sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](f(x))[0],
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    "jacrev": lambda f, x: torch.func.jacrev(lambda x: f(x)[:, :2, 0, 0])(x),
    "hvp": lambda f, x: torch.func.jvp(torch.func.grad(lambda x: f(x).pow(3).sum()), (x,), (x.cos(),))[1],
    "vmap(grad)": lambda f, x: torch.func.vmap(torch.func.grad(lambda one: f(one[None]).pow(3).sum()))(x),
    "vmap(vjp)": lambda f, x: torch.func.vmap(torch.func.vjp(f, x)[1])(torch.stack([f(x), f(x).cos()]))[0],
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_frozen_convolutions_go_through_torch_func(transform):
    """What a score's divergence, a Jacobian or a gradient penalty through a frozen teacher asks for."""
    x = torch.randn(2, 32, 6, 6, dtype=torch.float64)
    found = [TRANSFORMS[transform](convolution.double(), x) for convolution in pair(padding=1)]
    torch.testing.assert_close(found[0], found[1])
    assert found[0].any()


def test_tangents_of_frozen_weights_count_too():
    x = torch.randn(2, 32, 6, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for convolution in pair(padding=1):
        weights = {name: weight.detach() for name, weight in convolution.double().named_parameters()}
        tangents = {name: weight.cos() for name, weight in weights.items()}

        def call(weights, convolution=convolution):
            return torch.func.functional_call(convolution, weights, (x,))

        found.append(torch.func.jvp(call, (weights,), (tangents,))[1])
    torch.testing.assert_close(found[0], found[1])


def test_a_frozen_unet_goes_through_torch_func():
    torch.manual_seed(0)
    network = acting(UNet(8, 3, 32, 1, [1, 2], [4], 16), 0.05).double().requires_grad_(False)
    t, x = torch.rand(2, dtype=torch.float64), torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def energy(t, x):
        return network(t, x).square().sum()

    with sdpa_kernel(SDPBackend.MATH):  # torch transforms its fast attention on CPUs in part only
        output, back = torch.func.vjp(lambda x: network(t, x), x)
        tangent = torch.func.jvp(lambda x: network(t, x), (x,), (x.cos(),))[1]
        whole = torch.func.grad(energy, 1)(t, x)
        single = torch.func.vmap(torch.func.grad(lambda t, x: energy(t[None], x[None]), 1))(t, x)
    torch.testing.assert_close((back(output)[0] * x.cos()).sum(), (output * tangent).sum())
    torch.testing.assert_close(single, whole)


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
    network = acting(UNet(8, 3, 32, 1, [1, 2], [4], 16), 0.05)
    inputs = torch.rand(4), torch.randn(4, 3, 8, 8, requires_grad=True)
    training = kept(network, *inputs)
    (expected,) = torch.autograd.grad(network(*inputs).square().sum(), inputs[1])
    with frozen_weights(network):
        assert kept(network, *inputs) < 0.75 * training
        (found,) = torch.autograd.grad(network(*inputs).square().sum(), inputs[1])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    twin = copy.deepcopy(network)
    assert twin.state_dict().keys() == network.state_dict().keys()
