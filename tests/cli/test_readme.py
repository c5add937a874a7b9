"""What the README shows works as it stands there."""

import re
import sys
from pathlib import Path

import pytest
import torch

from realuid_lightning.testing import check_path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIGS = ROOT / "configs" / "demo"
TINY = ["--model.network.width=32", "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.eval_samples=16"]


@pytest.fixture
def mymodule(demo, monkeypatch):
    """The user's file, made of the README's blocks, in the folder where the user stands."""
    blocks = re.findall(r"```python\n(# mymodule\.py.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    (demo / "mymodule.py").write_text("\n\n".join(blocks))
    monkeypatch.chdir(demo)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "mymodule"
    sys.modules.pop("mymodule", None)


def test_a_path_of_the_users_own(mymodule, realuid):
    words = [
        "--config",
        CONFIGS / "teacher.yaml",
        *TINY,
        "--model.path=mymodule.ArcPath",
        "--trainer.default_root_dir=runs/arc",
    ]
    code, written = realuid("fit", *words)
    assert code == 0, written
    import mymodule as users

    check_path(users.ArcPath())
    record = torch.load("runs/arc/checkpoints/last.ckpt", weights_only=True)["realuid_lightning"]
    assert record["path"]["class_path"] == "mymodule.ArcPath"


def test_an_objective_of_the_users_own(mymodule, realuid):
    words = ["--config", CONFIGS / "distil.yaml", "--model=mymodule.MyModule", "--trainer.default_root_dir=runs/own"]
    own = [word for word in TINY if "val_check" not in word] + ["--trainer.val_check_interval=2"]
    code, written = realuid("fit", *words, *own)
    assert code == 0, written
    states = [
        torch.load(f"runs/{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in ("own", "demo/distil")
    ]
    key = next(key for key in states[0] if key.startswith("generator."))
    assert states[0].keys() == states[1].keys()
    assert key in states[1]


def test_every_command_and_file_that_it_names_exists(realuid):
    for file in re.findall(r"configs/[\w/{},]+\.yaml", README):
        names = (
            [file.replace(file[file.index("{") : file.index("}") + 1], name) for name in ("teacher", "distil")]
            if "{" in file
            else [file]
        )
        assert all((ROOT / name).is_file() for name in names), file
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in re.findall(r"`make (\w+)`", README))
    _, usage = realuid("--help")
    assert all(f"\n  {command} " in usage for command in re.findall(r"^realuid (\w+) ", README, flags=re.MULTILINE))
