"""A process that fails ends all of them, with its message, whatever the others wait for."""

import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest

MODULE = """
from realuid_lightning import RealUIDModule
from realuid_lightning.errors import UserError


class Failing(RealUIDModule):
    def __init__(self, where: str, fault: str, **options):
        super().__init__(**options)
        self.where, self.fault = where, fault

    def fail(self, where):
        if f"{where} {self.global_rank}" == self.where:
            raise UserError("image 7 is broken") if self.fault == "user" else ValueError("image 7 is broken")

    def fake_loss(self, batch):
        self.fail("train")
        return super().fake_loss(batch)

    def validation_step(self, batch, batch_idx):
        if batch_idx > 0:
            self.fail("validate")
        return super().validation_step(batch, batch_idx)
"""
CONFIG = """
model:
  class_path: failing.Failing
  init_args:
    network: {class_path: realuid_lightning.networks.MLP, init_args: {shape: [1, 8, 8], width: 16, depth: 1}}
    teacher_ckpt: null
    eval_batch_size: 8
data:
  class_path: MatchingDataModule
  init_args: {source: Digits, batch_size: 8, eval_samples: 60}
features: {class_path: RawFeatures, init_args: {shape: [1, 8, 8]}}
trainer: {accelerator: cpu, strategy: ddp_per_network, max_steps: 2, enable_progress_bar: false}
"""


REALUID = Path(sys.executable).with_name("realuid")


def launched(words, folder, _):
    """Run ``realuid WORDS``, which launches the other processes itself."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 240}
    return subprocess.run([REALUID, *words], check=False, **options)


def started(words, folder, count):
    """Run ``realuid WORDS`` as processes that something else has started, which takes less time."""
    return processes.run(REALUID, *words, count=count, cwd=folder)


@pytest.mark.parametrize(
    ("run", "count", "where", "fault", "code"),
    [
        (launched, 2, "validate 1", "bug", 1),
        (started, 3, "validate 0", "user", 2),
        (started, 3, "train 2", "user", 2),
    ],
)
def test_all_end_with_the_message_of_the_one_that_failed(run, count, where, fault, code, tmp_path):
    (tmp_path / "failing.py").write_text(MODULE)
    (tmp_path / "config.yaml").write_text(CONFIG)
    words = ["-c", "config.yaml", "--model.where", where, "--model.fault", fault, "--trainer.val_check_interval=1"]
    done = run(["fit", *words, f"--trainer.devices={count}"], tmp_path, count)
    text = "image 7 is broken" if fault == "user" else "ValueError: image 7 is broken"
    message = f"error: process {where[-1]} has failed: {text}"
    assert done.returncode == code, done.stderr
    assert done.stderr.count(message) == count - 1, done.stderr
    assert done.stderr.count("Traceback") == (fault == "bug"), done.stderr
