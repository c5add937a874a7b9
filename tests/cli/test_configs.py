"""Shipped configs run: real files of every kind, on tiny data and networks of their own kind, with nothing downloaded.

Those that differ from one that runs in numbers alone are checked as ``fit`` checks them (test_plan.py).
"""

import re

import numpy as np
import pytest
import torch
import yaml
from helpers import checkpoint
from PIL import Image
from shipped_configs import CLASSIFIERS, CONFIGS, FILES, FINETUNED, KINDS, OVERLAYS, ROWS, kind

from realuid_lightning.checkpoints import write_teacher
from realuid_lightning.cli.plan import checked_fit
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.networks import UNet
from realuid_lightning.paths import MatchingPath
from realuid_lightning.recorded import rebuild

BASES = sorted(CONFIGS.glob("experiments/*/distil.yaml"))

SHORT = [
    *("--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.enable_model_summary=false"),
    *("--model.network.width=32", "--data.batch_size=16", "--data.eval_samples=40"),
]


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
    """What makes a config small: an overlay, as a user would write one. The network follows from the smaller images."""
    overlay = {
        "trainer": {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1, "enable_model_summary": False},
        "model": {"network": {"width": 32}, "eval_batch_size": 1000},
        "data": {"batch_size": None, "global_batch_size": 4, "eval_samples": 8, "num_workers": 0},
    }
    data = config["data"]
    if config["model"]["class_path"] == "RealUIDModule" and "fake_steps" not in config["model"]["init_args"]:
        overlay["model"]["fake_steps"] = 1  # the five updates of the fake model are alike
    if "UNet" in str(config["model"]["init_args"]["network"]):
        small = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": [1], "attention_resolutions": [8]}
        overlay["model"] |= {"network": small | {"num_head_channels": 32}, "eval_batch_size": 4}
        options = {"root": str(images(folder / "images", 8)), "size": 8}
        options["in_memory"] = data.get("on_device", False)
        source = {"class_path": "ImageFolder", "init_args": options}
        overlay["data"]["source"] = source
        overlay["data"] |= {part: source for part in ("reference", "held_out") if part in data}
        if "origin" in data:
            overlay["data"]["origin"] = {"source": source}
        overlay["features"] = "RawFeatures"
    return overlay


@pytest.mark.parametrize("file", KINDS, ids=str)
def test_config_runs(file, realuid, resolved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--config", CONFIGS / file, "--config", "tiny.yaml"]
    overlay = tiny(yaml.safe_load((CONFIGS / file).read_text()), tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    config = resolved(*words)
    model = config["model"]["init_args"]
    for option in ("teacher_ckpt", "generator_ckpt"):
        if model.get(option) is not None:  # stands for the run that the config begins from, at the place that it names
            provide(option, tmp_path / model[option], model)
    code, written = realuid("fit", *words)
    assert code == 0, written
    run = tmp_path / "runs" / file.with_suffix("")
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "figures.jsonl").is_file()
    assert yaml.safe_load((run / "config.yaml").read_text()) == config


@pytest.mark.parametrize("file", ["ibmd_celeba.yaml", "teacher/cifar_cond.yaml", "demo/distil.yaml"])
def test_what_is_shown_gives_the_same_run(file, resolved, tmp_path):
    config = resolved("--config", CONFIGS / file)
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump(config))
    assert resolved("--config", tmp_path / "shown.yaml") == config


# Dynamo looks at every attribute of its inputs; what it has compiled for other tests must not be in the way.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_config_runs_fast(demo, realuid, tmp_path, monkeypatch, traced):
    """Traced alone: a compiler takes two minutes on a machine that is fresh, and is tried in test_speed.py."""
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
    graphs, breaks = traced()
    assert graphs >= 5
    assert not breaks


