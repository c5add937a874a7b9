"""The published optimizer, learning-rate schedules, and gradients: all counted in a network's own updates."""

import inspect
import math
from collections.abc import Iterable, Iterator

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.optimizer import ParamsT

from realuid_lightning.errors import UserError
from realuid_lightning.sharding import full


class RecipeAdam(Adam):
    """Adam of the published recipe: without momentum (betas 0 and 0.999), each update in one kernel.

    Args:
        params: Weights, or groups of them.
        lr: Learning rate.

    Example:
        >>> RecipeAdam(nn.Linear(2, 2).parameters(), lr=1e-4).defaults["betas"]
        (0.0, 0.999)
    """

    def __init__(self, params: ParamsT, lr: float = 3e-5) -> None:
        super().__init__(params, lr=lr, betas=(0.0, 0.999), fused=True)


class Warmup(LambdaLR):
    """Raises the rate linearly from 0 over ``steps`` updates, then keeps it (the published recipe).

    Args:
        optimizer: The optimizer to schedule.
        steps: Updates until the full rate; the first one is made at rate 0 when this is positive. 0 keeps it constant.

    Raises:
        UserError: If ``steps`` is negative.

    Example:
        >>> schedule = Warmup(RecipeAdam(nn.Linear(2, 2).parameters(), lr=1.0), steps=4)
        >>> [schedule.lr_lambdas[0](update) for update in (0, 1, 4, 100)]
        [0.0, 0.25, 1.0, 1.0]
    """

    def __init__(self, optimizer: Optimizer, steps: int = 0) -> None:
        if steps < 0:
            raise UserError(f"Warmup: steps must be at least 0, got {steps}")
        super().__init__(optimizer, lambda update: min(update, steps) / steps if steps else 1.0)


class LinearDecay(LambdaLR):
    """Raises the rate linearly over ``warmup`` updates, then lowers it linearly to 0 at update ``steps``.

    Args:
        optimizer: The optimizer to schedule.
        steps: Updates until the rate is 0, more than ``warmup``.
        warmup: Updates until the full rate.

    Raises:
        UserError: If ``steps`` is not greater than ``warmup``, or ``warmup`` is negative.

    Example:
        >>> schedule = LinearDecay(RecipeAdam(nn.Linear(2, 2).parameters(), lr=1.0), steps=4)
        >>> [schedule.lr_lambdas[0](update) for update in (0, 2, 4)]
        [1.0, 0.5, 0.0]
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: int = 0) -> None:
        if not 0 <= warmup < steps:
            raise UserError(f"LinearDecay: need 0 <= warmup < steps, got warmup {warmup} and steps {steps}")

        def factor(update: int) -> float:
            return update / warmup if update < warmup else max(0.0, (steps - update) / (steps - warmup))

        super().__init__(optimizer, factor)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients of ``parameters``, 0 without any; they stay as they are."""
    return full(torch.nn.utils.get_total_norm([weight.grad for weight in parameters if weight.grad is not None]))


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale gradients down to a norm of at most ``limit``, if there is one, and return the norm that they had."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit is not None else float("inf"))
    return full(norm)


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
