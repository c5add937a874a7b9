"""Adapters on shared weights: every network that has layers for them begins as the one it shares with."""

import copy
import sys

import pytest
import torch
from helpers import Tied
from small_networks import MAKERS, Maker, each, edm2, gradients, inputs, mlp, ncsnpp, small, unet
from torch import nn

from realuid_lightning.checkpoints.adapters import merged
from realuid_lightning.errors import UserError
from realuid_lightning.networks import LoRA, own_weights, shares_weights
from realuid_lightning.networks.blocks import Pointwise

pytestmark = pytest.mark.usefixtures("peft")

ADAPTABLE = [make for make in MAKERS if make is not edm2]


def adapted(network: nn.Module, lora: LoRA | None = None, std: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    made = (lora or LoRA(2)).adapt(network)
    for name, weight in made.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(weight, std=std)
    return made


def layers(network: nn.Module) -> list[str]:
    return [name.partition(".lora_A")[0] for name, _ in network.named_parameters() if ".lora_A." in name]


@each(ADAPTABLE)
def test_it_begins_as_the_network_and_every_adapter_acts(make: Maker) -> None:
    network = small(make).eval()
    state, made = {name: value.clone() for name, value in network.state_dict().items()}, adapted(network).eval()
    assert torch.equal(made(*inputs(network)), network(*inputs(network)))
    acting = adapted(network, std=0.1).eval()
    found = gradients(acting)
    kinds = {name: gradient for name, gradient in found.items() if gradient is not None}
    assert list(kinds) == [name for name in found if ".lora_" in name]
    assert all(gradient.any() for gradient in kinds.values())
    assert len(own_weights(acting, network)) == 2 * len(layers(acting)) > 0
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not any(".lora_" in name for name in state)


@each(ADAPTABLE)
def test_added_to_the_weights_it_is_the_plain_network(make: Maker) -> None:
    network = small(make).double().eval()
    t, x, y = inputs(network)
    made = adapted(network, std=0.3).eval()
    expected = made(t.double(), x.double(), y)
    plain = copy.deepcopy(network)
    plain.load_state_dict(merged(made.state_dict()))
    assert not torch.allclose(network(t.double(), x.double(), y), expected, rtol=1e-2)
    torch.testing.assert_close(plain(t.double(), x.double(), y), expected, rtol=1e-10, atol=1e-10)


@each([mlp, unet])
def test_precisions_and_recomputation(make: Maker) -> None:
    options = {"checkpoint": True} if make is unet else {}
    network = small(make, **options)
    made = adapted(network, std=0.1).eval()
    single = made(*inputs(network))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = made(*inputs(network))
    assert mixed.dtype == torch.float32
    assert (mixed - single).norm() < 0.04 * single.norm()


def test_weights_are_shared_and_buffers_are_not() -> None:
    network = small(ncsnpp)
    made = adapted(network)
    assert shares_weights(made, network)
    assert not shares_weights(copy.deepcopy(network), network)
    shared = {id(weight) for weight in network.parameters()}
    assert shared == {id(weight) for weight in made.parameters() if not weight.requires_grad}
    assert not {id(buffer) for buffer in network.buffers()} & {id(buffer) for buffer in made.buffers()}
    made.double()  # which moves weights in place
    assert shares_weights(made, network)
    assert next(network.parameters()).dtype == torch.float64


def test_layers_are_chosen_by_patterns_of_whole_names() -> None:
    assert layers(adapted(small(unet), LoRA(2, ["*.qkv", "out.2"]))) == [
        *("input_blocks.3.1.qkv", "middle_block.1.qkv", "output_blocks.0.1.qkv", "output_blocks.1.1.qkv", "out.2")
    ]
    simple = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))  # both names end in 0
    assert layers(adapted(simple, LoRA(1, ["0"]))) == ["0"]


def test_layers_that_peft_would_compute_otherwise_are_left() -> None:
    class Odd(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)

    network = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 2),
            "points": Pointwise(4, 4, 1),
            "space": nn.Conv3d(2, 2, 1),
            "grouped": nn.Conv2d(2, 2, 1, groups=2),
            "dilated": nn.Conv2d(2, 2, 3, dilation=2),
            "circular": nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
            "attention": nn.MultiheadAttention(2, 1),
            "odd": Odd(),
            "norm": nn.GroupNorm(1, 2),
        }
    )
    assert layers(adapted(network)) == ["linear", "points", "space"]


def test_patterns_that_name_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"'\*\.qvk' names no layer of UNet that can be adapted; there are time_embed"):
        LoRA(2, ["*.qkv", "*.qvk"]).adapt(small(unet))
    with pytest.raises(UserError, match="EDM2UNet has no linear layer or convolution that can be adapted"):
        LoRA(2).adapt(small(edm2))
    with pytest.raises(UserError, match="Tied has no linear layer"):
        LoRA(2).adapt(Tied())


def test_arguments_out_of_range_are_refused_together() -> None:
    with pytest.raises(UserError, match=r"(?s)rank must be at least 1, got 0.*target must hold a pattern"):
        LoRA(0, [])
    with pytest.raises(UserError, match=r"target must be a list, such as \['\*.qkv'\]"):
        LoRA(2, "*.qkv")


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'realuid-lightning\[lora\]'"):
        LoRA(2).adapt(small(mlp))
