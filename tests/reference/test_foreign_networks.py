"""Networks of EDM, EDM2 and SiT against values of the originals at random weights, loaded under the original keys."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from realuid_lightning.checkpoints import load_strictly
from realuid_lightning.networks import DhariwalUNet, DiT, EDM2UNet, SongUNet, VENetwork, VPNetwork
from realuid_lightning.paths import DiffusionPath

VALUES = Path(__file__).parent / "values" / "foreign"
SMALL: dict[str, Any] = {"channel_mult": [1, 2], "attn_resolutions": [8], "num_blocks": 1, "dropout": 0.0}
NCSNPP: dict[str, Any] = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
TOLERANCE = 1e-5  # of the greatest value


def edm(name: str) -> nn.Module:
    if name == "edm_adm_cond":
        return DhariwalUNet(16, 3, 10, model_channels=32, **SMALL)
    if name == "edm_ddpmpp_cond":
        return SongUNet(16, 3, 10, augment_dim=9, model_channels=16, **SMALL)
    return SongUNet(16, 3, model_channels=16, **SMALL, **(NCSNPP if name == "ve_ncsnpp_uncond" else {}))


def edm2() -> EDM2UNet:
    return EDM2UNet(16, 4, 10, model_channels=16, channels_per_head=16, logvar_channels=16, **SMALL)


def sit(learn_sigma: bool) -> DiT:
    return DiT(8, 2, 4, 48, 2, 4, num_classes=10, learn_sigma=learn_sigma)


def loaded(network: nn.Module, name: str, prefix: str = "") -> dict[str, Tensor]:
    """Load the weights of a file, whose keys begin with ``prefix``, and return its other values."""
    stored = load_file(VALUES / f"{name}.safetensors")
    values = {key.removeprefix("__"): stored.pop(key) for key in list(stored) if key.startswith("__")}
    load_strictly(network, {key.removeprefix(prefix): value for key, value in stored.items()}, name)
    return values


def check(output: Tensor, expected: Tensor) -> None:
    """Compare sample by sample, as values of different noise levels differ in size."""
    errors = (output - expected).flatten(1).abs().amax(1)
    assert (errors < TOLERANCE * expected.flatten(1).abs().amax(1)).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["edm_ddpmpp_cond", "edm_adm_cond", "vp_ddpmpp_uncond", "ve_ncsnpp_uncond"])
def test_edm_networks_give_the_original_output(name: str) -> None:
    network = edm(name)
    values = loaded(network, name, "model.")
    y = values["labels"].argmax(1) if "labels" in values else None
    check(network(values["raw_noise_labels"], values["x"], y), values["raw"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["edm_ddpmpp_cond", "edm_adm_cond"])
def test_diffusion_path_is_edm_preconditioning(name: str) -> None:
    network, path = edm(name), DiffusionPath()
    values = loaded(network, name, "model.")
    t, y = path.schedule.time(values["sigma"]), values["labels"].argmax(1)
    check(path.predict(network, t, values["x"], y), values["denoised"])
    none = torch.full_like(y, 10)
    check(path.predict(network, t, values["x"], none), values["denoised_unlabelled"])


@torch.no_grad()
@pytest.mark.parametrize(("name", "kind"), [("vp_ddpmpp_uncond", VPNetwork), ("ve_ncsnpp_uncond", VENetwork)])
def test_vp_and_ve_preconditioning_are_networks_of_the_diffusion_path(name: str, kind: Any) -> None:
    network, path = kind(edm(name)), DiffusionPath(sigma_data=1.0)
    values = loaded(network, name)  # keys as they are in the file
    t = path.schedule.time(values["sigma"])
    check(path.predict(network, t, values["x"]), values["denoised"])


@torch.no_grad()
def test_edm2_gives_the_original_output_and_uncertainty() -> None:
    network, path = edm2(), DiffusionPath()
    values = loaded(network, "edm2_cond", "unet.")
    t, y = path.schedule.time(values["sigma"]), values["labels"].argmax(1)
    for mode in (True, False):  # the original has them differ in what they write to the weights only
        check(path.predict(network.train(mode), t, values["x"], y), values["denoised"])
    logvar = network.log_variance(values["sigma"].log() / 4)
    torch.testing.assert_close(logvar, values["logvar"].flatten(), atol=1e-5, rtol=0)


def test_edm2_without_the_uncertainty_head_is_the_rest() -> None:
    plain = EDM2UNet(16, 4, 10, model_channels=16, channels_per_head=16, **SMALL).state_dict()
    head = {"logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight"}
    assert edm2().state_dict().keys() - plain.keys() == head
    assert not plain.keys() - edm2().state_dict().keys()


@torch.no_grad()
@pytest.mark.parametrize(("name", "learn_sigma"), [("sit", True), ("sit_velocity_only", False)])
def test_sit_gives_the_original_velocity(name: str, learn_sigma: bool) -> None:
    network = sit(learn_sigma)
    positions = network.pos_embed.clone()
    values = loaded(network, name)
    torch.testing.assert_close(positions, network.pos_embed, atol=1e-6, rtol=0)
    t, x, y = values["t"], values["x"], values["y"]
    velocity, null = network(t, x, y), network(t, x, torch.full_like(y, 10))
    check(velocity, values["velocity"])
    check(null + 1.5 * (velocity - null), values["guided_all_channels"])
