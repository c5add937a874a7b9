"""The published optimizer, and learning-rate schedules, counted in a network's own updates."""

from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT

from realuid_lightning.errors import UserError


class RecipeAdam(Adam):
    """Adam of the published recipe: without momentum (betas 0 and 0.999), each update in one kernel.

    Args:
        params: Weights, or groups of them.
        lr: Learning rate.
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
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: int = 0) -> None:
        if not 0 <= warmup < steps:
            raise UserError(f"LinearDecay: need 0 <= warmup < steps, got warmup {warmup} and steps {steps}")

        def factor(update: int) -> float:
            return update / warmup if update < warmup else max(0.0, (steps - update) / (steps - warmup))

        super().__init__(optimizer, factor)
