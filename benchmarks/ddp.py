"""What ``ddp_per_network`` sends and takes for an update against ``ddp_find_unused_parameters_true``, side by side.

Two processes on the CPU train the same under either strategy, in turn. Bytes are those of torch's profiler, which sees
all that gloo transports; times are medians in the first process, from the beginning of a loss to the end of the update.

Usage: python benchmarks/ddp.py [--width 512] [--batch 32] [--cycles 10] [--rounds 3]
"""

import argparse
import logging
import statistics
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import Trainer
from parts.options import show

import realuid_lightning.strategies  # noqa: F401 - makes ddp_per_network known
from realuid_lightning.data import Digits, Draws, MatchingDataModule
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import MLP

STRATEGIES = OURS, SEARCHING = ("ddp_per_network", "ddp_find_unused_parameters_true")
UPDATES = ("fake", "generator")
WARM_UP = 3  # cycles: DDP arranges its buckets in the first two
ITEM = 4  # bytes of every number sent: float32, and int32 for the map of used weights

Taken = dict[str, list[float]]


class Watched(RealUIDModule):
    """Notes what each update takes from its loss on: seconds, or bytes sent where it is profiled."""

    def __init__(self, *args: Any, profiled: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.profiled = profiled
        self.taken: dict[str, list[float]] = {update: [] for update in UPDATES}

    def fake_loss(self, batch: Draws) -> torch.Tensor:
        """Begin a fake update."""
        self.begin()
        return super().fake_loss(batch)

    def generator_loss(self, batch: Draws) -> torch.Tensor:
        """Begin a generator update."""
        self.begin()
        return super().generator_loss(batch)

    def begin(self) -> None:
        """Start the clock or the profiler."""
        self.begun = time.perf_counter()
        if self.profiled:
            self.profile = torch.profiler.profile(record_shapes=True)
            self.profile.start()

    def _update(self, *args: Any) -> torch.Tensor:
        norm = super()._update(*args)
        taken = time.perf_counter() - self.begun
        if self.profiled:
            self.profile.stop()
            shapes = [shape for row in self.profile.events() if "gloo:" in row.name for shape in row.input_shapes]
            taken = ITEM * sum(torch.Size(shape).numel() for shape in shapes)
        self.taken["fake" if args[-1] is self.fake else "generator"].append(taken)
        return norm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512, help="width of the MLPs")
    parser.add_argument("--batch", type=int, default=32, help="samples per update and process")
    parser.add_argument("--cycles", type=int, default=10, help="timed cycles of a round")
    parser.add_argument("--rounds", type=int, default=3, help="times that each strategy has its turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    sent = {strategy: fit(strategy, WARM_UP, True, options) for strategy in STRATEGIES}
    rounds = [
        {strategy: fit(strategy, options.cycles + WARM_UP, False, options) for strategy in STRATEGIES}
        for _ in range(options.rounds)
    ]
    if torch.distributed.get_rank() == 0:
        tell(sent, rounds, sum(weight.numel() for weight in network(options).parameters()))


def network(options: argparse.Namespace) -> MLP:
    return MLP([1, 8, 8], width=options.width)


def fit(strategy: str, cycles: int, profiled: bool, options: argparse.Namespace) -> Taken:
    """Return what each update took."""
    model = Watched(network(options), None, alpha=0.9, beta=0.94, fake_steps=1, profiled=profiled)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_steps=cycles,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, MatchingDataModule(Digits(), batch_size=options.batch))
    return model.taken


def tell(sent: dict[str, Taken], rounds: list[dict[str, Taken]], weights: int) -> None:
    columns = "update", "MB sent", "MB, searching", "ratio", "ms", "ms, searching", "ratio", "of rounds"
    table = []
    for update in UPDATES:
        ours, searching = (sent[strategy][update][-1] / 1e6 for strategy in STRATEGIES)
        medians = [[1e3 * statistics.median(each[name][update][WARM_UP:]) for name in STRATEGIES] for each in rounds]
        ratios = [fast / slow for fast, slow in medians]
        fast, slow = map(statistics.median, zip(*medians, strict=True))
        row = f"{ours:.3f}", f"{searching:.3f}", f"{ours / searching:.3f}", f"{fast:.1f}", f"{slow:.1f}"
        table.append((update, *row, f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"))
    show(f"{OURS} against {SEARCHING}", columns, table)
    print(f"each network has {weights} weights, {ITEM * weights / 1e6:.3f} MB of gradients")


if __name__ == "__main__":
    main()
