"""Distillation by two processes: they stay one model, and what can not work is refused."""

import runpy
import sys

import processes
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
    default_root_dir=folder,
)
model = RealUIDModule(network=network, teacher_ckpt=None, alpha=0.9, beta=0.94, fake_steps=2)
trainer.fit(model, MatchingDataModule(Digits(), batch_size=8))
torch.save(model.state_dict(), f"{folder}/rank{trainer.global_rank}.pt")
"""

SHARED = """
import sys
import torch
from lightning.pytorch import Trainer
from torch import nn

from realuid_lightning.data import Gaussian, Batch, MatchingDataModule
from realuid_lightning.losses import GAN
from realuid_lightning.modules import RealUIDModule, Warmup
from realuid_lightning.networks import MLP


class Together(RealUIDModule):
    # Draws for all processes alike; each takes its own rows.

    def rng(self, batch_idx):
        return torch.Generator().manual_seed(self.global_step)

    def draw(self, batch, rng, sample_t=None):
        whole = Batch(x1=torch.cat([batch.x1] * self.trainer.world_size))
        start = self.global_rank * batch.size
        mine = super().draw(whole, rng, sample_t).rows(start, start + batch.size)
        return mine._replace(x1=batch.x1.to(mine.x1))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


torch.set_num_threads(1)
strategy, folder = sys.argv[1:]
devices = 1 if strategy == "auto" else 2
torch.manual_seed(1)
network = MLP([3], width=16, depth=2)
nn.init.normal_(network.out[-1].weight, std=0.2)
trainer = Trainer(
    accelerator="cpu",
    devices=devices,
    strategy=strategy,
    precision="64-true",
    max_steps=2,
    limit_val_batches=0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    default_root_dir=folder,
)
optimizers = {"fake_optimizer": sgd, "generator_optimizer": sgd, "fake_schedule": Warmup, "generator_schedule": Warmup}
model = Together(network, None, alpha=0.9, beta=0.94, gan=GAN(), fake_steps=2, **optimizers)
trainer.fit(model, MatchingDataModule(Gaussian([0.0] * 3, [1.0] * 3, size=64), batch_size=8 // devices))
torch.save(model.state_dict(), f"{folder}/rank{trainer.global_rank}.pt")
"""


def run(folder, strategy, text=SCRIPT):
    script = folder / "script.py"
    script.write_text(text)
    return processes.run(script, strategy, folder, count=2)


def test_two_processes_train_one_model(tmp_path):
    done = run(tmp_path, "ddp_find_unused_parameters_true")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    for trained in ("fake.", "generator.network."):
        keys = [key for key in one if key.startswith(trained)]
        assert any(not torch.equal(one[key], one[key.replace(trained, "teacher.network.")]) for key in keys)


def test_two_processes_with_a_discriminator_train_what_one_trains_on_both_batches(tmp_path, monkeypatch):
    alone, both = tmp_path / "alone", tmp_path / "both"
    alone.mkdir()
    both.mkdir()
    done = run(both, "ddp_find_unused_parameters_true", SHARED)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setattr(sys, "argv", ["script.py", "auto", str(alone)])
    runpy.run_path(str(both / "script.py"))  # in this process, which is quicker
    files = (alone / "rank0.pt", both / "rank0.pt", both / "rank1.pt")
    one, first, second = (torch.load(file, weights_only=True) for file in files)
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.testing.assert_close(first, one, rtol=1e-9, atol=1e-12)
    assert one["fake.head.4.weight"].norm() > 0  # where it started
    for trained in ("fake.network.", "generator.network."):
        keys = [key for key in one if key.startswith(trained)]
        assert all(not torch.equal(one[key], one[key.replace(trained, "teacher.network.")]) for key in keys)


def test_plain_ddp_is_refused_with_what_to_set(tmp_path):
    done = run(tmp_path, "ddp")
    assert done.returncode != 0
    assert "set it to ddp_per_network, which" in done.stderr
    assert "or to ddp_find_unused_parameters_true" in done.stderr
    assert not list(tmp_path.glob("rank*.pt"))
