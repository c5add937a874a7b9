"""Every shipped config runs: the real file, on tiny data and networks of its own kind, with nothing downloaded."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import checkpoint
from PIL import Image
from torch._dynamo.utils import counters

from realuid_lightning import paths
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.networks import UNet
from realuid_lightning.recorded import rebuild

CONFIGS = Path(__file__).parents[2] / "configs"
OVERLAYS = [Path("fast.yaml")]
FILES = sorted({file.relative_to(CONFIGS) for file in CONFIGS.rglob("*.yaml")} - set(OVERLAYS))

SHORT = [
    *("--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.enable_model_summary=false"),
    *("--model.network.width=32", "--data.batch_size=16", "--data.eval_samples=40"),
]


def settings(file):
    return yaml.safe_load((CONFIGS / file).read_text())


def images(folder, size):
    """Ten class folders with two images each."""
    generator = np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for index in range(2):
            pixels = generator.integers(0, 255, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{index}.png")
    return folder


def tiny(config, folder):
    """What makes a config small: an overlay, as a user would write one."""
    model = config["model"]["init_args"]
    overlay = {
        "trainer": {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1, "enable_model_summary": False},
        "model": {"init_args": {"eval_batch_size": 4}},
        "data": {"init_args": {"batch_size": 4, "eval_samples": 8, "num_workers": 0}},
    }
    network = dict(model["network"]["init_args"])
    if "model_channels" in network:
        size = network["image_size"] = 16
        small = {
            "image_size": size,
            "model_channels": 32,
            "num_res_blocks": 1,
            "attention_resolutions": [8],
            "num_head_channels": 32,
        }
        network |= small
        overlay["model"]["init_args"]["network"] = {"init_args": small}
        source = {
            "class_path": "ImageFolder",
            "init_args": {"root": str(images(folder / "images", size)), "size": size},
        }
        overlay["data"]["init_args"]["source"] = source
        if "origin" in config["data"]["init_args"]:
            overlay["data"]["init_args"]["origin"] = {"init_args": {"source": source}}
        overlay["fid"] = {"features": {"class_path": "RawFeatures", "init_args": {"shape": [3, size, size]}}}
    else:
        overlay["model"]["init_args"]["network"] = {"init_args": {"width": 32}}
        network["width"] = 32
    return overlay, rebuild({"class_path": model["network"]["class_path"], "init_args": network}, torch.nn.Module)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_config_runs(file, realuid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings(file)
    overlay, network = tiny(config, tmp_path)
    for option in ("teacher_ckpt", "generator_ckpt"):
        wanted = config["model"]["init_args"].get(option)
        if wanted is not None:  # stands for the run that the config begins from, at the place that it names
            provide(option, tmp_path / wanted, network, config["model"]["init_args"])
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    code, written = realuid("fit", "--config", CONFIGS / file, "--config", "tiny.yaml")
    assert code == 0, written
    run = tmp_path / config["trainer"]["default_root_dir"]
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "fid.jsonl").is_file()


# Dynamo looks at every attribute of its inputs; what it has compiled for other tests must not be in the way.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_config_runs_fast(demo, realuid, tmp_path, monkeypatch):
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.chdir(tmp_path)
    teacher = demo / "runs" / "demo" / "teacher" / "checkpoints" / "last.ckpt"
    words = ["--config", CONFIGS / "demo" / "distil.yaml", "--config", CONFIGS / "fast.yaml", *SHORT]
    code, written = realuid("fit", *words, f"--model.teacher_ckpt={teacher}")
    assert code == 0, written
    run = tmp_path / "runs" / "demo" / "distil"
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["trainer"]["precision"] == "bf16-mixed"
    assert stored["data"]["init_args"]["on_device"]
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert all(value.dtype != torch.bfloat16 for value in checkpoint["state_dict"].values())
    assert counters["stats"]["unique_graphs"] >= 5
    assert not counters["graph_break"]
    torch._dynamo.reset()


def built(setting):
    """Return the path that a config names, in short or in full."""
    name, arguments = (setting, {}) if isinstance(setting, str) else (setting["class_path"], setting["init_args"])
    arguments = {key: built(value) if key == "schedule" else value for key, value in arguments.items()}
    return getattr(paths, name)(**arguments)


def provide(option, file, network, options):
    """Write the checkpoint that a config begins from."""
    ema = options["teacher_ema" if option == "teacher_ckpt" else "generator_ema"]
    path = built(options["path"])
    if option == "teacher_ckpt":
        module = TeacherModule(network, path, ema=[ema])
    else:
        module = RealUIDModule(network, teacher_ckpt=None, path=path, ema=[ema])
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint(module), file)


@pytest.mark.parametrize("file", [*FILES, *OVERLAYS], ids=str)
def test_header_says_how_to_run_it(file):
    lines = (CONFIGS / file).read_text().splitlines()
    header = [line for line in lines if line.startswith("# ")]
    assert any("realuid fit " in line and f"--config configs/{file}" in line for line in header)
    assert any("Hardware:" in line for line in header)


@pytest.mark.parametrize(
    ("file", "alpha", "beta", "lr", "batch", "paper"),
    [
        ("cifar_uncond", 0.92, 0.94, 3e-5, 256, "2.23"),
        ("cifar_cond", 0.98, 0.96, 3e-5, 256, "1.91"),
        ("celeba", 0.90, 0.88, 5e-6, 64, "0.89"),
        ("fgm_cifar_uncond", 1.0, 1.0, 3e-5, 256, "2.58"),
        ("fgm_cifar_cond", 1.0, 1.0, 3e-5, 256, "2.21"),
        ("finetune_cifar_uncond", 0.92, 0.86, 1e-5, 256, "1.91"),
        ("finetune_cifar_cond", 0.94, 1.00, 1e-5, 256, "1.77"),
    ],
)
def test_published_recipe(file, alpha, beta, lr, batch, paper):
    config = settings(f"{file}.yaml")
    model = config["model"]["init_args"]
    assert (model["alpha"], model["beta"], model["fake_steps"], model["clip"]) == (alpha, beta, 5, 1.0)
    for role in ("fake", "generator"):
        assert model[f"{role}_optimizer"] == {
            "class_path": "torch.optim.Adam",
            "init_args": {"lr": lr, "betas": [0.0, 0.999], "fused": True},
        }
        assert model[f"{role}_schedule"]["init_args"]["steps"] == (1 if "finetune" in file else 500)
    assert config["data"]["init_args"]["batch_size"] == batch
    assert f"FID {paper}" in (CONFIGS / f"{file}.yaml").read_text()
    parameters = sum(parameter.numel() for parameter in UNet(**model["network"]["init_args"]).parameters())
    assert parameters == pytest.approx(35.7e6, rel=0.005)
