"""A teacher that is trained further, as docs/teachers.md shows it and a user types it."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from helpers import mlp, same, shaken

from realuid_lightning.checkpoints import write_teacher
from realuid_lightning.cli.card import Export, Licences, card
from realuid_lightning.paths import DiffusionPath, FlowMatchingPath
from realuid_lightning.reporting.lineage import ancestors

PAGE = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text()
(SECTION,) = re.findall(r"^## Fine-tune first\n(.*?)^## ", PAGE, flags=re.DOTALL | re.MULTILINE)
SMALL = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.enable_model_summary=false"]
SMALL += ["--data.source=Digits", "--data.batch_size=4", "--data.eval_samples=8", "--features=RawFeatures"]


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """The network of the file that the page names; configs are beside it."""
    monkeypatch.chdir(tmp_path)
    network = shaken(mlp())
    write_teacher(network, DiffusionPath(sigma_data=0.7), "teacher.safetensors", {})
    for name, page in (("distil", PAGE), ("tune", SECTION)):
        (config,) = re.findall(rf"```yaml\n(# {name}\.yaml\n.*?)```", page, flags=re.DOTALL)
        Path(f"{name}.yaml").write_text(config)
    return network


def weights_of(file, prefix):
    state = torch.load(file, weights_only=True)["state_dict"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def test_the_page_measures_a_teacher_trains_it_further_and_distils_it(teacher, tmp_path, realuid):
    (block,) = re.findall(r"```bash\n(.*?)```", SECTION, flags=re.DOTALL)
    commands = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    # Steps that move nothing, for the weights to be seen through all runs.
    for words, more in zip(commands, (["--model.sampling_steps=[1]"], ["--model.optimizer.lr=0"], []), strict=True):
        off = ["--trainer.val_check_interval=1"] if words[0] == "validate" else ["--trainer.limit_val_batches=0"]
        code, written = realuid(*words, *SMALL, *off, *more)
        assert code == 0, written
    rows = [json.loads(line) for line in Path("runs/before/figures.jsonl").read_text().splitlines()]
    assert {(row["step"], row["checkpoint"]) for row in rows} == {(0, "teacher.safetensors")}
    last = tmp_path / "runs" / "tune" / "checkpoints" / "last.ckpt"
    assert same(weights_of(last, "network."), teacher.state_dict())
    assert same(weights_of(tmp_path / "runs/distil/checkpoints/last.ckpt", "teacher.network."), teacher.state_dict())
    options = yaml.safe_load(Path("runs/tune/config.yaml").read_text())["model"]["init_args"]
    assert options["network"]["init_args"]["width"] == 16
    assert options["path"]["init_args"]["sigma_data"] == 0.7
    Path("teacher.safetensors").unlink()  # what goes on needs it no more
    code, written = realuid("fit", "--config=runs/tune/config.yaml", "--ckpt_path=last", "--trainer.max_steps=2")
    assert code == 0, written
    assert torch.load(last, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--model.path=FlowMatchingPath", "teacher.safetensors: made on the path DiffusionPath"),
        ("--model.teacher_ckpt=null", "network is left out, and no teacher_ckpt describes one: set one of them"),
    ],
)
def test_what_does_not_fit_is_told_before_any_training(teacher, realuid, option, words):
    code, written = realuid("fit", "--config", "tune.yaml", *SMALL, option)
    assert code == 2
    assert words in written
    assert not Path("runs/tune/checkpoints").exists()


def test_a_card_names_all_that_its_teacher_began_at_and_a_circle_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = {"distil": "tune/checkpoints/last.ckpt", "tune": "edm/checkpoints/last.ckpt", "edm": "edm.safetensors"}
    for run, file in begun.items():
        (tmp_path / run).mkdir()
        (tmp_path / run / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"teacher_ckpt": file}}}))
    record = {"network": None, "path": FlowMatchingPath().recorded(), "sampling_steps": 1}
    made = Export(tmp_path / "distil/checkpoints/last.ckpt", Path("x.pt2"), "torch", None, "float32", record, False, 4)
    told = "| teacher | tune/checkpoints/last.ckpt; licence: unknown |\n| which began at | edm/checkpoints/last.ckpt |"
    assert f"{told}\n| which began at | edm.safetensors |" in card(made, Licences())
    (tmp_path / "edm" / "config.yaml").write_text((tmp_path / "distil" / "config.yaml").read_text())
    assert ancestors(tmp_path / "distil") == [*begun.values()][:2]
