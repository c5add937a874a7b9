"""What the README shows works as it stands there."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import lightning
import pytest
import torch
from helpers import trainer
from lightning import Trainer

from realuid_lightning import MatchingDataModule, RealUIDModule, TeacherModule, default_callbacks, load_generator
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
    for name in ("arc_path", "early_objective", "own_parts"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["python_first", "arc_path", "early_objective"])
def test_the_readme_shows_the_examples_as_they_are(name):
    (shown,) = re.findall(rf"```python\n# examples/{name}\.py\n(.*?)```", README, flags=re.DOTALL)
    assert (ROOT / "examples" / f"{name}.py").read_text().endswith(shown)


def test_it_opens_with_a_program_that_runs(tmp_path, monkeypatch):
    class Short(Trainer):
        def __init__(self, **options):
            super().__init__(**{**options, "max_steps": 2, "val_check_interval": 2, "limit_val_batches": 1})

    monkeypatch.setattr(lightning, "Trainer", Short)
    monkeypatch.chdir(tmp_path)
    program = runpy.run_path(str(ROOT / "examples" / "python_first.py"))
    assert program["samples"].shape == (64, 1, 8, 8)
    for folder in ("teacher", "student"):
        assert (tmp_path / "runs" / folder / "figures.jsonl").is_file()
        assert list((tmp_path / "runs" / folder / "samples").rglob("*.png"))
    (shown,) = re.findall(r"```python\n# examples/python_first\.py\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in shown.splitlines() if line]) <= 15
    assert README.index(shown) < README.index("\n## ")


def test_the_readme_shows_a_config_as_it_is():
    (shown,) = re.findall(r"```yaml\n(trainer:.*?)```", README, flags=re.DOTALL)
    text = (ROOT / "configs" / "cifar_uncond.yaml").read_text()
    assert re.sub(r"^#.*\n", "", text, flags=re.MULTILINE) == shown


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


def test_parts_of_the_users_own(examples, tmp_path):
    sys.path.append(str(examples))
    from own_parts import UID, Net, Radius, Ring

    network = Net()
    for name, module in (
        ("teacher", TeacherModule(network)),
        ("student", RealUIDModule(network, None, objective=UID())),
    ):
        data = MatchingDataModule(Ring(), batch_size=16, eval_samples=16)
        callbacks = default_callbacks(Radius(), progress=False)
        trainer(tmp_path / name, callbacks=callbacks, max_steps=2, val_check_interval=2).fit(module, data)
        assert (tmp_path / name / "figures.jsonl").is_file()
    generator = load_generator(tmp_path / "student" / "checkpoints" / "last.ckpt", ema=0.999)
    assert generator(torch.randn(5, 2)).shape == (5, 2)


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
