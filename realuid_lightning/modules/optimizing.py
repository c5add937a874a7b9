"""Optimizers and schedules are made once before anything is spent, to see whether they can be."""

import inspect
import math
from collections.abc import Iterator

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau


def optimizer_faults(
    network: nn.Module,
    optimizer: OptimizerCallable,
    schedule: LRSchedulerCallable,
    names: tuple[str, str] = ("optimizer", "schedule"),
    closure: bool = False,
) -> Iterator[str]:
    """Yield what is wrong with the optimizer of a network, or with its schedule.

    Args:
        network: Whose weights it would move; they are left alone.
        optimizer: Makes the optimizer.
        schedule: Makes the schedule.
        names: Of these two options.
        closure: Whether updates give the optimizer a function that evaluates the loss.
    """
    try:
        made = optimizer(network.parameters())
    except Exception as error:
        yield f"{names[0]}: {error}"
        return
    asked = inspect.signature(type(made).step).parameters.get("closure")
    if not closure and asked is not None and asked.default is asked.empty:
        yield f"{names[0]}: {type(made).__name__} evaluates losses by itself, which these updates do not: use another"
    for name, value in made.defaults.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
            yield f"{names[0]}: {name} must be finite, got {value}"
    try:
        follows = schedule(made)
    except Exception as error:
        yield f"{names[1]}: {error}"
    else:
        if isinstance(follows, ReduceLROnPlateau):
            yield f"{names[1]}: ReduceLROnPlateau waits for metrics, which updates do not have: use another"
