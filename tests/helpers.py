"""What many tests build: networks of which every part acts, data without files, trainers that say nothing."""

import importlib.util
import json
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from realuid_lightning.data import Batch, Draws, Gaussian, MatchingDataModule
from realuid_lightning.networks import MLP
from realuid_lightning.recorded import Recorded

# f of the ratio of two densities, in E_generated f(p_real / p_generated).
F_DIVERGENCES = {
    "reverse_kl": lambda r: -torch.log(r),
    "softened_reverse_kl": lambda r: (r + 1) * torch.log(1 / 2 + 1 / (2 * r)),
    "jensen_shannon": lambda r: r * torch.log(r) - (r + 1) * torch.log((r + 1) / 2),
    "squared_hellinger": lambda r: 1 - r.sqrt(),
    "forward_kl": lambda r: r * torch.log(r),
    "jeffreys": lambda r: (r - 1) * torch.log(r),
}


def acting(network, std=0.2):
    """Fill the weights that start at zero: behind them, much would be invisible."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=std)
    return network


def mlp(shape=(1, 8, 8), width=16, depth=1, seed=0, **options):
    """A small network of which every part acts, the same one for the same seed."""
    torch.manual_seed(seed)
    return acting(MLP(list(shape), width, depth, **options))


def points(batch_size=4, **options):
    """Data in three dimensions, standard normal."""
    return MatchingDataModule(Gaussian([0.0] * 3, [1.0] * 3, size=64), batch_size, **options)


def rebatched(data, size):
    """Let the loaders of evaluation give ``size`` samples at once, whatever the module takes in one forward."""
    data.__class__ = type("Rebatched", (type(data),), {"eval_batch_size": size})
    return data


def trainer(folder=None, **options):
    """A trainer on the CPU that shows and writes only what it is asked for."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    quiet["enable_checkpointing"] = any(isinstance(each, Checkpoint) for each in options.get("callbacks", ()))
    return Trainer(**{"accelerator": "cpu", "default_root_dir": folder, "num_sanity_val_steps": 0, **quiet, **options})


def fit(model, data, folder, steps=2, ckpt=None, **options):
    """Train, without validation unless it is asked for; return the trainer."""
    made = trainer(folder, **{"max_steps": steps, "limit_val_batches": 0, **options})
    made.fit(model, data, ckpt_path=ckpt)
    return made


class Counting(LightningModule):
    """On batches of ones, its weight is the number of steps."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return -self.weight * batch.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


class Tied(Recorded, nn.Module):
    """A network one of whose weights has two names."""

    def __init__(self, width=3):
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)
        self.last.weight = self.first.weight

    def forward(self, t, x, y=None):
        return self.last(torch.tanh(self.first(x) + t[:, None]))


def checkpoint(module):
    """What the trainer would write of a module, without a run."""
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    return content


def shaken(network, std=0.3):
    """Add noise to all weights, the same at every call."""
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight += std * torch.randn(weight.shape, generator=rng)
    return network


def started(module):
    """Start a distillation whose fake model is the teacher no more, and whose head tells samples apart."""
    module.start()
    shaken(module.fake)
    return module


def drawn(module, size=6, shape=(3,), seed=0, sample_t=None):
    """A batch of normal samples with all that a module draws for it."""
    rng = torch.Generator().manual_seed(seed)
    x1, x0 = torch.randn(2, size, *shape, generator=rng, dtype=module.dtype)
    return module.draw(Batch(x1=x1, x0=x0 if module.path.translates else None), rng, sample_t)


def draws(size=6, seed=0, **fields):
    """Draws for images, without a module."""
    rng = torch.Generator().manual_seed(seed)
    x1, x0, z = (torch.randn(size, 1, 8, 8, generator=rng) for _ in range(3))
    return Draws(x1=x1, x0=x0, z=z, t=torch.rand(size, generator=rng))._replace(**fields)


def weights(of):
    return {name: value.clone() for name, value in of.state_dict().items()}


def same(left, right):
    """Whether two state dicts are equal in every bit."""
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def figure(step=1, sampler="raw", protocol=(), checkpoint=None, **figures):
    """A line of ``figures.jsonl``, as evaluation writes it."""
    known = {
        "metrics": "m",
        "features": "f",
        "weights": "w",
        "rounding": "none",
        "resize": "none",
        "labels": "none",
        "samples": 4,
    }
    known |= {"seed": 0, "reference": "R", "reference_samples": 9, "held_out": "halves", "floor_samples": 4}
    row = {"step": step, "sampler": sampler, "figures": figures, "floor": {}, "gaussian": {}, "better": {}}
    return {**row, "protocol": known | dict(protocol), **({"checkpoint": checkpoint} if checkpoint else {})}


def measurements(folder, name="figures.jsonl"):
    """What evaluation has measured, one row a figure."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def kept(network, *inputs):
    """Bytes that a call keeps for its backward pass, beside weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    found = {}

    def note(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = network(*inputs)
    del output
    return sum(size for pointer, size in found.items() if pointer not in weights)


def benchmark(name):
    """Import a benchmark by its file: on the path, that folder would hide the modules of tests of the same names."""
    file = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
