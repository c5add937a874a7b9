"""Signals to real processes: the state is whole, and the resumed run ends as if nothing had been."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import processes
import pytest
import torch

CONFIGS = Path(__file__).parents[2] / "configs" / "demo"
STEPS = 300
TINY = [
    *("--config", CONFIGS / "teacher.yaml", f"--trainer.max_steps={STEPS}", "--trainer.val_check_interval=60"),
    *("--model.network.width=32", "--data.batch_size=16", "--data.eval_samples=24", "--checkpoint.every=7"),
    *("--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=50", "--trainer.enable_progress_bar=false"),
]
TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp_find_unused_parameters_true"]
REALUID = Path(sys.executable).with_name("realuid")


@pytest.fixture(autouse=True)
def no_survivors():
    """End what a failed test has left."""
    yield
    for run in Run.started:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()
    Run.started.clear()


def heedful():
    """Let Ctrl-C count also where the tests run in the background of a shell, which has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def asked(folder, *words, command="fit", checkpoint="resume"):
    return [command, *TINY, *words, f"--trainer.default_root_dir={folder}", f"--ckpt_path={checkpoint}"]


class Run:
    """``realuid fit``, or another command, as a process in a group of its own, which launches the others itself."""

    started: ClassVar = []

    def __init__(self, folder, *words, command="fit", checkpoint="resume", fresh=False):
        self.last = folder / "checkpoints" / "last.ckpt"
        self.log = folder.with_suffix(".log")
        self.log.touch()
        words = asked(folder, *words, command=command, checkpoint=checkpoint)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if fresh:  # as in a shell, from the first import on
            with self.log.open("a") as log:
                options = {"stdout": log, "stderr": log, "start_new_session": True, "cwd": folder.parent}
                options["preexec_fn"] = heedful
                self.process = subprocess.Popen(list(map(str, [REALUID, *words])), env=environment, **options)
        else:
            self.process = processes.Process(REALUID, words, environment, folder.parent, self.log, self.log)
        self.started.append(self)

    def progress(self):
        """Wait until it has written a checkpoint of its own."""
        before = self.last.stat().st_mtime_ns if self.last.exists() else None
        end = time.monotonic() + 240  # of a busy machine
        while not self.last.exists() or self.last.stat().st_mtime_ns == before:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)
        return self

    def child(self):
        """Return the process that it has launched."""
        return next(
            int(pid)
            for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            if str(REALUID) in Path(f"/proc/{pid}/cmdline").read_text()
        )

    def end(self):
        code = self.process.wait(240)
        assert "Traceback" not in self.log.read_text(), self.log.read_text()
        return code


def fits(file):
    try:
        return file.write(bytes(2**12))
    except OSError:
        return 0


