import copy
from typing import Any

import pytest
import torch
from helpers import acting, kept
from torch import Tensor, nn

from realuid_lightning.errors import UserError
from realuid_lightning.networks import UNet
from realuid_lightning.networks.blocks import AttentionBlock, ResBlock, time_features


def small(**options: Any) -> UNet:
    """Make a two-level UNet whose zeroed layers are filled, so that every part acts."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "image_size": 8,
        "in_channels": 3,
        "model_channels": 32,
        "num_res_blocks": 1,
        "channel_mult": [1, 2],
        "attention_resolutions": [4],
        "num_head_channels": 16,
    }
    return acting(UNet(**sizes | options), 0.05)


def inputs(batch: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, generator=generator), torch.randn(batch, 3, 8, 8, generator=generator)


def gradients(network: UNet, *arguments: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    torch.manual_seed(2)  # dropout
    network(*arguments).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def test_parameter_count_of_the_published_networks() -> None:
    with torch.device("meta"):
        plain = UNet(32, 3, 128, 2, [1, 2, 2, 2], [16], 64)
        classes = UNet(32, 3, 128, 2, [1, 2, 2, 2], [16], 64, num_classes=10)
    assert sum(parameter.numel() for parameter in plain.parameters()) == 35_746_307
    assert sum(parameter.numel() for parameter in classes.parameters()) == 35_746_307 + 10 * 512


def test_time_features_are_cosines_then_sines() -> None:
    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    features = time_features(t, 4)
    assert features.dtype == torch.float64
    half = torch.tensor([0.5, 0.005], dtype=torch.float64)
    torch.testing.assert_close(features[0], torch.tensor([1.0, 1, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(features[1], torch.cat([half.cos(), half.sin()]))


def test_architecture_options_act() -> None:
    def shapes(**options: Any) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in small(**options).state_dict().items()}

    base = shapes()
    assert shapes(in_channels=1)["out.2.weight"] == (1, 32, 3, 3)
    assert shapes(model_channels=64)["time_embed.0.weight"] == (256, 64)
    assert "input_blocks.5.0.in_layers.0.weight" in shapes(num_res_blocks=2)
    assert "input_blocks.4.0.op.weight" in shapes(channel_mult=[1, 2, 2])
    assert any(name.startswith("input_blocks.1.1") for name in shapes(attention_resolutions=[8, 4]))
    assert not any(name.startswith("input_blocks.1.1") for name in base)
    assert shapes(num_head_channels=32) == base  # heads share the weights out differently
    t, x = inputs()
    assert not torch.allclose(small(num_head_channels=32)(t, x), small()(t, x))
    assert small(image_size=16, attention_resolutions=[8])(t, torch.randn(4, 3, 16, 16)).shape == (4, 3, 16, 16)


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("way", [None, "down", "up"])
def test_a_block_resamples_and_scales_as_its_formula_says(scales: bool, way: Any) -> None:
    torch.manual_seed(0)
    block, h, embedding = ResBlock(32, 32, 8, 0.0, scales, way), torch.randn(2, 32, 4, 4), torch.randn(2, 8)
    acting(block, 0.1)
    for norm in (block.in_layers[0], block.out_layers[0]):
        nn.init.normal_(norm.weight)

    def resampled(x: Tensor) -> Tensor:
        if way == "down":
            return x.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) if way == "up" else x

    update = block.in_layers[2](resampled(nn.functional.silu(block.in_layers[0](h))))
    told = (embedding.sigmoid() * embedding) @ block.emb_layers[1].weight.T + block.emb_layers[1].bias
    told = told[..., None, None]
    if scales:
        update = block.out_layers[0](update) * (1 + told[:, :32]) + told[:, 32:]
    else:
        update = block.out_layers[0](update + told)
    expected = resampled(h) + block.out_layers[3](nn.functional.silu(update))
    torch.testing.assert_close(block(h, embedding), expected, atol=1e-5, rtol=1e-5)


def test_resolutions_change_by_convolutions_pooling_or_blocks() -> None:
    def keys(resample: Any) -> set[str]:
        return {name for name in small(resample=resample).state_dict() if name.startswith(("input_blocks.2", "output"))}

    assert "input_blocks.2.0.op.weight" in keys("convolution")
    assert not any(name.startswith("input_blocks.2") or ".conv." in name for name in keys("pooling"))
    assert {"input_blocks.2.0.in_layers.2.weight", "output_blocks.1.2.in_layers.2.weight"} <= keys("block")
    network, (t, x) = small(resample="pooling", first_channels=64), inputs()
    assert network.state_dict()["input_blocks.0.0.weight"].shape[0] == 64
    assert network(t, x).shape == x.shape


def test_attention_orders_channels_by_head_first() -> None:
    torch.manual_seed(0)
    block, h = AttentionBlock(64, 16), torch.randn(2, 64, 3, 3)
    nn.init.normal_(block.proj_out.weight, std=0.1)
    qkv = block.qkv(block.norm(h).flatten(2)).view(2, 4, 3, 16, 9)  # batch, head, q | k | v, channel, pixel
    q, k, v = qkv.unbind(2)
    weights = (q.transpose(2, 3) @ k / 16**0.5).softmax(-1)
    mixed = (v @ weights.transpose(2, 3)).reshape(2, 64, 9)
    torch.testing.assert_close(block(h), h + block.proj_out(mixed).view_as(h), atol=1e-5, rtol=1e-5)


def test_checkpointing_keeps_less() -> None:
    assert kept(small(checkpoint=True), *inputs(16)) < 0.5 * kept(small(), *inputs(16))


def test_channels_last_gives_equal_values_and_gradients() -> None:
    t, x = inputs()
    network = small()
    twin = copy.deepcopy(network).to(memory_format=torch.channels_last)
    layout = torch.channels_last
    output = twin(t, x.to(memory_format=layout))
    assert output.is_contiguous(memory_format=layout)
    torch.testing.assert_close(output, network(t, x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        gradients(twin, t, x.to(memory_format=layout)), gradients(network, t, x), atol=1e-3, rtol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
def test_compiles_without_graph_breaks(checkpoint: bool) -> None:
    network = small(num_classes=3, checkpoint=checkpoint)
    t, x = inputs()
    y = torch.tensor([0, 1, 2, 0])
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(t, x, y), network(t, x, y), atol=1e-5, rtol=1e-5)


def test_all_faulty_arguments_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        UNet(30, 0, 48, 0, [1, 2, 2], [16, 15], 20, num_classes=0, dropout=1.5, condition_channels=-1)
    message = str(caught.value)
    for part in (
        "in_channels must be positive, got 0",
        "num_res_blocks must be positive, got 0",
        "num_classes must be positive or None, got 0",
        "dropout must be in [0, 1), got 1.5",
        "condition_channels must be at least 0, got -1",
        "model_channels must be divisible by 32 (32 groups in a norm), got 48",
        "image_size must be divisible by 4 (channel_mult has 3 entries), got 30",
        "attention_resolutions must be among the resolutions [30, 15, 7], got [16] beside them",
        "num_head_channels must divide the channels under attention [96], got 20",
    ):
        assert f"UNet: {part}" in message
    with pytest.raises(UserError, match=r"first_channels must be a positive multiple of 32(.|\n)*resample must be"):
        UNet(32, 3, first_channels=48, resample="x")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="channel_mult must hold positive integers"):
        UNet(32, 3, 128, 2, [], [], 64)
    with pytest.raises(UserError, match="num_head_channels must be positive, got 0"):
        UNet(32, 3, 128, 2, [1], [], 0)
