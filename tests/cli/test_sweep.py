"""``realuid sweep``, as a user types it."""

import json
import sys
from pathlib import Path

import processes
import pytest
from PIL import Image

from realuid_lightning.cli import main
from realuid_lightning.sweeping import runner

CONFIGS = Path(__file__).parents[2] / "configs" / "toy2d"
TINY = """
trainer: {max_steps: 2, val_check_interval: 2, enable_model_summary: false, logger: false}
model: {init_args: {network: {init_args: {width: 16, depth: 1}}}}
data: {batch_size: 16, eval_samples: 40, source: {init_args: {size: 100}}}
"""
FILES = "--config", str(CONFIGS / "distil.yaml"), "--config=tiny.yaml"
TEACHER = "--teacher", str(CONFIGS / "teacher.yaml"), "--teacher", "tiny.yaml"
WORDS = (*FILES, *TEACHER, "--folder=out", "model.alpha=0.9,1", "ratio=0.98,1", "--jobs=2", "seeds=5")


def forked(command, log, environment):
    """Start what a sweep does as a process that has imported everything."""
    script = Path(sys.executable).with_name("realuid")
    return processes.Process(script, command[3:], environment | {"OMP_NUM_THREADS": "1"}, None, log, log)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder in which a sweep of two by two cells is done; tests may read it."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(runner, "start", forked)
        patch.setattr(sys, "argv", ["realuid"])
        (folder / "tiny.yaml").write_text(TINY)
        logs = folder / "out"
        assert main(["sweep", *WORDS]) == 0, "\n".join(log.read_text() for log in logs.rglob("log.txt"))
    return folder


@pytest.fixture
def inside(swept, monkeypatch):
    monkeypatch.chdir(swept)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(runner, "start", lambda *_: pytest.fail("nothing is to be run"))
    return swept


def test_a_grid_is_run_measured_and_drawn(inside, realuid):
    names = {folder.name for folder in (inside / "out").iterdir() if folder.is_dir()}
    cells = [f"alpha={alpha},ratio={ratio},seed=5" for alpha in ("0.9", "1") for ratio in ("0.98", "1")]
    assert names == {"teacher", *cells}
    config = (inside / "out" / "alpha=0.9,ratio=0.98,seed=5" / "config.yaml").read_text()
    for option in ("seed_everything: 5", "alpha: 0.9", "beta: 0.882", "teacher/seed=5/checkpoints/last.ckpt"):
        assert option in config
    code, written = realuid("sweep", *WORDS)
    assert code == 0, written
    assert "5 of 5 runs are done already" in written
    assert "out: 5 of 5 runs done" in written
    assert "precision, mean ± standard error" in written
    assert len([line for line in written.splitlines() if line.startswith("│")]) == 4
    with Image.open(inside / "out" / "precision.png") as picture:
        picture.verify()


def test_a_job_of_an_array_runs_its_own_cell(inside, realuid, monkeypatch):
    words = [word.replace("--folder=out", "--folder=array") for word in WORDS]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    code, written = realuid("sweep", *words, "--array")
    assert code == 2
    assert "needs its teacher, teacher/seed=5: submit --array=0-0 first" in written
    assert "--array=1-4" in written
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    code, written = realuid("sweep", *words, "--array")
    assert code == 0, written
    assert [file.parent.name for file in Path("array").rglob("last.ckpt")] == ["checkpoints"]
    assert json.loads(Path("array/teacher/seed=5/sweep.json").read_text())["state"] == "done"
    assert realuid("sweep", *words, "--array") == (0, "teacher/seed=5: done already\n")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    assert "the array must be 0-4" in realuid("sweep", *words, "--array")[1]
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert "sbatch --array=0-4" in realuid("sweep", *words, "--array")[1]
    code, written = realuid("sweep", *words, "--show")
    assert code == 2
    assert "1: alpha=0.9,ratio=0.98,seed=5 (new)" in written
    assert "no run in array is done" in written


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seeds=0"], ["expected --config FILE"]),
        (["--config=gone.yaml", "--teacher=lost.yaml", "seeds=0"], ["gone.yaml: no such", "lost.yaml: no such"]),
        ([*FILES, "model.alpha=2,0.9", "model.divergence=null,SiDD"], ["alpha must be in"]),
        ([*FILES, "model.alpha=0.9,2", "model.divergence=null,SiDD"], ["alpha must be in", "SiDD"]),
        ([*FILES, "model.alhpa=0.9"], ["alhpa"]),
        ([*FILES, "--model.alpha=1", "model.alpha=0.9"], ["model.alpha is a factor and an option"]),
        ([*FILES, "--seed_everything", "3", "seeds=0"], ["seed_everything is a factor and an option"]),
        ([*FILES, "--ckpt_path=last", "seeds=0"], ["it sets ckpt_path itself"]),
        ([*FILES, *TEACHER, "model.teacher_ckpt=a,b"], ["it sets model.teacher_ckpt itself"]),
        ([*FILES, "--jobs=0", "seeds=0"], ["jobs"]),
        (["--config", str(CONFIGS / "teacher.yaml"), "ratio=1,2"], ["TeacherModule has none"]),
        ([*FILES, "--folder=out", *WORDS[-4:-2], "seeds=5"], ["was begun with", "choose another --folder"]),
        ([*FILES, "--folder=out", "--show", "seeds=8"], ["no run in out is done"]),
    ],
)
def test_mistakes_are_told_before_anything_starts(words, told, inside, realuid):
    code, written = realuid("sweep", *words)
    assert code == 2, written
    assert all(part in written for part in told), written
    assert "Traceback" not in written
    assert not (inside / "runs").exists()
