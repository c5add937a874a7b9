"""``realuid validate --seeds N``: the same weights, measured with several sets of latents."""

from collections.abc import Callable
from typing import Any

from lightning import Trainer
from rich.table import Table

from realuid_lightning.cli.console import wide_console
from realuid_lightning.data import MatchingDataModule
from realuid_lightning.errors import Faults
from realuid_lightning.evaluation import SampleGrid
from realuid_lightning.reporting import Value, mean_of_seeds


def measure_seeds(trainer: Trainer, data: MatchingDataModule, seeds: int, measure: Callable[[], Any]) -> None:
    """Measure with ``data.eval_seed``; where several seeds are asked for, with the next ones too, and print the means.

    Pictures are those of the first seed.

    Args:
        trainer: The trainer.
        data: Its data.
        seeds: Number of seeds, at least 1.
        measure: Measures once.

    Raises:
        UserError: If there are not so many seeds from ``data.eval_seed`` on.
    """
    first, faults = data.eval_seed, Faults("seeds")
    faults.unless(first + seeds <= 2**32, f"{seeds} seeds from data.eval_seed {first} on must all be below 2^32")
    faults.raise_any()
    found: dict[str, list[float]] = {}
    for data.eval_seed in range(first, first + seeds):
        measure()
        for name, value in trainer.callback_metrics.items():
            found.setdefault(name, []).append(float(value))
        trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, SampleGrid)]  # type: ignore[attr-defined]
    if seeds > 1 and trainer.is_global_zero:
        means = {name: mean_of_seeds(column) for name, column in found.items()}
        print(f"Mean and standard error over the latents of seeds {first} to {first + seeds - 1}:")
        _print(means)


def _print(means: dict[str, Value]) -> None:
    """Print what is logged as ``FIGURE/SAMPLER``, a row for each sampler."""
    samplers: dict[str, dict[str, Value]] = {}
    for name, value in means.items():
        figure, _, sampler = name.partition("/")
        samplers.setdefault(sampler, {})[figure] = value
    figures = list(dict.fromkeys(figure for row in samplers.values() for figure in row))
    table = Table()
    table.add_column("sampler")
    for figure in figures:
        table.add_column(figure, justify="right")
    for sampler, row in samplers.items():
        table.add_row(sampler, *(str(row.get(figure, "")) for figure in figures))
    wide_console().print(table)
