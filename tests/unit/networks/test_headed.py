import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_networks
import torch
from helpers import acting
from torch import Tensor, nn

from realuid_lightning.errors import UserError
from realuid_lightning.networks import MLP, HeadedNetwork, UNet
from realuid_lightning.recorded import rebuild


def unet(size: int = 8, channel_mult: tuple[int, ...] = (1,), **options: Any) -> UNet:
    return UNet(size, 3, 32, 1, list(channel_mult), [], 16, **options)


def lively(network: nn.Module) -> HeadedNetwork:
    """Put a head on a network, of which every part acts."""
    return acting(HeadedNetwork(network), 0.1)


def inputs(network: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    return small_networks.inputs(network, 6)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet of 32 channels": unet,
    "unet of 96 channels": lambda: unet(8, (1, 3), num_classes=3, condition_channels=2),
    "unet of 1 pixel": lambda: unet(1),
    "checkpointed unet": lambda: unet(8, (1, 2), checkpoint=True, num_classes=3),
    "unet that keeps products": lambda: unet(8, (1, 2), checkpoint="cheap", num_classes=3),
    "mlp of vectors": lambda: MLP([2], width=16, num_classes=3),
    "mlp of images": lambda: MLP([1, 3, 5], width=34, depth=2, condition_channels=1),
    "narrowest mlp": lambda: MLP([2], width=2, depth=1),
}
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())


