"""Runs of a sweep are processes here that do what they are told: end well, fail, or wait for a signal."""

import os
import signal
import sys
import threading
import time

import pytest

from realuid_lightning.errors import UserError
from realuid_lightning.sweeping import Runner, Sweep, check_unchanged, parse_factors, read_state

RUN = """
import os, signal, sys, time
from pathlib import Path
words = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = Path(words["trainer.default_root_dir"])
kind, times = words.get("model.kind", "fine"), folder / "times"
first = not times.exists()
with times.open("a") as file:
    file.write(f"{time.time()}\\n")
print("first line\\nlast \\x1b[31mline", flush=True)
if kind == "failing":
    raise SystemExit(3)
if kind == "killed" and first:
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "slow" and first:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    (folder / "waiting").touch()
    time.sleep(60)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "a.yaml").write_text("trainer: {max_steps: 1}\n")
    return [sys.executable, "-S", str(tmp_path / "run.py")]


def tasks_of(tmp_path, *words, **options):
    sweep = Sweep(tmp_path / "sweep", ("--config", str(tmp_path / "a.yaml")), **options)
    return sweep.folder, sweep.tasks(parse_factors(words))


def begun(folder, name):
    return len((folder / name / "times").read_text().splitlines())


def test_what_fails_or_is_killed_stops_no_other_and_is_tried_again(tmp_path, script, capfd):
    folder, tasks = tasks_of(tmp_path, "model.kind=failing,fine,killed")
    assert Runner(folder, 2, script).run(tasks) == ["kind=failing", "kind=killed"]
    written = capfd.readouterr()
    assert "kind=failing: failed: exit code 3" in written.err
    assert "last ?[31mline" in written.err
    assert "kind=killed: failed: exit code -9" in written.err
    assert "kind=fine: done in 0 s, 1 of 3" in written.out
    assert [read_state(folder, task) for task in tasks] == ["begun", "done", "begun"]
    assert Runner(folder, 1, script).run(tasks) == ["kind=failing"]
    assert [begun(folder, task.name) for task in tasks] == [2, 1, 2]
    assert "1 of 3 runs are done already" in capfd.readouterr().out
    assert "--ckpt_path=resume" in tasks[2].words


def test_cells_wait_for_their_teacher_and_fall_with_it(tmp_path, script):
    teacher = "--config", str(tmp_path / "a.yaml")
    folder, tasks = tasks_of(tmp_path, "seeds=0", "model.alpha=0.9,1", teacher=teacher)
    assert Runner(folder, 3, script).run(tasks) == []
    starts = [float((folder / task.name / "times").read_text()) for task in tasks]
    assert starts[0] == min(starts)
    folder, tasks = tasks_of(tmp_path, "seeds=1", "model.alpha=0.9", teacher=(*teacher, "--model.kind=failing"))
    assert Runner(folder, 3, script).run(tasks) == ["teacher/seed=1", tasks[1].name]
    assert not (folder / tasks[1].name).exists()


def test_a_signal_is_passed_on_and_the_rest_is_left_for_later(tmp_path, script):
    folder, tasks = tasks_of(tmp_path, "model.kind=slow,fine")
    former = signal.getsignal(signal.SIGTERM)

    def stop():
        while not (folder / "kind=slow" / "waiting").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as caught:
        Runner(folder, 1, script).run(tasks)
    thread.join()
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == former
    assert [read_state(folder, task) for task in tasks] == ["begun", "new"]
    assert Runner(folder, 1, script).run(tasks) == []
    assert [begun(folder, task.name) for task in tasks] == [2, 1]


def test_a_config_that_changes_during_a_run_is_not_what_it_was_begun_with(tmp_path, script):
    folder, tasks = tasks_of(tmp_path, "model.kind=fine")
    (tmp_path / "run.py").write_text(f"{RUN}\n(folder.parents[1] / 'a.yaml').write_text('trainer: {{max_steps: 9}}')\n")
    assert Runner(folder, 1, script).run(tasks) == []
    assert read_state(folder, tasks[0]) == "done"
    with pytest.raises(UserError, match="other config files"):
        check_unchanged(folder, tasks)


def test_runs_of_other_words_or_configs_are_told(tmp_path, script):
    folder, tasks = tasks_of(tmp_path, "model.kind=fine")
    Runner(folder, 1, script).run(tasks)
    check_unchanged(folder, tasks)
    (tmp_path / "a.yaml").write_text("# the same\ntrainer:\n  max_steps: 1\n")
    check_unchanged(folder, tasks)
    others = [
        tasks[0]._replace(
            words=tuple(word.replace("--model.kind=fine", "--model.kind=other") for word in tasks[0].words)
        )
    ]
    with pytest.raises(UserError, match=r"kind=fine was begun with --model\.kind=fine\n.*another --folder"):
        check_unchanged(folder, others)
    (tmp_path / "a.yaml").write_text("trainer: {max_steps: 2}\n")
    with pytest.raises(UserError, match="other config files"):
        check_unchanged(folder, tasks)
    (folder / tasks[0].name / "sweep.json").write_text("{")
    assert read_state(folder, tasks[0]) == "begun"
