"""How many micro-steps a second the training loader alone sustains, ready on the device as floats in [-1, 1].

Random bytes of realistic number and size, held in memory, mirrored at random and with labels; six micro-batches to a
training step, as in distillation with five fake steps. 100 micro-steps a second are what it must never fall below.

Usage: python benchmarks/loader.py [--device cpu|cuda] [--seconds 3]
"""

import argparse
import time
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins.precision import Precision
from parts.lean import Noise
from parts.options import show

from realuid_lightning.data import MatchingDataModule

MICRO_BATCHES = 6


class Size(NamedTuple):
    """A data set and the samples in one of its micro-batches."""

    shape: tuple[int, ...]
    count: int
    batch: int


SIZES = {
    "digits": Size((1, 8, 8), 50_000, 128),
    "CIFAR": Size((3, 32, 32), 50_000, 256),
    "CelebA": Size((3, 64, 64), 20_000, 256),
}
LOADERS: dict[str, dict[str, Any]] = {
    "streaming, no workers": {"num_workers": 0},
    "streaming, 2 workers": {"num_workers": 2},
    "on_device": {"on_device": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--device", type=torch.device, default=here, help="where batches are to arrive")
    parser.add_argument("--seconds", type=float, default=3, help="timed seconds of each row")
    options = parser.parse_args()
    rows = []
    for name, size in SIZES.items():
        source = Noise(size.shape, size.count, num_classes=10)
        for loader, how in LOADERS.items():
            data = MatchingDataModule(source, size.batch, labels=True, flip=True, **how)
            data.trainer = stand_in(options.device)
            data.setup("fit")
            rate = micro_steps_a_second(data, options.device, options.seconds)
            rows.append((f"{name}, {loader}", str(size.batch), f"{rate:,.0f}"))
    show(f"training loader, {options.device}", ("data", "batch", "micro-steps a second"), rows)


def stand_in(device: torch.device) -> Any:
    """Return what a data module asks of its trainer."""
    return SimpleNamespace(
        global_rank=0,
        world_size=1,
        global_step=0,
        accumulate_grad_batches=1,
        max_steps=1,
        overfit_batches=0.0,
        lightning_module=SimpleNamespace(micro_batches=MICRO_BATCHES),
        strategy=SimpleNamespace(root_device=device),
        precision_plugin=Precision(),
    )


def micro_steps_a_second(data: MatchingDataModule, device: torch.device, seconds: float) -> float:
    batches = iter(data.train_dataloader())

    def step() -> None:
        data.on_after_batch_transfer(move_data_to_device(next(batches), device), 0)

    for _ in range(10):  # workers start, caches fill
        step()
    synchronize(device)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    synchronize(device)
    return steps * MICRO_BATCHES / (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
