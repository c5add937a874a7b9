"""Distillation by two processes: they stay one model, and what can not work is refused."""

import runpy
import sys

import processes
import torch
from helpers import same

SCRIPT = """
import sys
import torch
from helpers import fit, mlp

from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.modules import RealUIDModule

torch.set_num_threads(1)
strategy, folder = sys.argv[1:]
model = RealUIDModule(mlp(), None, alpha=0.9, beta=0.94, fake_steps=2)
trainer = fit(model, MatchingDataModule(Digits(), batch_size=8), folder, 3, devices=2, strategy=strategy)
torch.save(model.state_dict(), f"{folder}/rank{trainer.global_rank}.pt")
"""

SHARED = """
import sys
import torch
from helpers import fit, mlp, points
from together import Together

from realuid_lightning.objectives import GAN
from realuid_lightning.modules import RealUIDModule, Warmup


class Distilling(Together, RealUIDModule):
    pass


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


torch.set_num_threads(1)
strategy, folder = sys.argv[1:]
devices = 1 if strategy == "auto" else 2
optimizers = {"fake_optimizer": sgd, "generator_optimizer": sgd, "fake_schedule": Warmup, "generator_schedule": Warmup}
model = Distilling(mlp([3], depth=2), None, alpha=0.9, beta=0.94, gan=GAN(), fake_steps=2, **optimizers)
place = {"devices": devices, "strategy": strategy, "precision": "64-true"}
trainer = fit(model, points(None, global_batch_size=8), folder, **place)
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
    assert same(one, two)
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
    assert same(first, second)
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
