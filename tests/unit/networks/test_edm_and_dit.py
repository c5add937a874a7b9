"""What networks of EDM, EDM2 and DiT are beside what every network is; their values are in tests/reference."""

from typing import Any

import pytest
import torch
from helpers import acting, fit
from small_networks import Maker, adm, ddpmpp, dit, each, edm2, inputs, ncsnpp, small
from torch import nn

from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, Warmup
from realuid_lightning.networks import (
    DhariwalUNet,
    DiT,
    EDM2UNet,
    HeadedNetwork,
    SongUNet,
    VENetwork,
    VPNetwork,
    bare,
)
from realuid_lightning.networks.preconditioned import PreconditionedNetwork
from realuid_lightning.objectives import GAN
from realuid_lightning.paths import (
    DDPMSteps,
    DiffusionPath,
    FlowMatchingPath,
    MatchingPath,
    Noise,
    VPSchedule,
    VPSteps,
)
from realuid_lightning.recorded import rebuild
from realuid_lightning.sharding import _stages


def test_parameter_counts_of_the_published_networks() -> None:
    """Millions, as the papers have them; of DiT without the 0.3 of its positions, which are no parameters here."""
    with torch.device("meta"):
        made = {
            55.7: SongUNet(32, 3, augment_dim=9, channel_mult=[2, 2, 2]),
            61.8: SongUNet(64, 3, augment_dim=9, channel_mult=[1, 2, 2, 2]),
            295.9: DhariwalUNet(64, 3, 1000),
            124.7: EDM2UNet(64, 4, 1000, 128),
            280.2: EDM2UNet(64, 4, 1000, 192),
            674.8: DiT(),
            130.3: DiT(32, 2, 4, 768, 12, 12),
        }
    for millions, network in made.items():
        assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == millions


COMPILED = {
    "VE": lambda: VENetwork(ncsnpp()),
    "EDM2": edm2,
    "DiT": lambda: dit(checkpoint=True),
}


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
def test_compiles_without_graph_breaks(make: Maker) -> None:
    network = small(make).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs(network)), network(*inputs(network)), atol=1e-5, rtol=1e-5)


@each([ddpmpp, ncsnpp, adm, edm2, dit])
def test_fsdp_divides_block_by_block(make: Maker) -> None:
    network = make()
    blocks = [*network.blocks] if make is dit else [*network.enc.values(), *network.dec.values()]
    assert list(_stages(network)) == blocks
    assert all(parameter.ndim for parameter in network.parameters())  # fully_shard refuses others


def test_all_faulty_arguments_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        SongUNet(9, 0, 0, -1, 6, [1, 2], dropout=1.0, resample_filter=[1, 2, 1], condition_channels=-1)
    for part in (
        "in_channels must be positive, got 0",
        "num_classes must be positive or None, got 0",
        "augment_dim must be at least 0, got -1",
        "channels at every resolution must be divisible by 4, but model_channels and channel_mult give [6, 12]",
        "image_size must be divisible by 2 (channel_mult has 2 entries), got 9",
        "dropout must be in [0, 1), got 1.0",
        "condition_channels must be at least 0, got -1",
        "resample_filter must hold an even number of taps whose sum is not 0, got [1, 2, 1]",
    ):
        assert f"SongUNet: {part}" in str(caught.value)
    with pytest.raises(UserError, match=r"DhariwalUNet: channels under attention must be divisible by 64.* \[96\]"):
        adm(model_channels=48)
    with pytest.raises(UserError, match="EDM2UNet: channel_mult must hold positive integers"):
        edm2(channel_mult=[])
    with pytest.raises(
        UserError, match=r"(?s)DiT: patch_size must divide image_size = 8, got 3.*num_heads must divide"
    ):
        DiT(8, 3, 1, 32, 2, 5)


def test_wrapped_networks_are_networks() -> None:
    for kind in (VPNetwork, VENetwork):
        network: PreconditionedNetwork = acting(kind(ddpmpp()))
        twin = rebuild(network.recorded(), PreconditionedNetwork)
        twin.load_state_dict(network.state_dict())
        t, x, y = inputs(network)
        assert torch.equal(twin.eval()(t, x, y), network.eval()(t, x, y))
        assert HeadedNetwork(network)(t, x, y, judged=2)[1].shape == (2,)
        assert (network.shape, network.num_classes) == ((1, 8, 8), 10)
        assert all(name.startswith("model.") for name in network.state_dict())
    with pytest.raises(UserError, match=r"VENetwork: model must have encode.* but Linear lacks encode"):
        VENetwork(nn.Linear(1, 1))
    with pytest.raises(UserError, match="VPSteps: steps must be at least 2, got 1"):
        VPNetwork(ddpmpp(), steps=1)


@torch.no_grad()
def test_a_network_that_predicts_noise_needs_no_wrapper() -> None:
    network = acting(ddpmpp()).eval()
    t, x, y = inputs(network)
    wrapped = DiffusionPath(sigma_data=1.0).predict(VPNetwork(network), t, x, y)
    bare = DiffusionPath(parameterisation=Noise(VPSteps(), unit_variance=True)).predict(network, t, x, y)
    torch.testing.assert_close(bare, wrapped, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (ddpmpp, DiffusionPath()),
        (ncsnpp, DiffusionPath()),
        (adm, DiffusionPath()),
        (edm2, DiffusionPath()),
        (dit, FlowMatchingPath()),
        (lambda: VPNetwork(ddpmpp()), DiffusionPath(sigma_data=1.0)),
        (dit, DiffusionPath(VPSchedule(), parameterisation=Noise(time=DDPMSteps()))),
    ],
    ids=["ddpmpp", "ncsnpp", "adm", "edm2", "sit", "vp", "dit"],
)
def test_a_teacher_of_each_class_can_be_distilled(make: Maker, path: MatchingPath, tmp_path: Any) -> None:
    module = RealUIDModule(
        small(make), None, path=path, gan=GAN(), fake_steps=1, fake_schedule=Warmup, generator_schedule=Warmup
    )
    fit(module, MatchingDataModule(Digits(), batch_size=4, labels=True), tmp_path, 4)
    teacher, generator, fake = (
        dict(part.named_parameters()) for part in (module.teacher.network, module.generator.network, bare(module.fake))
    )
    assert all(value.isfinite().all() for part in (generator, fake) for value in part.values())
    for name, value in teacher.items():
        assert not torch.equal(generator[name], value)
        assert not torch.equal(fake[name], value)
