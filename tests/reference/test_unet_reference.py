"""The UNet and the official checkpoints against values of the official implementation."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from realuid_lightning.checkpoints import load_official, load_strictly
from realuid_lightning.networks import UNet

VALUES = Path(__file__).parent / "values"
NETWORKS = {
    "unet_uncond": (8, 3, 32, 1, [1], [8], 32),
    "unet_cond": (8, 3, 32, 1, [1], [8], 32, 10),
    "unet_deep": (16, 3, 32, 2, [1, 2, 2], [8], 32),
}
CHECKPOINTS = {"official_teacher": "unet_uncond", "official_distilled_cond": "unet_cond"}

# The official attention rounds its softmax to float32 even in a float64 network, and that rounding depends on the
# machine: 3e-8 is as near as float64 can come, values being of order 1.
TOLERANCES = [(torch.float32, 1e-5), (torch.float64, 5e-8)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("name", NETWORKS)
def test_unet_gives_the_official_output(name: str, dtype: torch.dtype, tolerance: float) -> None:
    stored = load_file(VALUES / f"{name}.safetensors")
    x, t, expected, y = (stored.pop(f"__{key}", None) for key in ("x", "t", "out", "y"))
    network = UNet(*NETWORKS[name])
    load_strictly(network, stored, name)
    with torch.no_grad():
        output = network.to(dtype)(t.to(dtype), x.to(dtype), y)
    assert (output - expected).abs().max() < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_official_checkpoints_give_the_official_predictions(name: str, dtype: torch.dtype, tolerance: float) -> None:
    expected = load_file(VALUES / f"{name}.pt.expected.safetensors")
    network = UNet(*NETWORKS[CHECKPOINTS[name]])
    load_strictly(network, load_official(VALUES / f"{name}.pt", ema=0.999), name)
    network.to(dtype)
    x, t, y = expected["x"].to(dtype), expected["t"].to(dtype), expected.get("y")
    with torch.no_grad():
        velocity = network(t, x, y)
        one_step = x + network(torch.zeros_like(t), x, y)
    assert (velocity - expected["velocity_ema0999"]).abs().max() < tolerance
    assert (one_step - expected["one_step_ema0999"]).abs().max() < tolerance


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_official_weights_differ_by_average(name: str) -> None:
    first, second, raw = (load_official(VALUES / f"{name}.pt", ema)["out.2.weight"] for ema in (0.999, 0.9999, None))
    assert not torch.equal(first, second)
    assert not torch.equal(first, raw)
