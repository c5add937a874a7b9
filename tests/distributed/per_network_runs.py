"""Runs that test_per_network_ddp.py compares: python per_network_runs.py FOLDER PROCESSES [CHECKPOINT]."""

import os
import sys
from pathlib import Path

import helpers
import torch
from helpers import mlp, points, weights
from together import Together
from torch import nn

import realuid_lightning.strategies  # noqa: F401 - makes ddp_per_network known
from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.losses import fake_loss, generator_loss
from realuid_lightning.modules import RealUIDModule, TeacherModule, Warmup
from realuid_lightning.objectives import GAN

OURS, SEARCHING = "ddp_per_network", "ddp_find_unused_parameters_true"
FOLDER, PROCESSES = Path(sys.argv[1]), int(sys.argv[2])
RANK = int(os.environ.get("LOCAL_RANK", "0"))
SGD = {"fake_optimizer": lambda weights: torch.optim.SGD(weights, 0.1), "fake_schedule": Warmup}
SGD |= {"generator_optimizer": SGD["fake_optimizer"], "generator_schedule": Warmup}
MOMENTUM = {f"{name}_optimizer": lambda weights: torch.optim.SGD(weights, 0.1, 0.9) for name in ("fake", "generator")}


class Distilling(Together, RealUIDModule):
    """Keeps the gradients of each update."""

    def _update(self, optimizer, schedule, loss, network):
        name, kept = "fake" if network is self.fake else "generator", self.__dict__.setdefault("gradients", [])

        def keep(*_):
            kept.append((name, [weight.grad.clone() for weight in network.parameters()]))

        handle = getattr(optimizer, "optimizer", optimizer).register_step_pre_hook(keep)
        norm = super()._update(optimizer, schedule, loss, network)
        handle.remove()
        return norm


class Overriding(Distilling):
    """Losses of a user's own, who calls networks as is handy, several times and in every way."""

    def fake_loss(self, batch):
        generated = self.sample(batch, self.generator(batch.z, batch.y).detach())
        real = self.sample(batch, batch.x1)
        predicted = self.predict(self.fake, generated, batch), self.fake(real.t, real.xt, batch.y)
        return fake_loss(predicted[0], generated.target, predicted[1], real.target, alpha=self.alpha, beta=self.beta)

    def generator_loss(self, batch):
        sample = self.sample(batch, self.generated(batch))
        predicted = self.predict(self.teacher, sample, batch), self.fake(sample.t, sample.xt, batch.y)
        return generator_loss(*predicted, sample.target, alpha=self.alpha, beta=self.beta)


class PastTheNetwork(Distilling):
    """Trains the generator through a part of it, which no wrapper sees."""

    def generated(self, batch):
        return self.path.one_step(self.generator.network, batch.z, batch.y, None)


class Forgetful(Distilling):
    """Trains a weight that it does not name."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.further = nn.Linear(2, 2)


class Measured(RealUIDModule):
    """Counts the numbers that a training step sends, by torch's profiler: all that gloo transports."""

    def training_step(self, batch, batch_idx):
        with torch.profiler.profile(record_shapes=True) as profile:
            super().training_step(batch, batch_idx)
        sent = [
            torch.Size(shape).numel() for row in profile.events() if "gloo:" in row.name for shape in row.input_shapes
        ]
        self.__dict__.setdefault("sent", []).append(sent)


class Accumulating(TeacherModule):
    """Notes at which batches gradients are sent."""

    def training_step(self, batch, batch_idx):
        sends = [
            wrapper.require_backward_grad_sync for wrapper in getattr(self.trainer.strategy, "wrappers", {}).values()
        ]
        self.__dict__.setdefault("sends", []).extend(sends)
        return super().training_step(batch, batch_idx)


