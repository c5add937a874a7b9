import copy
from typing import Any

import pytest
import torch
from helpers import acting, kept
from torch import Tensor, nn

from realuid_lightning.errors import UserError
from realuid_lightning.networks import UNet
from realuid_lightning.networks.blocks import AttentionBlock, time_features
from realuid_lightning.recorded import rebuild


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


def test_output_starts_at_zero_and_has_the_shape_of_x() -> None:
    network = UNet(8, 3, 32, 1, [1, 2], [4], 16)
    t, x = inputs()
    assert network.shape == (3, 8, 8)
    assert network.num_classes is None
    assert not network(t, x).any()
    assert network(t, x).shape == x.shape


def test_time_features_are_cosines_then_sines() -> None:
    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    features = time_features(t, 4)
    assert features.dtype == torch.float64
    half = torch.tensor([0.5, 0.005], dtype=torch.float64)
    torch.testing.assert_close(features[0], torch.tensor([1.0, 1, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(features[1], torch.cat([half.cos(), half.sin()]))


def test_samples_do_not_influence_each_other() -> None:
    network = small()
    t, x = inputs()
    torch.testing.assert_close(network(t, x)[1:2], network(t[1:2], x[1:2]), atol=1e-5, rtol=1e-5)


def test_time_labels_and_dropout_act() -> None:
    network = small(num_classes=3, dropout=0.5).eval()
    t, x = inputs()
    y = torch.zeros(4, dtype=torch.long)
    base = network(t, x, y)
    assert torch.equal(network(t, x, y), base)
    assert not torch.allclose(network(t * 0.5, x, y), base)
    assert not torch.allclose(network(t, x, y + 1), base)
    assert not torch.allclose(network.train()(t, x, y), base)


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


def test_attention_orders_channels_by_head_first() -> None:
    torch.manual_seed(0)
    block, h = AttentionBlock(64, 16), torch.randn(2, 64, 3, 3)
    nn.init.normal_(block.proj_out.weight, std=0.1)
    qkv = block.qkv(block.norm(h).flatten(2)).view(2, 4, 3, 16, 9)  # batch, head, q | k | v, channel, pixel
    q, k, v = qkv.unbind(2)
    weights = (q.transpose(2, 3) @ k / 16**0.5).softmax(-1)
    mixed = (v @ weights.transpose(2, 3)).reshape(2, 64, 9)
    torch.testing.assert_close(block(h), h + block.proj_out(mixed).view_as(h), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["cheap", True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_gives_equal_gradients(dropout: float, way: Any) -> None:
    t, x = inputs()
    plain = gradients(small(dropout=dropout), t, x)
    checkpointed = gradients(small(dropout=dropout, checkpoint=way), t, x)
    torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-5)


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


def test_channels_last_survives_every_block() -> None:
    network = small().to(memory_format=torch.channels_last)
    t, x = inputs()
    encoding = network.encode(t, x.to(memory_format=torch.channels_last))
    for h in (encoding.middle, *encoding.skips, network.decode(encoding)):
        assert h.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
def test_compiles_without_graph_breaks(checkpoint: bool) -> None:
    network = small(num_classes=3, checkpoint=checkpoint)
    t, x = inputs()
    y = torch.tensor([0, 1, 2, 0])
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(t, x, y), network(t, x, y), atol=1e-5, rtol=1e-5)


def test_precisions() -> None:
    network = small(num_classes=3)
    t, x = inputs()
    y = torch.tensor([0, 1, 2, 0])
    single = network(t, x, y)
    double = copy.deepcopy(network).double()(t, x.double(), y)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(t, x, y)
    half = copy.deepcopy(network).bfloat16()(t, x.bfloat16(), y)
    assert (mixed.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    for rough in (mixed, half.float()):
        assert (rough - single).norm() < 0.03 * single.norm()


def test_encode_and_decode_make_up_forward() -> None:
    network = small()
    t, x = inputs()
    encoding = network.encode(t, x)
    assert encoding.middle.shape == (4, network.middle_channels, 4, 4) == (4, *network.middle_shape)
    assert encoding.embedding.shape == (4, 128)
    assert torch.equal(network.decode(encoding), network(t, x))


def test_rows_of_an_encoding_are_those_of_the_batch() -> None:
    network = small()
    t, x = inputs()
    part = network.encode(t, x).rows(slice(1, 3))
    torch.testing.assert_close(part, network.encode(t[1:3], x[1:3]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.decode(part), network(t, x)[1:3], atol=1e-5, rtol=1e-5)


def test_conditions_are_further_channels() -> None:
    network = small(condition_channels=2)
    t, x = inputs()
    condition = torch.randn(4, 2, 8, 8)
    output = network(t, torch.cat([x, condition], 1))
    assert output.shape == x.shape == (4, *network.shape)
    assert network.condition_channels == 2
    assert not torch.allclose(network(t, torch.cat([x, condition + 1], 1)), output)
    with pytest.raises(
        UserError, match=r"\(batch, 5, 8, 8\) \(3 of the sample, then 2 of the condition\), got \(4, 3,"
    ):
        network(t, x)


def test_no_condition_changes_nothing() -> None:
    plain, same, conditioned = (
        small(**options).state_dict() for options in ({}, {"condition_channels": 0}, {"condition_channels": 2})
    )
    assert all(torch.equal(value, plain[name]) for name, value in same.items())
    assert [name for name in plain if plain[name].shape != conditioned[name].shape] == ["input_blocks.0.0.weight"]
    assert conditioned.keys() == plain.keys() == same.keys()


def test_record_rebuilds_the_same_architecture() -> None:
    network = small(num_classes=3, dropout=0.1, channel_mult=(1, 2), condition_channels=1)
    twin = rebuild(network.recorded(), UNet)
    twin.load_state_dict(network.state_dict())
    assert twin.recorded() == network.recorded()


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
    with pytest.raises(UserError, match="channel_mult must hold positive integers"):
        UNet(32, 3, 128, 2, [], [], 64)
    with pytest.raises(UserError, match="num_head_channels must be positive, got 0"):
        UNet(32, 3, 128, 2, [1], [], 0)


def test_inputs_that_do_not_fit_are_refused() -> None:
    t, x = inputs()
    with pytest.raises(UserError, match=r"x must have shape \(batch, 3, 8, 8\)"):
        small()(t, x[:, :2])
    with pytest.raises(UserError, match=r"t must have shape \(4,\)"):
        small()(t[0], x)
    with pytest.raises(UserError, match="y must be None"):
        small()(t, x, torch.zeros(4, dtype=torch.long))
    with pytest.raises(UserError, match="y must hold labels"):
        small(num_classes=3)(t, x)