def content(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same(run, other):
    one, two = content(run), content(other)
    assert one["global_step"] == two["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(one[part], two[part], rtol=0, atol=0)
    rows = [sorted(set((folder / "figures.jsonl").read_text().splitlines())) for folder in (run, other)]
    assert rows[0] == rows[1]


def test_each_signal_stops_a_run_and_the_resumed_one_ends_the_same(tmp_path, realuid):
    # Measured at the ends alone, in this process: where types are checked metrics are others, which a run tells.
    chance, late = random.Random(0), f"--trainer.val_check_interval={STEPS}"
    for number, code in ((signal.SIGUSR1, 138), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        run = Run(tmp_path / "stopped", late).progress()
        time.sleep(chance.random() / 5)
        run.process.send_signal(number)
        assert run.end() == code, run.log.read_text()
        stopped = content(tmp_path / "stopped")["global_step"]
        assert f"{number.name}: stopped at step {stopped}, saved" in run.log.read_text()
        assert 0 < stopped < STEPS
    for name in ("stopped", "whole"):  # in this process, which is quicker
        place = f"--trainer.default_root_dir={tmp_path / name}"
        code, written = realuid("fit", *TINY, late, place, "--ckpt_path=resume")
        assert code == 0, written
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_two_processes_stop_together_whichever_is_told(tmp_path):
    run = Run(tmp_path / "stopped", *TWO, fresh=True).progress()
    os.kill(run.child(), signal.SIGTERM)
    assert run.end() == 143, run.log.read_text()
    run = Run(tmp_path / "stopped", *TWO, "--data.num_workers=1").progress()
    os.killpg(run.process.pid, signal.SIGUSR1)  # loaders' processes, too, as SLURM does
    assert run.end() == 138, run.log.read_text()
    for name in ("stopped", "whole"):
        done = processes.run(REALUID, *asked(tmp_path / name, *TWO), count=2, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("command", "number", "code"), [("predict", signal.SIGTERM, 143), ("validate", signal.SIGINT, 130)]
)
def test_two_processes_leave_an_evaluation_together(tmp_path, realuid, command, number, code):
    run = tmp_path / "run"
    assert realuid("fit", *TINY, f"--trainer.default_root_dir={run}", "--trainer.max_steps=1")[0] == 0
    words = ["--data.num_workers=1", "--model.eval_batch_size=64", "--data.eval_samples=1000000", "--bounds=false"]
    words += ["--data.predict_seeds=0-999999", f"--writer.folder={tmp_path / 'samples'}", "--grid.count=1"]
    words += ["--model.sampling_steps=[1]", "--model.evaluate=null"]
    evaluation = Run(run, *TWO, *words, command=command, checkpoint="last")
    end = time.monotonic() + 240  # of a busy machine
    while not (tmp_path / "samples").is_dir() and "measuring the real data" not in evaluation.log.read_text():
        assert evaluation.process.poll() is None, evaluation.log.read_text()
        assert time.monotonic() < end, evaluation.log.read_text()
        time.sleep(0.05)
    if command == "predict":
        os.kill(evaluation.child(), number)
    else:
        os.killpg(evaluation.process.pid, number)  # as Ctrl-C: loaders' processes, too
    assert evaluation.end() == code, evaluation.log.read_text()
    assert f"{signal.Signals(number).name}: stopped in {command}" in evaluation.log.read_text()


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    words = ["--data.eval_samples=500000", "--model.eval_batch_size=50000", "--bounds=false"]
    run = Run(tmp_path / "run", *words, "--trainer.val_check_interval=20").progress()
    while "measuring the real data" not in run.log.read_text():
        assert run.process.poll() is None, run.log.read_text()
        time.sleep(0.1)
    time.sleep(1)  # now it validates, a batch for longer than this test may take
    while run.process.poll() is None:  # two that come within one call of torch are one for Python
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert run.end() == 130
    assert content(tmp_path / "run")["global_step"] % 7 == 0


def test_before_it_has_begun_a_run_leaves_with_the_same_codes(tmp_path):
    for number, codes in ((signal.SIGINT, {130}), (signal.SIGTERM, {143, -signal.SIGTERM})):
        run = Run(tmp_path / "early", fresh=True)
        time.sleep(1.5)
        run.process.send_signal(number)
        assert run.end() in codes
        assert not list(tmp_path.glob("early/checkpoints/*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_stops_the_run_and_leaves_the_last_state(tmp_path, realuid):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        words = [*TINY, f"--trainer.default_root_dir={disk / 'run'}", "--trainer.logger=false", "--ckpt_path=resume"]
        assert realuid("fit", *words, "--trainer.max_steps=7")[0] == 0
        with (disk / "filling").open("wb", buffering=0) as file:
            while fits(file):
                pass
            file.truncate(file.tell() - 2**16)  # for what is smaller than a checkpoint
        code, written = realuid("fit", *words)
        assert code == 2
        assert "could not be written: No space left on device" in written
        assert "the one before is intact" in written
        assert "Traceback" not in written
        folder = disk / "run" / "checkpoints"
        assert [file.name for file in folder.iterdir()] == ["last.ckpt"]
        assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 7
        (disk / "filling").unlink()
        assert realuid("fit", *words, "--trainer.max_steps=14")[0] == 0
    finally:
        subprocess.run(["umount", disk], check=True)
