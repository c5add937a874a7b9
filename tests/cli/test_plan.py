"""``realuid plan``: shipped configs of every make, on a machine without its devices, data or teacher; faults of fit."""

import re

import pytest
from PIL import Image
from shipped_configs import CONFIGS, MADE, OTHERS

from realuid_lightning.cli.plan import checked_fit, device_count

DISTIL = CONFIGS / "demo" / "distil.yaml"


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def asked(file, tmp_path_factory):
    """Words by which a config has images, and less of its UNet and of the five updates by default, which are alike."""
    config, words = (CONFIGS / file).read_text(), ["--config", str(CONFIGS / file)]
    if "class_path: RealUIDModule" in config and "fake_steps" not in config:
        words.append("--model.fake_steps=1")
    if "ImageFolder" in config:  # whose classes are its folders
        folder = tmp_path_factory.mktemp("images")
        for label in range(10):
            (folder / str(label)).mkdir()
            Image.new("RGB", (16, 16)).save(folder / str(label) / "image.png")
        words += [f"--data.{name}.root={folder}" for name in ("source", "held_out")]
    if "UNet" in config:  # the same kind of network
        words += ["--model.network.num_res_blocks=1", "--model.network.channel_mult=[1]"]
        size = 64 if "CelebA" in config else int(found[1]) if (found := re.search(r"\bsize: (\d+)", config)) else 32
        words += [f"--model.network.attention_resolutions=[{size}]"]
    return words


@pytest.mark.parametrize("file", MADE, ids=str)
def test_a_config_of_every_make_is_planned(file, realuid, tmp_path, tmp_path_factory):
    code, written = realuid("plan", *asked(file, tmp_path_factory))
    assert code == 0, written
    for title in ("Networks", "Memory of each device", "Work of all devices", "Disk", "Not judged"):
        assert title in written
    distilling = "class_path: RealUIDModule" in (CONFIGS / file).read_text()
    assert ("generator pass" in written) == distilling
    assert not list(tmp_path.iterdir())  # nothing downloaded, nothing written


@pytest.mark.parametrize("file", OTHERS, ids=str)
def test_every_other_config_is_sound(file, tmp_path, tmp_path_factory):
    checked_fit(asked(file, tmp_path_factory))
    assert not list(tmp_path.iterdir())


def test_checkpoints_that_a_run_begins_from_are_not_needed_yet(realuid):
    words = [f"--model.{role}_ckpt=nowhere/{role}.ckpt" for role in ("teacher", "generator")]
    code, written = realuid("plan", "--config", DISTIL, *words)
    assert code == 0, written


def test_the_published_run_at_its_full_size(realuid):
    words = ["--trainer.accelerator=gpu", "--trainer.devices=8", "--trainer.strategy=ddp_per_network"]
    code, written = realuid("plan", "--config", CONFIGS / "cifar_uncond.yaml", *words, "--device_memory=80GB")
    assert code == 0, written
    assert "8 under PerNetworkDDP, precision 32-true" in written
    assert "35,746,307" in written
    assert "214,477,842" in written
    assert "DDP's copies of gradients" not in written  # they are views of what is sent
    assert "It fits" in written


def test_a_strategy_that_copies_gradients_holds_them_twice(realuid):
    words = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp_find_unused_parameters_true"]
    code, written = realuid("plan", "--config", DISTIL, *words)
    assert code == 0, written
    assert "gradients in turn" in written
    assert "DDP's copies of gradients" in written


def test_what_does_not_fit_is_told(realuid):
    code, written = realuid("plan", "--config", DISTIL, "--model.network.width=256", "--device_memory=26MiB")
    assert code == 0, written
    assert "It does not fit: 27.17 MiB, and a device has 26.00 MiB. Smaller are: data.batch_size," in written


def test_the_plan_of_a_run_that_has_begun(demo, realuid, monkeypatch):
    monkeypatch.chdir(demo)
    assert realuid("plan", "--config", "runs/demo/distil/config.yaml")[0] == 0


def test_a_run_that_epochs_limit_has_work(realuid):
    words = ["--trainer.max_steps=-1", "--trainer.max_epochs=3", "--trainer.limit_train_batches=40"]
    words += ["--trainer.val_check_interval=1.0", "--trainer.check_val_every_n_epoch=1"]
    code, written = realuid("plan", "--config", DISTIL, *words)
    assert code == 0, written
    rows = {cells[1].strip(): cells[2].strip() for line in written.splitlines() if len(cells := line.split("│")) > 3}
    assert rows["fake pass"] == "600"
    assert rows["generator pass"] == "120"
    assert "inf" not in written


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--model.alpha=2", "--model.clip=0", "--data.batch_size=0", "--grid.count=0", "--checkpoint.keep=-2"],
            ["alpha must", "clip must", "batch_size must", "count must", "keep must"],
        ),
        (["--model.alhpa=0.9"], ["'alhpa' is not accepted"]),
        (["--model.evaluate=[ema_0.5]"], ["evaluate names 'ema_0.5'"]),
        (["--data.labels=false", "--model.network.num_classes=9"], ["one of 9 classes, but data.labels is false"]),
        (["--trainer.precision=16-mixed", "--trainer.accelerator=gpu"], ["trainer.precision is 16-mixed"]),
        (["--trainer.strategy=ddp", "--trainer.devices=2"], ["the fake model and the generator train in turn"]),
        (["--checkpoint.monitor=fid/no"], ["monitor names 'fid/no'"]),
        (["--features=RawFeatures", "--features.shape=[3,8,8]"], ["raw values (192)"]),
        (["--trainer.max_steps=-1", "--trainer.max_epochs=2"], ["has no end"]),
        (["--device_memory=much"], ["expected a size such as 24GiB, 80GB or 512MiB, got 'much'"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_faults_are_those_of_fit(words, expected, realuid):
    code, written = realuid("plan", "--config", DISTIL, *words)
    assert code == 2, written
    for word in expected:
        assert written.count(word) == 1, written
    assert "Traceback" not in written


def test_a_network_that_needs_numbers_to_be_built(realuid, tmp_path, monkeypatch):
    (tmp_path / "stubborn.py").write_text(
        "import torch\n"
        "from realuid_lightning.networks import MLP\n"
        "class Stubborn(MLP):\n"
        "    def __init__(self, shape: list[int], width: int = 32) -> None:\n"
        "        super().__init__(shape, width=width)\n"
        "        assert float(torch.ones(3).sum()) == 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--model.network=stubborn.Stubborn", "--model.network.shape=[1,8,8]", "--model.network.width=32"]
    code, written = realuid("plan", "--config", DISTIL, *words)
    assert code == 0, written


@pytest.mark.parametrize(
    ("gpu", "devices", "expected"),
    [(True, 8, 8), (True, "8", 8), (True, [0, 3], 2), (True, "0,1,2", 3), (False, "auto", 1), (False, -1, 1)],
)
def test_devices_are_counted(gpu, devices, expected):
    assert device_count(gpu, devices) == expected