def digits(labels=False):
    return MatchingDataModule(Digits(), batch_size=8 // PROCESSES, labels=labels)


def fit(model, data, strategy, steps=2, ckpt=None, precision="64-true", **options):
    options |= {"devices": PROCESSES, "strategy": strategy if PROCESSES > 1 else "auto", "precision": precision}
    return helpers.fit(model, data, FOLDER, steps, ckpt, **options)


def keep(name, *values):
    torch.save(values, FOLDER / f"{name}.rank{RANK}.pt")


def gradients():
    realuid = {"alpha": 0.9, "beta": 0.94, "fake_steps": 2, **SGD}
    cases = {
        "gan": (Distilling(mlp(depth=2, num_classes=10), None, gan=GAN(), **realuid), digits(labels=True)),
        "uid": (Distilling(mlp([3], depth=2), None, fake_steps=1, **SGD), points(8 // PROCESSES)),
        "overriding": (Overriding(mlp(depth=2, num_classes=10), None, **realuid), digits(labels=True)),
    }
    for name, (model, data) in cases.items():
        fit(model, data, OURS)
        keep(name, model.gradients, model.state_dict())


def continued(strategy, steps, ckpt=None):
    # Clipped, with averages, and with optimizers and schedules that remember. In float32, for Lightning loads a
    # checkpoint before it makes the module float64.
    options = {"alpha": 0.9, "beta": 0.94, "gan": GAN(), "fake_steps": 2, "clip": 0.5, "ema": [0.9, 0.5], **MOMENTUM}
    schedules = {f"{name}_schedule": lambda optimizer: Warmup(optimizer, 3) for name in ("fake", "generator")}
    model = Distilling(mlp(depth=2), None, **options, **schedules)
    return model, fit(model, digits(), strategy, steps, ckpt, precision="32-true")


def resumed():
    keep("whole", continued(OURS, 4)[0].state_dict())
    for strategy in (OURS, SEARCHING):
        continued(strategy, 2)[1].save_checkpoint(FOLDER / f"{strategy}.ckpt")
    for strategy, other in [(OURS, OURS), (OURS, SEARCHING), (SEARCHING, OURS)]:
        keep(f"{strategy}.{other}", continued(other, 4, FOLDER / f"{strategy}.ckpt")[0].state_dict())


def searched():
    """Both strategies on the same: several sampling steps, and a teacher that accumulates gradients."""
    for strategy in (OURS, SEARCHING):
        model = RealUIDModule(mlp(depth=2), None, alpha=0.9, beta=0.94, fake_steps=2, sampling_steps=2)
        fit(model, digits(), strategy)
        keep(f"steps.{strategy}", model.state_dict())
        teacher = Accumulating(mlp(depth=2))
        fit(teacher, digits(), strategy, accumulate_grad_batches=2)
        keep(f"teacher.{strategy}", teacher.state_dict(), teacher.__dict__.get("sends"))
        measured = Measured(mlp(depth=2), None, alpha=0.9, beta=0.94, fake_steps=2)
        fit(measured, digits(), strategy, steps=3)
        keep(f"sent.{strategy}", measured.sent, sum(weight.numel() for weight in measured.fake.parameters()))


def started():
    """Processes that would start differently, from weights of their own."""
    for strategy in (OURS, SEARCHING):
        model = Distilling(mlp(depth=2, seed=RANK), None, alpha=0.9, beta=0.94, gan=GAN(), fake_steps=1, **SGD)
        model.on_train_start = lambda model=model: model.__dict__.update(begun=weights(model))
        before = weights(model)
        fit(model, digits(), strategy, steps=1)
        keep(f"started.{strategy}", model.begun, model.state_dict(), before)


def refused():
    for model in (PastTheNetwork, Forgetful):
        try:
            fit(model(mlp(depth=2), None, fake_steps=1), digits(), OURS)
        except UserError as error:
            keep(model.__name__, str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 3:
        keep("alone", continued(OURS, 4, sys.argv[3])[0].state_dict())
    else:
        gradients()
        if PROCESSES > 1:
            resumed()
            searched()
            started()
            refused()
