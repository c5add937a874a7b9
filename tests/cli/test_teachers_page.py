"""docs/teachers.md works as it stands there, with small files of the names that it shows."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from foreign_files import VALUES, values, write_edm, write_flow_matching, write_torchcfm
from helpers import acting
from PIL import Image

from realuid_lightning import load_generator
from realuid_lightning.cli.importing import OPTIONS
from realuid_lightning.importing import KINDS
from realuid_lightning.networks import UNet

PAGE = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))
TINY = "--trainer.max_steps=1 --trainer.limit_val_batches=0 --trainer.enable_model_summary=false --data.batch_size=4"
TINY += " --features=RawFeatures --model.fake_steps=1"


def write_sit(file):
    torch.save(values("foreign/sit")[0], file)


def write_fm(file):
    network = acting(UNet(8, 3, 32, 1, [2], [8], 32, first_channels=64, scales=True))
    write_flow_matching(file, network, 32)


SMALL = {  # the file, what it needs at this size beside the words of the page, and the shape of its samples
    "EDM": (lambda file: write_edm("edm_ddpmpp_cond", file), [], (3, 16, 16)),
    "EDM2": (lambda file: write_edm("edm2_cond", file), [], (4, 16, 16)),
    "torchcfm": (write_torchcfm, ["--num_head_channels=32"], (3, 8, 8)),
    "RealUID": (lambda file: shutil.copy(VALUES / "official_teacher.pt", file), ["--num_head_channels=32"], (3, 8, 8)),
    "flow_matching": (write_fm, ["--num_head_channels=32"], (3, 8, 8)),
    "SiT": (write_sit, ["--num_heads=4"], (4, 8, 8)),
    "DiT": (write_sit, ["--num_heads=4"], (4, 8, 8)),
}


def block(kind, text):
    (found,) = re.findall(rf"```{kind}\n(.*?)```", text, flags=re.DOTALL)
    return found


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("latents", None)


def write_data(folder, shape):
    """Write the page's config, and the images or latents that it reads."""
    size, rng = shape[-1], np.random.default_rng(0)
    config = block("yaml", PAGE[: PAGE.index("\n## ")]).replace("size: 32", f"size: {size}")
    (folder / "distil.yaml").write_text(config)
    for number in range(20):
        image = folder / "photos" / str(number % 10) / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(image)
    source = block("python", SECTIONS["EDM2"]).replace("(4, 64, 64), 1000", f"{shape}, 10")
    (folder / "latents.py").write_text(source)
    torch.save((torch.randn(20, *shape), torch.arange(20) % 10), "latents.pt")


@pytest.mark.parametrize("name", SMALL)
def test_from_the_foreign_file_to_the_exported_generator(name, here, realuid):
    write, more, shape = SMALL[name]
    write_data(here, shape)
    lines = [line.split()[1:] for line in block("bash", SECTIONS[name]).splitlines()]
    assert [line[0] for line in lines] == ["import", "fit", "export"]
    write(here / lines[0][1])
    size = ["--image_size", str(shape[-1])] if "--image_size" in lines[0] else []
    average = ["--weights", "ema_models.0.999"] if "--weights" in lines[0] else []
    for words, added in zip(lines, ([*more, *size, *average], TINY.split(), []), strict=True):
        code, written = realuid(*words, *added)
        assert code == 0, written
    conditional = name not in ("torchcfm", "RealUID", "flow_matching")
    generator = load_generator("generator.safetensors")
    y = torch.tensor([1, 2]) if conditional else None
    assert generator(torch.randn(2, *shape), y).isfinite().all()
    stored = yaml.safe_load((here / "runs" / "distil" / "config.yaml").read_text())["model"]["init_args"]
    assert stored["network"]["init_args"]
    assert stored["path"]["class_path"].endswith(
        "FlowMatchingPath" if shape == (3, 8, 8) or name == "SiT" else "DiffusionPath"
    )


def test_the_page_names_every_option_and_every_kind():
    # The former has a test of its own, the latter a page.
    assert SECTIONS.keys() - SMALL.keys() == {"Fine-tune first", "diffusers"}
    table = PAGE[: PAGE.index("\n## ")]
    assert all(f"`--{name}" in table for name in OPTIONS)
    assert {name for kind in KINDS for name in kind.options} == OPTIONS.keys() - {"kind", "weights"}
    assert "PARITY" not in PAGE
