"""What the README shows works as it stands there."""

import re
import shutil
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
def examples(tmp_path, monkeypatch):
    """The folder of examples as a user has it, beside the configs and outside the package."""
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("runs", "__pycache__"))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    for name in ("arc_path", "early_objective"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["arc_path", "early_objective"])
def test_the_readme_shows_the_examples_as_they_are(name):
    (shown,) = re.findall(rf"```python\n# examples/{name}\.py\n(.*?)```", README, flags=re.DOTALL)
    assert (ROOT / "examples" / f"{name}.py").read_text().endswith(shown)


def commands(first, last):
    """The commands that the README shows between two of its lines, as words."""
    block = README[README.index(first) : README.index(last)]
    return [line.split()[1:] for line in block.splitlines() if line.startswith("realuid fit ")]


def test_a_path_of_the_users_own(examples, realuid):
    teacher, distil = commands("# examples/arc_path.py", "# examples/early_objective.py")
    for words in (teacher, distil):
        code, written = realuid(*words, *TINY)
        assert code == 0, written
    import arc_path

    check_path(arc_path.ArcPath())
    assert len((examples / "arc_path.py").read_text().splitlines()) < 20
    for run in ("arc", "arc_distil"):
        record = torch.load(f"runs/{run}/checkpoints/last.ckpt", weights_only=True)["realuid_lightning"]
        assert record["path"]["class_path"] == "arc_path.ArcPath"


def test_an_objective_of_the_users_own(examples, realuid):
    shutil.rmtree("runs", ignore_errors=True)  # the commands make all that they need
    teacher, early = commands("# examples/early_objective.py", "## Several GPUs")
    for words in (teacher, early, [*early[:3], "--trainer.default_root_dir=runs/plain"]):
        code, written = realuid(*words, *TINY)
        assert code == 0, written
    early, plain = (
        torch.load(f"runs/{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in ("early", "plain")
    )
    assert early.keys() == plain.keys()
    # The same draws and the same start, so the objective alone tells them apart.
    assert any(not torch.equal(early[key], plain[key]) for key in early if key.startswith("generator."))
    assert all(torch.equal(early[key], plain[key]) for key in early if key.startswith("teacher."))


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
