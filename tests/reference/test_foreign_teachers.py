"""Imported teachers predict what the originals do: denoised samples and velocities, through the file and back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import EDM, VALUES, values, write_edm, write_flow_matching, write_torchcfm, write_transformer
from helpers import acting
from safetensors.torch import load_file, save_file
from test_foreign_networks import check

from realuid_lightning.checkpoints import Teacher, read_teacher
from realuid_lightning.importing import import_teacher
from realuid_lightning.networks import UNet
from realuid_lightning.paths import DDPMSteps, DiffusionPath, FlowMatchingPath, Noise, VPSchedule


def imported(file: Path, **options: Any) -> Teacher:
    import_teacher(file, file.with_suffix(".safetensors"), **options)
    return read_teacher(file.with_suffix(".safetensors"))


@torch.no_grad()
@pytest.mark.parametrize("name", EDM)
def test_pickles_of_edm_denoise_as_the_originals(name: str, tmp_path: Path) -> None:
    network, path = imported(write_edm(name, tmp_path / "network.pkl"))
    _, expected = values(f"foreign/{name}")
    assert isinstance(path, DiffusionPath)
    y = expected["labels"].argmax(1) if "labels" in expected else None
    check(path.predict(network, path.schedule.time(expected["sigma"]), expected["x"], y), expected["denoised"])


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchcfm_gives_the_original_velocity(prefix: str, tmp_path: Path) -> None:
    file = write_torchcfm(tmp_path / "cfm.pt", prefix)
    network, path = imported(file, image_size=8, num_head_channels=32)
    _, expected = values("unet_uncond")
    velocity = path.predict(network.double(), expected["t"].double(), expected["x"].double())
    check(velocity, expected["out"].double())


@torch.no_grad()
def test_official_realuid_gives_the_original_velocity(tmp_path: Path) -> None:
    target = tmp_path / "teacher.safetensors"
    options: dict[str, Any] = {"image_size": 8, "num_head_channels": 32, "weights": "ema_models.0.999"}
    import_teacher(VALUES / "official_teacher.pt", target, **options)
    network, path = read_teacher(target)
    expected = load_file(VALUES / "official_teacher.pt.expected.safetensors")
    velocity = path.predict(network.double(), expected["t"].double(), expected["x"].double())
    check(velocity, expected["velocity_ema0999"].double())


FLOW_MATCHING: dict[str, dict[str, Any]] = {
    "cifar10": {"channel_mult": [2, 2], "resample": "pooling", "first_channels": 64, "attention_resolutions": [4]},
    "imagenet": {"channel_mult": [1, 2, 3], "resample": "block", "num_classes": 10, "null_label": True},
    "no attention": {"channel_mult": [1, 2], "resample": "block"},
    "one level": {"channel_mult": [1]},
}


@torch.no_grad()
@pytest.mark.parametrize("name", FLOW_MATCHING)
def test_flow_matching_is_the_unet_with_other_heads(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"attention_resolutions": [8] if name == "imagenet" else [], **FLOW_MATCHING[name]}
    original = acting(UNet(8, 3, 32, 1, num_head_channels=32, scales=True, **options)).eval()
    original.requires_grad_(False)  # as an imported one: linear layers that train round otherwise
    file = write_flow_matching(tmp_path / "checkpoint.pth", original, 32)
    network, path = imported(file, image_size=8, num_head_channels=32)
    assert network.recorded() == original.recorded()  # type: ignore[operator]
    t, x = torch.rand(3), torch.randn(3, 3, 8, 8)
    y = torch.tensor([0, 9, 10]) if original.num_classes else None
    assert torch.equal(path.predict(network, t, x, y), original(t, x, y))
    import_teacher(file, tmp_path / "raw.safetensors", image_size=8, num_head_channels=32, weights="model")
    raw = read_teacher(tmp_path / "raw.safetensors").network.state_dict()
    assert all(torch.equal(value, original.state_dict()[key] + 1) for key, value in raw.items())


@torch.no_grad()
@pytest.mark.parametrize("name", ["sit", "sit_velocity_only"])
def test_sit_gives_the_original_velocity(name: str, tmp_path: Path) -> None:
    weights, expected = values(f"foreign/{name}")
    save_file(weights, tmp_path / "bare.safetensors")
    target = tmp_path / "teacher.safetensors"
    import_teacher(tmp_path / "bare.safetensors", target, kind="sit", num_heads=4)
    network, path = read_teacher(target)
    check(path.predict(network, expected["t"], expected["x"], expected["y"]), expected["velocity"])


@torch.no_grad()
def test_a_dit_is_told_steps_and_predicts_noise(tmp_path: Path) -> None:
    """The same network, whose output is read as the noise of DDPM's steps: ``xt - b e`` over ``a`` is denoised."""
    network, path = imported(write_transformer(tmp_path / "dit.pt", "DiT"), num_heads=4)
    _, expected = values("foreign/sit")
    assert path.recorded() == DiffusionPath(VPSchedule(), parameterisation=Noise(time=DDPMSteps())).recorded()
    t, x, y = torch.full((4,), 0.5), expected["x"][:4], expected["y"][:4]
    a, b, *_ = path.schedule(t[:, None, None, None])
    step = DDPMSteps().of(path.schedule.sigma(t))
    torch.testing.assert_close(path.predict(network, t, x, y), (x - b * network(step, x, y)) / a)


@torch.no_grad()
def test_paths_of_sit_are_told_by_the_file(tmp_path: Path) -> None:
    network, path = imported(write_transformer(tmp_path / "sit.pt", path_type="GVP", prediction="noise"), num_heads=4)
    assert isinstance(path, FlowMatchingPath)
    _, expected = values("foreign/sit")
    t, x, y = torch.full((4,), 0.25), expected["x"][:4], expected["y"][:4]
    a, b = torch.sin(torch.pi / 2 * t), torch.cos(torch.pi / 2 * t)
    da, db = (torch.pi / 2 * each[:, None, None, None] for each in (b, -a))
    a, b, noise = a[:, None, None, None], b[:, None, None, None], network(t, x, y)
    torch.testing.assert_close(path.predict(network, t, x, y), da * (x - b * noise) / a + db * noise)
