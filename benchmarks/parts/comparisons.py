"""Two runs beside each other: their losses, and the speed of one and of two processes."""

import statistics

import torch
from torch import Tensor

import realuid_lightning.strategies  # noqa: F401 - makes ddp_per_network known
from parts.lean import Noise, Setting, module_of, train, trainer_of
from parts.measure import Stopwatch
from parts.sizes import Plan
from parts.textbook import FAKE_STEPS
from realuid_lightning.data import MatchingDataModule

Curves = dict[str, list[float]]


def curves(plan: Plan, setting: Setting) -> Curves:
    """Return the losses of each cycle, of the fake model (the mean of its updates) and of the generator."""
    module, _, _ = train(plan, setting)
    fake, generator = (torch.stack(losses).double().cpu() for losses in module.losses.values())
    return {"fake": fake.view(-1, FAKE_STEPS).mean(1).tolist(), "generator": generator.tolist()}


def largest_difference(exact_curves: Curves, fast_curves: Curves, width: int) -> float:
    """Return the largest difference of mean losses in windows of ``width`` cycles, in standard errors of the exact."""
    found = []
    for name, curve in exact_curves.items():
        exact_windows, fast_windows = (_windows(losses, width) for losses in (curve, fast_curves[name]))
        error = exact_windows.std(1) / width**0.5
        found.append((exact_windows.mean(1) - fast_windows.mean(1)).abs() / error)
    return torch.cat(found).max().item()  # NaN if there is one


def _windows(losses: list[float], width: int) -> Tensor:
    """Return losses by window and cycle; what is left over at the end is dropped."""
    count = len(losses) // width
    return torch.tensor(losses[: count * width], dtype=torch.float64).view(count, width)


def beside(plan: Plan, processes: int = 1) -> float:
    """Return the seconds of the median cycle in the first of some processes of one thread each, on the CPU."""
    torch.set_num_threads(1)
    network = plan.network()
    module = module_of(network, Stopwatch(plan.device), {"fused_adam": True})
    strategy = "ddp_per_network" if processes > 1 else "auto"
    trainer = trainer_of("cpu", plan.warm_up + plan.cycles, devices=processes, strategy=strategy)
    trainer.fit(module, MatchingDataModule(Noise(network.shape), plan.batch))
    return statistics.median(sum(cycle.values()) for cycle in module.watch.cycles()[plan.warm_up :])
