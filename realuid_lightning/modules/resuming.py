"""What a resumed run need not share with the one before it."""

import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from realuid_lightning.data import MatchingDataModule


def whole_batch(trainer: Trainer) -> dict[str, int]:
    """Return the number of processes, and of the samples of an update over all of them (0 if unknown)."""
    processes, data = trainer.world_size, getattr(trainer, "datamodule", None)
    size = data.batch_size * processes if isinstance(data, MatchingDataModule) else 0
    return {"processes": processes, "samples an update": size}


def tell_changes(before: dict[str, int], now: dict[str, int]) -> None:
    """Say what is different from here on; with the same processes and batch, nothing is.

    Args:
        before: ``whole_batch`` of the run that is resumed; empty in old checkpoints.
        now: That of this run.
    """
    changes = [f"{before[name]} -> {now[name]} {name}" for name in now if before.get(name, now[name]) != now[name]]
    if changes:
        rank_zero_info(
            f"resuming with {', '.join(changes)}: weights, optimizers, averages and schedules go on; draws, and which "
            "samples come when, are others from here on"
        )


def lay_as_weights(optimizer: Optimizer) -> None:
    """Give an optimizer's states the order in memory of their weights, which fused kernels take for granted."""
    for weight, states in optimizer.state.items():
        for name, value in states.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                states[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