@pytest.mark.parametrize("row", [*ROWS, *FINETUNED], ids=str)
def test_rows_of_experiments_go_behind_their_bases(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        images(tmp_path / "data" / "cifar10" / part, 16)  # whose classes are counted
    base = CONFIGS / row.with_name("distil.yaml") if row in FINETUNED else BASES[ROWS.index(row) % len(BASES)]
    checked = checked_fit(["--config", str(base), "--config", str(CONFIGS / row), "--trainer.accelerator=cpu"])
    assert checked.model.micro_batches == checked.model.fake_steps + 1


@pytest.mark.parametrize("file", FINETUNED, ids=str)
def test_rows_begin_at_a_row_that_is_run_before_them_where_make_leaves_it(file):
    text, data = (CONFIGS / file).read_text(), file.parent.name
    place = yaml.safe_load(text)["model"]["generator_ckpt"]
    start = re.fullmatch(rf"runs/experiments/{data}/(\w+)/seed=0/checkpoints/last.ckpt", place)[1]
    assert made().index(start) < made().index(file.stem)
    assert f"--config configs/experiments/rows/{start}.yaml --folder runs/experiments/{data}/{start} seeds=0\n" in text
    assert "--folder runs/experiments/$$data/$$row" in (CONFIGS.parent / "Makefile").read_text()


def made():
    """Return the rows that `make experiments` runs, in their order."""
    return re.search(r"^ROWS := (.*)$", (CONFIGS.parent / "Makefile").read_text(), re.MULTILINE)[1].split()


def test_every_row_is_run_by_make():
    assert sorted(made()) == sorted({file.stem for file in (*ROWS, *FINETUNED)})


def test_bases_of_experiments_differ_in_numbers_so_that_rows_need_be_tried_behind_one():
    assert len({kind(yaml.safe_load(base.read_text())["model"]) for base in BASES}) == 1


def built(record, kind):
    """Return what resolved options name."""

    def complete(value):
        if not isinstance(value, dict):
            return value
        value = {key: complete(part) for key, part in value.items()}
        return {"init_args": {}, **value} if "class_path" in value else value

    return rebuild(complete(record), kind)


def provide(option, file, options):
    """Write the checkpoint that a config begins from."""
    ema = options["teacher_ema" if option == "teacher_ckpt" else "generator_ema"]
    network = built(options["network"], torch.nn.Module)
    path = None if options["path"] is None else built(options["path"], MatchingPath)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        write_teacher(network, path, file, {})
    elif option == "teacher_ckpt":
        torch.save(checkpoint(TeacherModule(network, path, ema=[ema])), file)
    else:
        torch.save(checkpoint(RealUIDModule(network, teacher_ckpt=None, path=path, ema=[ema])), file)


@pytest.mark.parametrize("file", [*FILES, *OVERLAYS, *CLASSIFIERS], ids=str)
def test_header_says_how_to_run_it(file):
    lines = (CONFIGS / file).read_text().splitlines()
    header = [line for line in lines if line.startswith("# ")]
    rows = {*ROWS, *FINETUNED}
    command = "realuid classifier " if file in CLASSIFIERS else "realuid sweep " if file in rows else "realuid fit "
    assert any(command in line and f"--config configs/{file}" in line for line in header)
    assert any("Hardware:" in line for line in header)


DECAYS = [0.999, 0.9996, 0.9999]


@pytest.mark.parametrize(
    ("file", "alpha", "beta", "lr", "batch", "micro_steps", "warmup", "start", "paper"),
    [
        ("cifar_uncond", 0.92, 0.94, 3e-5, 256, 800_000, 500, None, "2.23"),
        ("cifar_cond", 0.98, 0.96, 3e-5, 256, 800_000, 500, None, "1.91"),
        ("celeba", 0.90, 0.88, 5e-6, 64, 1_600_000, 500, None, "0.89"),
        ("fgm_cifar_uncond", 1.0, 1.0, 3e-5, 256, 800_000, 500, None, "2.58"),
        ("fgm_cifar_cond", 1.0, 1.0, 3e-5, 256, 800_000, 500, None, "2.21"),
        ("finetune_cifar_uncond", 0.92, 0.86, 1e-5, 256, None, 1, 0.999, "1.91"),
        ("finetune_cifar_cond", 0.94, 1.00, 1e-5, 256, None, 1, 0.9999, "1.77"),
    ],
)
def test_published_recipe(file, alpha, beta, lr, batch, micro_steps, warmup, start, paper, resolved):
    config = resolved("--config", CONFIGS / f"{file}.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (model["alpha"], model["beta"], model["gamma"]) == (alpha, beta, None)
    assert (model["fake_steps"], model["clip"], model["generator_ema"]) == (5, 1.0, start)
    assert model["ema"] == DECAYS
    for role in ("fake", "generator"):
        optimizer = model[f"{role}_optimizer"]
        assert {"lr": lr}.items() <= optimizer["init_args"].items()
        assert optimizer["class_path"] == "realuid_lightning.optimizers.RecipeAdam"
        assert model[f"{role}_schedule"]["class_path"] == "realuid_lightning.optimizers.Warmup"
        assert model[f"{role}_schedule"]["init_args"]["steps"] == warmup
    assert micro_steps is None or 0 <= 6 * config["trainer"]["max_steps"] - micro_steps < 6
    assert (data["batch_size"], data["global_batch_size"] or 256) == (None, batch)
    assert (data["eval_samples"], data["flip"]) == (50_000, True)
    assert f"FID {paper}" in (CONFIGS / f"{file}.yaml").read_text()
    check_network(model["network"], "_cond" in file, 0.0)
    assert data["labels"] == ("_cond" in file)


@pytest.mark.parametrize(
    ("file", "lr", "steps"), [("cifar_uncond", 2e-4, 400_000), ("cifar_cond", 2e-4, 400_000), ("celeba", 4e-5, 240_000)]
)
def test_published_teacher(file, lr, steps, resolved):
    config = resolved("--config", CONFIGS / "teacher" / f"{file}.yaml")
    trainer, model, data = config["trainer"], config["model"]["init_args"], config["data"]["init_args"]
    assert model["optimizer"]["class_path"] == "torch.optim.Adam"
    assert {"lr": lr, "betas": [0.9, 0.999], "weight_decay": 0.0}.items() <= model["optimizer"]["init_args"].items()
    assert model["schedule"]["init_args"]["steps"] == 5000
    assert (trainer["max_steps"], trainer["gradient_clip_val"], model["ema"]) == (steps, 1.0, DECAYS)
    assert (data["batch_size"], data["global_batch_size"] or 256) == (None, 256)
    assert (data["flip"], data["labels"]) == (True, "_cond" in file)
    check_network(model["network"], "_cond" in file, 0.1)


def check_network(spec, conditional, dropout):
    options = spec["init_args"]
    assert spec["class_path"] == "realuid_lightning.networks.UNet"
    assert options["num_classes"] == (10 if conditional else None)
    assert options["dropout"] == dropout
    with torch.device("meta"):  # they are counted, not drawn
        parameters = sum(parameter.numel() for parameter in UNet(**options).parameters())
    assert parameters == pytest.approx(35.7e6, rel=0.005)
