"""Distillation by two processes: they stay one model, and what can not work is refused."""

import os
import subprocess
import sys

import torch

SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from torch import nn

from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import MLP

torch.set_num_threads(1)
strategy, folder = sys.argv[1:]
torch.manual_seed(1)
network = MLP([1, 8, 8], width=16, depth=1)
nn.init.normal_(network.out[-1].weight, std=0.2)
trainer = Trainer(
    accelerator="cpu",
    devices=2,
    strategy=strategy,
    max_steps=3,
    limit_val_batches=0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    use_distributed_sampler=False,
    default_root_dir=folder,
)
model = RealUIDModule(network=network, teacher_ckpt=None, alpha=0.9, beta=0.94, fake_steps=2)
trainer.fit(model, MatchingDataModule(Digits(), batch_size=8))
torch.save(model.state_dict(), f"{folder}/rank{trainer.global_rank}.pt")
"""


def run(folder, strategy):
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), strategy, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)


def test_two_processes_train_one_model(tmp_path):
    done = run(tmp_path, "ddp_find_unused_parameters_true")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    for trained in ("fake.", "generator.network."):
        keys = [key for key in one if key.startswith(trained)]
        assert any(not torch.equal(one[key], one[key.replace(trained, "teacher.network.")]) for key in keys)


def test_plain_ddp_is_refused_with_what_to_set(tmp_path):
    done = run(tmp_path, "ddp")
    assert done.returncode != 0
    assert "set it to ddp_find_unused_parameters_true" in done.stderr
    assert not list(tmp_path.glob("rank*.pt"))
