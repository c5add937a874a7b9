"""Runs that test_fsdp.py compares: python fsdp_runs.py FOLDER PROCESSES STRATEGY [CHECKPOINT]."""

import os
import sys
from pathlib import Path

import helpers
import torch
from helpers import acting, mlp
from together import Together

import realuid_lightning.strategies  # noqa: F401 - makes fsdp_per_network known
from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation import Diagnostics, FIDCallback, TimeCurves
from realuid_lightning.metrics import RawFeatures
from realuid_lightning.modules import RealUIDModule, TeacherModule, Warmup
from realuid_lightning.networks import UNet
from realuid_lightning.objectives import GAN
from realuid_lightning.running import RunCheckpoint

FOLDER, PROCESSES, STRATEGY = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
RANK = int(os.environ.get("LOCAL_RANK", "0"))
PLACE = {"devices": PROCESSES, "strategy": STRATEGY}


class Distilling(Together, RealUIDModule):
    pass


class Teaching(Together, TeacherModule):
    pass


def network(kind):
    if kind == "mlp":
        return mlp(width=32, depth=2)
    torch.manual_seed(1)
    return acting(UNet(8, 1, 32, 1, [1], [8], 32, checkpoint=True), 0.05)


def module(kind):
    def optimizer(weights):
        return torch.optim.Adam(weights, lr=1e-3, eps=1e-3, fused=True)  # where gradients are small, rounding decides

    if kind == "teacher":
        return Teaching(network("mlp"), optimizer=optimizer, ema=[0.5], sampling_steps=[2])
    parts = {"fake_optimizer": optimizer, "generator_optimizer": optimizer}
    parts |= {f"{name}_schedule": lambda optimizer: Warmup(optimizer, 3) for name in ("fake", "generator")}
    return Distilling(network(kind), None, alpha=0.9, beta=0.94, gan=GAN(), fake_steps=2, ema=[0.9, 0.5], **parts)


def fit(name, kind, steps, ckpt=None):
    """Train, and keep the checkpoint, what this process holds, and all figures."""
    torch.manual_seed(5)
    model, folder = module(kind), FOLDER / name
    callbacks = [RunCheckpoint(), FIDCallback(RawFeatures([1, 8, 8])), Diagnostics(16), TimeCurves(3)]
    options = {"limit_val_batches": None, "val_check_interval": 2, "check_val_every_n_epoch": None}
    options |= {"log_every_n_steps": 1, "callbacks": callbacks, **PLACE}
    data = MatchingDataModule(Digits(), batch_size=8 // PROCESSES, eval_samples=40)
    trainer = helpers.fit(model, data, folder, steps, ckpt, **options)
    held = sum(getattr(weight, "to_local", lambda weight=weight: weight)().numel() for weight in model.parameters())
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    torch.save((held, figures), FOLDER / f"{name}.rank{RANK}.pt")
    return folder / "checkpoints" / "last.ckpt"


def refused():
    """Uneven shares of samples: processes would wait for each other."""
    trainer = helpers.trainer(max_steps=1, **PLACE)
    told = []
    for run, options in ((trainer.fit, {"eval_samples": 41}), (trainer.predict, {"predict_seeds": "0-6"})):
        try:
            run(module("mlp"), MatchingDataModule(Digits(), batch_size=4, **{"eval_samples": 40} | options))
        except UserError as error:
            told.append(str(error))
    try:
        fast = RealUIDModule(network("mlp"), None, compile=True, channels_last=True)
        trainer.fit(fast, MatchingDataModule(Digits(), batch_size=4, eval_samples=40))
    except UserError as error:
        told.append(str(error))
    torch.save(told, FOLDER / f"refused.rank{RANK}.pt")


def in_place(steps):
    """Begin, or go on in the same folder without the teacher's file; validate first, and let nothing be saved then."""
    teacher = FOLDER / f"weights.rank{RANK}.pt"
    if steps == 2:
        torch.save(network("mlp").state_dict(), teacher)
    else:
        teacher.unlink()
    model = RealUIDModule(network("mlp"), str(teacher), fake_steps=1, ema=[0.9], evaluate=["ema_0.9"])
    last = FOLDER / "in place" / "checkpoints" / "last.ckpt" if steps > 2 else None
    callbacks = [RunCheckpoint(), Diagnostics(16), TimeCurves()]
    options = {"limit_val_batches": None, "num_sanity_val_steps": 2, "callbacks": callbacks}
    data = MatchingDataModule(Digits(), batch_size=4, eval_samples=8)
    helpers.fit(model, data, FOLDER / "in place", steps, last, **options, **PLACE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit("teacher", "teacher", 3)
    fit("unet", "unet", 2)
    first = fit("half", "mlp", 2)
    fit("whole", "mlp", 4)
    fit("resumed", "mlp", 4, ckpt=first)
    if PROCESSES > 1:
        fit("of one process", "mlp", 4, ckpt=sys.argv[4])
        refused()
        in_place(2)
        in_place(4)
