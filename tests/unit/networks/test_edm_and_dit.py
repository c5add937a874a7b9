"""What networks of EDM, EDM2 and DiT must do as any other network here; their values are in tests/reference."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import acting, fit
from torch import Tensor, nn

from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.losses import GAN
from realuid_lightning.modules import RealUIDModule, Warmup
from realuid_lightning.networks import (
    DDPMNetwork,
    DhariwalUNet,
    DiT,
    EDM2UNet,
    Encoding,
    HeadedNetwork,
    SongUNet,
    VENetwork,
    VPNetwork,
)
from realuid_lightning.networks.preconditioned import PreconditionedNetwork
from realuid_lightning.paths import DiffusionPath, FlowMatchingPath, MatchingPath
from realuid_lightning.recorded import rebuild
from realuid_lightning.sharding import _stages

SMALL: dict[str, Any] = {"channel_mult": [1, 2], "attn_resolutions": [4], "num_blocks": 1}
NCSNPP: dict[str, Any] = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
Maker = Callable[..., Any]


def ddpmpp(**options: Any) -> SongUNet:
    return SongUNet(8, 1, **{"num_classes": 10, "model_channels": 16, "augment_dim": 9, **SMALL, **options})


def ncsnpp(**options: Any) -> SongUNet:
    return ddpmpp(**NCSNPP, **options)


def adm(**options: Any) -> DhariwalUNet:
    return DhariwalUNet(8, 1, **{"num_classes": 10, "model_channels": 32, **SMALL, **options})


def edm2(**options: Any) -> EDM2UNet:
    sizes = {"num_classes": 10, "model_channels": 16, "channels_per_head": 16, "logvar_channels": 8}
    return EDM2UNet(8, 1, **{**sizes, **SMALL, **options})


def dit(**options: Any) -> DiT:
    return DiT(8, 2, 1, 32, 3, 2, **{"num_classes": 10, **options})


MAKERS = [ddpmpp, ncsnpp, adm, edm2, dit]
UNETS = [ddpmpp, ncsnpp, adm, edm2]
each = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


def small(make: Maker, **options: Any) -> Any:
    torch.manual_seed(0)
    return acting(make(**options), 0.3)


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    t, x = torch.rand(batch, generator=generator), torch.randn(batch, 1, 8, 8, generator=generator)
    return t, x, torch.arange(batch)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(2)  # dropout
    network(*inputs()).square().sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


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


@each
def test_output_starts_at_zero_and_every_weight_gets_a_gradient(make: Maker) -> None:
    t, x, y = inputs()
    torch.manual_seed(0)
    assert not make()(t, x, y).any()
    found = gradients(small(make))
    assert all(gradient is not None and gradient.any() for gradient in found.values())


@each
def test_time_labels_and_no_label_act(make: Maker) -> None:
    network = small(make).eval()
    t, x, y = inputs()
    outputs = [network(t, x, y), network(t / 2, x, y), network(t, x, y + 1), network(t, x, torch.full_like(y, 10))]
    assert all(not torch.allclose(outputs[i], outputs[j]) for i in range(4) for j in range(i))
    torch.testing.assert_close(outputs[0][1:2], network(t[1:2], x[1:2], y[1:2]), atol=1e-4, rtol=1e-4)


@each
def test_record_rebuilds_the_same_architecture(make: Maker) -> None:
    network = make(num_classes=3, channel_mult=(1, 2), dropout=0.2) if make is not dit else dit(null_label=False)
    twin = rebuild(network.recorded(), type(network))
    twin.load_state_dict(network.state_dict())
    assert twin.recorded() == network.recorded()


@pytest.mark.parametrize("way", ["cheap", True])
@each
def test_recomputation_changes_no_bit(make: Maker, way: Any) -> None:
    options = {} if make is dit else {"dropout": 0.3}
    plain, recomputed = gradients(small(make, **options)), gradients(small(make, checkpoint=way, **options))
    assert all(torch.equal(recomputed[name], plain[name]) for name in plain)


COMPILED = {
    "VE": lambda: VENetwork(ncsnpp()),
    "EDM2": edm2,
    "DDPM": lambda: DDPMNetwork(dit(checkpoint=True)),
}


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
def test_compiles_without_graph_breaks(make: Maker) -> None:
    network = small(make).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs()), network(*inputs()), atol=1e-5, rtol=1e-5)


@each
def test_precisions(make: Maker) -> None:
    network = small(make).eval()
    t, x, y = inputs()
    single = network(t, x, y)
    double = copy.deepcopy(network).double()(t.double(), x.double(), y)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(t, x, y)
    half = copy.deepcopy(network).bfloat16()(t, x.bfloat16(), y)
    assert (mixed.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    for rough in (mixed, half.float()):
        assert (rough - single).norm() < 0.1 * single.norm()


@pytest.mark.parametrize("make", UNETS, ids=lambda make: make.__name__)
def test_channels_last_gives_equal_values_and_survives_every_block(make: Maker) -> None:
    network = small(make)
    layout = torch.channels_last
    twin = copy.deepcopy(network).eval().to(memory_format=layout)
    t, x, y = inputs()
    x = x.to(memory_format=layout)
    encoding = twin.encode(t, x, y)
    assert all(h.is_contiguous(memory_format=layout) for h in (encoding.middle, *encoding.skips))
    torch.testing.assert_close(twin(t, x, y), network.eval()(t, x, y), atol=1e-4, rtol=1e-4)


@each
def test_inputs_that_do_not_fit_are_refused(make: Maker) -> None:
    network, (t, x, y) = make(), inputs()
    with pytest.raises(UserError, match=r"x must have shape \(batch, 1, 8, 8\)"):
        network(t, x[:, :, :4], y)
    with pytest.raises(UserError, match=r"t must have shape \(3,\)"):
        network(t[0], x, y)
    with pytest.raises(UserError, match="y must hold labels, for the network has 10 classes"):
        network(t, x)
    with pytest.raises(UserError, match=r"y must have shape \(3,\)"):
        network(t, x, y[:2])
    with pytest.raises(UserError, match="y must be None"):
        make(num_classes=None)(t, x, y)


@each
def test_conditions_are_further_channels(make: Maker) -> None:
    network = small(make, condition_channels=2).eval()
    t, x, y = inputs()
    condition = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    output = network(t, torch.cat([x, condition], 1), y)
    assert output.shape == x.shape
    assert not torch.allclose(network(t, torch.cat([x, condition + 1], 1), y), output)


@each
def test_a_head_sits_on_the_middle(make: Maker) -> None:
    network = small(make, num_classes=None).eval()
    t, x, _ = inputs()
    assert network.encode(t, x).middle.shape == (3, *network.middle_shape)
    prediction, logits = HeadedNetwork(network)(t, x, judged=1)
    torch.testing.assert_close(prediction, network(t, x)[:2], atol=1e-4, rtol=1e-4)
    assert logits.shape == (1,)


@each
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


class Oracle(nn.Module):
    """Knows the noise, and remembers what it was given."""

    shape, num_classes, condition_channels, middle_shape = (1, 8, 8), None, 0, (1, 8, 8)

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise

    def encode(self, t: Tensor, x: Tensor, y: Tensor | None) -> Encoding:
        assert y is None
        self.t, self.x = t, x
        return Encoding(self.noise, (), t)

    def decode(self, encoding: Encoding) -> Tensor:
        return encoding.middle


def test_noise_at_the_steps_of_ddpm_denoises() -> None:
    """With ``xt = x1 + sigma x0``, a network that knows ``x0`` must give back ``x1``, at each step's own level."""
    _, x1, _ = inputs()
    x0 = torch.randn_like(x1)
    path, oracle = DiffusionPath(sigma_data=1.0), Oracle(x0)
    steps = torch.tensor([0.0, 499, 999])
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[steps.long()].float()
    sigma = ((1 - kept) / kept).sqrt()
    t = path.schedule.time(sigma)
    xt = x1 + sigma[:, None, None, None] * x0
    denoised = path.predict(DDPMNetwork(oracle), t, xt)
    torch.testing.assert_close(oracle.t, steps, atol=0.05, rtol=1e-3)
    torch.testing.assert_close(oracle.x, kept.sqrt()[:, None, None, None] * xt, atol=1e-4, rtol=1e-4)  # as DDPM has it
    torch.testing.assert_close(denoised, x1, atol=1e-3, rtol=1e-3)


