"""Every cell of the table of test_strategies.py: python strategy_runs.py FOLDER PROCESSES."""

import functools
import os
import sys
from pathlib import Path

import helpers
import torch
from helpers import Tied, mlp
from lightning.pytorch import Callback
from torch import nn

import realuid_lightning.strategies  # noqa: F401 - makes our strategies known
from realuid_lightning.data import Batch, MatchingDataModule, MemorySource
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, TeacherModule, Warmup
from realuid_lightning.networks import LoRA
from realuid_lightning.objectives import GAN, R1GAN, Mixture, RealUID
from realuid_lightning.seeding import mix

STRATEGIES = ("ddp_per_network", "fsdp_per_network", "ddp_find_unused_parameters_true")
SHARES, ROWS = 3, 4  # processes, of as many rows each; one process takes all of them


class Together:
    """Draws for all rows alike, of which each of W processes takes each W-th."""

    def rng(self, batch_idx):
        return torch.Generator().manual_seed(mix(self.global_step, batch_idx % self.trainer.accumulate_grad_batches))

    def draw(self, batch, rng, sample_t=None):
        processes = self.trainer.world_size

        def among_all(own):
            if processes == 1:  # the stream gives the rows of the first process, then those of the second, ...
                return own.reshape(SHARES, ROWS, -1).transpose(0, 1).reshape(own.shape)
            return own.repeat_interleave(processes, 0)

        x1, y = (field if field is None else among_all(field) for field in (batch.x1, batch.y))
        drawn = super().draw(Batch(x1=x1, y=y), rng, sample_t)
        mine = torch.arange(self.global_rank, len(drawn.x1), processes)
        return drawn._replace(**{name: field[mine] for name, field in drawn._asdict().items() if field is not None})


class Teaching(Together, TeacherModule):
    pass


class Distilling(Together, RealUIDModule):
    pass


class Normed(nn.Module):
    """A network with running statistics."""

    def __init__(self):
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(3), plain()

    def forward(self, t, x, y=None):
        return self.inner(t, self.norm(x), y)


class Grouped(MemorySource):
    """Normal points of three classes."""

    shape, num_classes = (3,), 3

    def load(self):
        return torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3


def plain():
    return mlp([3], width=8, depth=2)


def labelled():
    return mlp([3], width=8, depth=2, num_classes=3, null_label=True)


def small():
    return mlp([3], width=5, depth=2, seed=3)