@every_network
def test_it_is_the_network_when_nothing_is_judged(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    headed = lively(make())
    t, x, y = inputs(headed)
    bare = headed.network
    assert torch.equal(headed(t, x, y), bare(t, x, y))
    assert (headed.shape, headed.num_classes) == (bare.shape, bare.num_classes)
    assert headed.condition_channels == bare.condition_channels
    assert {name.split(".")[0] for name in headed.state_dict()} == {"network", "head"}


@every_network
def test_first_rows_are_predicted_and_last_rows_judged(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    headed = lively(make())
    t, x, y = inputs(headed)
    prediction, logits = headed(t, x, y, judged=2)
    assert prediction.shape == (4, *headed.shape)
    assert logits.shape == (2,)
    assert logits.unique().numel() == 2  # the head sees the sample
    encoding = headed.network.encode(t, x, y)
    assert torch.equal(prediction, headed.network.decode(encoding.rows(slice(4))))
    torch.testing.assert_close(prediction, headed.network(t, x, y)[:4], atol=1e-5, rtol=1e-5)
    nothing, alone = headed(t[4:], x[4:], None if y is None else y[4:], judged=2)
    assert nothing.shape == (0, *headed.shape)
    torch.testing.assert_close(alone, logits, atol=1e-5, rtol=1e-5)


@every_network
def test_logits_start_at_zero_and_every_parameter_gets_a_gradient(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    fresh, headed = HeadedNetwork(make()), lively(make())
    assert not fresh(*inputs(fresh), judged=6)[1].any()
    prediction, logits = headed(*inputs(headed), judged=3)
    (prediction.square().sum() + logits.sum()).backward()
    without = [name for name, parameter in headed.named_parameters() if parameter.grad is None]
    assert not without


@pytest.mark.parametrize("size", range(1, 9))
def test_a_map_of_any_size_is_halved_down_to_two_pixels(size: int) -> None:
    headed = lively(unet(size))
    convolutions = [layer for layer in headed.head if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == (0, 0, 0, 1, 1, 2, 2, 2, 2)[size]
    pooled: list[Tensor] = []
    pool = next(layer for layer in headed.head if isinstance(layer, nn.AdaptiveAvgPool2d))
    pool.register_forward_hook(lambda _, arguments, __: pooled.append(arguments[0]))
    t, x, y = inputs(headed)
    logits = headed(t, x, y, judged=6)[1]
    assert logits.unique().numel() == 6
    assert pooled[0].shape[2:] == (min(size, 2),) * 2


def test_times_and_labels_reach_the_logits() -> None:
    headed = lively(MLP([2], width=16, depth=1, num_classes=3))
    t, x, y = inputs(headed)
    logits = headed(t, x, y, judged=6)[1]
    assert not torch.allclose(headed(t / 2, x, y, judged=6)[1], logits)
    assert not torch.allclose(headed(t, x, (y + 1) % 3, judged=6)[1], logits)


def test_judging_alone_spares_the_upper_half() -> None:
    headed = lively(unet(8, (1, 2)))
    headed(*inputs(headed), judged=6)[1].sum().backward()
    without = {name.split(".")[1] for name, parameter in headed.named_parameters() if parameter.grad is None}
    assert without == {"output_blocks", "out"}


def test_checkpointing_gives_equal_gradients() -> None:
    def gradients(checkpoint: bool) -> list[Tensor]:
        torch.manual_seed(0)
        headed = lively(unet(8, (1, 2), checkpoint=checkpoint))
        prediction, logits = headed(*inputs(headed), judged=3)
        (prediction.square().sum() + logits.sum()).backward()
        return [parameter.grad for parameter in headed.parameters()]

    torch.testing.assert_close(gradients(True), gradients(False), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("make", [unet, lambda: MLP([2], width=16)], ids=["unet", "mlp"])
def test_precisions(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    headed = lively(make())
    t, x, _ = inputs(headed)
    prediction, logits = headed(t, x, judged=3)
    double = copy.deepcopy(headed).double()(t.double(), x.double(), judged=3)
    torch.testing.assert_close(double, (prediction.double(), logits.double()), atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = headed(t, x, judged=3)
    half = copy.deepcopy(headed).bfloat16()(t, x.bfloat16(), judged=3)
    assert [part.dtype for part in (*mixed, *half)] == [torch.float32, torch.float32, torch.bfloat16, torch.float32]
    for _, rough in (mixed, half):
        assert (rough - logits).norm() < 0.05 * logits.norm()


@pytest.mark.slow
def test_compiles_without_graph_breaks() -> None:
    headed = lively(unet(8, (1, 2)))
    t, x, _ = inputs(headed)
    compiled = torch.compile(headed, backend="eager", fullgraph=True)
    for judged in (0, 2):
        torch.testing.assert_close(compiled(t, x, judged=judged), headed(t, x, judged=judged), atol=1e-5, rtol=1e-5)


def test_plain_ddp_accepts_predicting_and_judging_in_one_step(tmp_path: Path) -> None:
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        headed = lively(unet(8, (1, 2), num_classes=3))
        parallel = nn.parallel.DistributedDataParallel(headed)
        for _ in range(2):  # DDP tells of the parameters that the first step has missed at the second
            prediction, logits = parallel(*inputs(headed), judged=2)
            (prediction.square().sum() + logits.sum()).backward()
    finally:
        distributed.destroy_process_group()


def test_record_rebuilds_the_same_architecture() -> None:
    headed = HeadedNetwork(unet(8, (1, 2), condition_channels=1))
    twin = rebuild(headed.recorded(), HeadedNetwork)
    twin.load_state_dict(headed.state_dict())
    assert twin.recorded() == headed.recorded()
    assert copy.deepcopy(headed).recorded() == headed.recorded()


def test_networks_without_a_middle_are_refused() -> None:
    with pytest.raises(UserError, match=r"encode, decode, shape, middle_shape .*, but Linear lacks encode, decode,"):
        HeadedNetwork(nn.Linear(2, 2))
    network = MLP([2], width=8)
    network.middle_shape = (8, 3)
    with pytest.raises(UserError, match=r"must be \(channels,\) or \(channels, height, width\), got \(8, 3\)"):
        HeadedNetwork(network)


def test_rows_beyond_the_batch_are_refused() -> None:
    headed = HeadedNetwork(MLP([2], width=8))
    for judged in (-1, 7):
        with pytest.raises(UserError, match=rf"judged must be in \[0, 6\], the number of rows, got {judged}"):
            headed(*inputs(headed), judged=judged)