def test_wrapped_networks_are_networks() -> None:
    for kind in (VPNetwork, VENetwork, DDPMNetwork):
        network: PreconditionedNetwork = acting(kind(ddpmpp()))
        twin = rebuild(network.recorded(), PreconditionedNetwork)
        twin.load_state_dict(network.state_dict())
        t, x, y = inputs()
        assert torch.equal(twin.eval()(t, x, y), network.eval()(t, x, y))
        assert HeadedNetwork(network)(t, x, y, judged=2)[1].shape == (2,)
        assert (network.shape, network.num_classes) == ((1, 8, 8), 10)
        assert all(name.startswith("model.") for name in network.state_dict())
    with pytest.raises(UserError, match=r"VENetwork: model must have encode.* but Linear lacks encode"):
        VENetwork(nn.Linear(1, 1))
    with pytest.raises(UserError, match="DDPMNetwork: beta_first and beta_last must be in"):
        DDPMNetwork(ddpmpp(), beta_first=0.5, beta_last=0.1)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (ddpmpp, DiffusionPath()),
        (ncsnpp, DiffusionPath()),
        (adm, DiffusionPath()),
        (edm2, DiffusionPath()),
        (dit, FlowMatchingPath()),
        (lambda: VPNetwork(ddpmpp()), DiffusionPath(sigma_data=1.0)),
        (lambda: DDPMNetwork(dit()), DiffusionPath(sigma_data=1.0)),
    ],
    ids=["ddpmpp", "ncsnpp", "adm", "edm2", "sit", "vp", "dit"],
)
def test_a_teacher_of_each_class_can_be_distilled(make: Maker, path: MatchingPath, tmp_path: Any) -> None:
    module = RealUIDModule(
        small(make), None, path=path, gan=GAN(), fake_steps=1, fake_schedule=Warmup, generator_schedule=Warmup
    )
    fit(module, MatchingDataModule(Digits(), batch_size=4, labels=True), tmp_path, 4)
    teacher, generator, fake = (
        dict(part.named_parameters())
        for part in (module.teacher.network, module.generator.network, module.fake_network)
    )
    assert all(value.isfinite().all() for part in (generator, fake) for value in part.values())
    for name, value in teacher.items():
        assert not torch.equal(generator[name], value)
        assert not torch.equal(fake[name], value)