class Pair(Tied):
    """Two layers, for what takes long: every operation is compiled for every role and strategy."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 3)


def partly_frozen():
    made = plain()
    for weight in list(made.parameters())[1:3]:
        weight.requires_grad_(False)
    return made


def sgd(weights):
    return torch.optim.SGD(weights, 0.05, 0.9)


def distilling(network=plain, **options):
    parts = {f"{name}_optimizer": sgd for name in ("fake", "generator")}
    parts |= {f"{name}_schedule": lambda optimizer: Warmup(optimizer, 2) for name in ("fake", "generator")}
    chosen = {"alpha": 0.9, "beta": 0.94, "fake_steps": 2, "ema": []} | parts | options
    return Distilling(network(), None, **chosen)


def teaching(network=plain, **options):
    return Teaching(network(), optimizer=sgd, sampling_steps=[1], **({"ema": []} | options))


# Each row: how its module is made, and options of its trainer.
CELLS = {
    "distillation": (distilling, {}),
    "teacher": (teaching, {}),
    "averages": (functools.partial(distilling, ema=[0.9, 0.5]), {}),
    "averages of a teacher": (functools.partial(teaching, ema=[0.9, 0.5]), {"accumulate_grad_batches": 2}),
    "clipping": (functools.partial(distilling, clip=0.05), {}),
    "clipping of a teacher": (teaching, {"gradient_clip_val": 0.05, "accumulate_grad_batches": 2}),
    "compile": (functools.partial(distilling, Pair, compile=True), {}),
    "compile of a teacher": (functools.partial(teaching, Pair, compile=True), {}),
    "channels_last": (functools.partial(distilling, channels_last=True), {}),
    "several steps": (functools.partial(distilling, sampling_steps=2), {}),
    "discriminator": (functools.partial(distilling, gan=GAN()), {}),
    "gradient penalty": (functools.partial(distilling, gan=R1GAN(0.5)), {}),
    "frozen weights": (functools.partial(distilling, partly_frozen), {}),
    "frozen weights of a teacher": (functools.partial(teaching, partly_frozen), {}),
    "patterns of frozen weights": (
        functools.partial(distilling, generator_frozen=["input.*"], fake_frozen=["blocks.0.*"]),
        {},
    ),
    "networks of their own": (
        functools.partial(
            distilling, generator_network=small(), generator_init="random", fake_network=small(), fake_init="random"
        ),
        {},
    ),
    "adapters on the teacher's weights": (
        functools.partial(distilling, fake_network=LoRA(2), generator_network=LoRA(3, ["blocks.*"]), ema=[0.5]),
        {},
    ),
    "parts of a batch and a discriminator": (functools.partial(distilling, accumulate=4, gan=GAN()), {}),
    "a mixture that leaves the discriminator out at first": (
        functools.partial(
            distilling,
            alpha=1.0,
            beta=1.0,
            objective=Mixture([RealUID(0.9, 0.94), GAN()], {1: [1.0, 0.0], 2: [1.0, 1.0]}),
        ),
        {},
    ),
    "labels left out": (functools.partial(teaching, labelled, label_dropout=0.5), {}),
    "guidance": (functools.partial(distilling, labelled, guidance=(1.0, 3.0)), {}),
    "guidance of both, and a discriminator": (
        functools.partial(distilling, labelled, guidance=(1.0, 3.0), guide_fake=True, gan=GAN()),
        {},
    ),
    "a GAN alone": (functools.partial(distilling, alpha=1.0, beta=1.0, objective=GAN()), {}),
    "tied weights": (functools.partial(distilling, Tied, ema=[0.5]), {}),
    "tied weights of a teacher": (functools.partial(teaching, Tied, ema=[0.5]), {"accumulate_grad_batches": 2}),
}


class Count(Callback):
    """Keeps which samples validation makes, and the buffers it makes them with."""

    def __init__(self):
        self.index, self.buffers = [], {}

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.index += batch.index.tolist()
        self.buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}


def fit(model, folder, strategy, processes, steps=2, ckpt=None, **options):
    """Train with the sampler that Lightning would put in by default."""
    place = {"devices": processes, "strategy": strategy if processes > 1 else "auto"}
    data = MatchingDataModule(Grouped(), SHARES * ROWS // processes, eval_samples=24)
    return helpers.fit(model, data, folder, steps, ckpt, **place | {"precision": "64-true"} | options)


def whole(state):
    return {name: getattr(value, "full_tensor", lambda value=value: value)() for name, value in state.items()}


def trained(name, folder, strategy, processes):
    """Return the weights that a cell ends with, or why it is refused."""
    make, options = CELLS[name]
    torch.manual_seed(1)
    try:
        model = make()
        fit(model, folder, strategy, processes, **options)
    except UserError as error:
        return str(error)
    return whole(model.state_dict())


def resumed(folder, strategy, processes):
    """Return the weights of an uninterrupted run, and those of one that goes on from its middle, in float32."""
    torch.manual_seed(1)
    models, file = [distilling(ema=[0.5]) for _ in range(3)], folder / f"{strategy}.ckpt"
    models[2].load_state_dict(models[0].state_dict())
    models[1].load_state_dict(models[0].state_dict())
    fit(models[0], folder, strategy, processes, 4, precision="32-true")
    fit(models[1], folder, strategy, processes, 2, precision="32-true").save_checkpoint(file)
    fit(models[2], folder, strategy, processes, 4, file, precision="32-true")
    return [whole(models[i].state_dict()) for i in (0, 2)]


def normed(folder, strategy, processes):
    """Return what is evaluated, by which buffers, and what a checkpoint then holds."""
    torch.manual_seed(1)
    count, file = Count(), folder / f"normed.{strategy}.ckpt"
    model = distilling(Normed, ema=[0.5])
    options = {"limit_val_batches": 1.0, "val_check_interval": 2, "check_val_every_n_epoch": None}
    fit(model, folder, strategy, processes, callbacks=[count], **options).save_checkpoint(file)
    return count.index, count.buffers, torch.load(file, weights_only=True)["state_dict"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    nn.Module.compile = functools.partialmethod(nn.Module.compile, backend="eager")
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    found = {}
    for strategy in STRATEGIES if processes > 1 else ["auto"]:
        found[strategy] = {name: trained(name, folder, strategy, processes) for name in CELLS}
        found[strategy]["resumed"] = resumed(folder, strategy, processes)
        found[strategy]["normed"] = normed(folder, strategy, processes)
    torch.save(found, folder / f"rank{os.environ.get('LOCAL_RANK', '0')}.pt")
