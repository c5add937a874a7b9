"""Figures of a sweep's cells, as means over seeds: a table, and a heat map of two factors."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from realuid_lightning.atomic import replacing
from realuid_lightning.errors import UserError
from realuid_lightning.reporting import Comparison, Value, comparisons, mean_of_seeds, read_runs
from realuid_lightning.reporting.reading import measured_files
from realuid_lightning.sweeping.grid import SEEDS, Task, short_names
from realuid_lightning.sweeping.record import read_state

DPI = 100


class SweepTable(NamedTuple):
    """A figure of all cells, measured by one protocol.

    Attributes:
        title: Tells the protocol.
        figure: Name of the figure.
        names: Names of the factors, seeds left out.
        rows: The figure, as the mean over seeds, by the values of the factors; only of cells that are done.
        floor: What held-out real data score; None where it was not measured.
        gaussian: What a Gaussian with the data's moments scores.
        better: ``min`` or ``max``, as far as it is known.
    """

    title: str
    figure: str
    names: tuple[str, ...]
    rows: dict[tuple[str, ...], Value]
    floor: Value | None
    gaussian: Value | None
    better: str | None

    @property
    def best(self) -> tuple[str, ...] | None:
        """The cell with the best mean; None where that is not known."""
        sound = {cell: value.mean for cell, value in self.rows.items() if value.mean == value.mean}
        if not sound or self.better is None:
            return None
        return (min if self.better == "min" else max)(sound, key=sound.__getitem__)


def tables(
    folder: Path, tasks: Sequence[Task], figure: str | None = None, sampler: str | None = None
) -> list[SweepTable]:
    """Return the figure of all cells that are done, a table for each protocol.

    Args:
        folder: The sweep's folder.
        tasks: Its tasks.
        figure: Name of the figure; the first that was measured when None.
        sampler: Whose; that of each cell which was measured last when None.

    Raises:
        UserError: If no cell that is done has this figure of this sampler; it names those that there are.
    """
    cells = [task for task in tasks if task.factors and read_state(folder, task) == "done"]
    compared = comparisons(read_runs(place for task in cells if measured_files(place := folder / task.name)))
    found = [_table(each, cells, figure or each.figures[0], sampler) for each in compared]
    if not cells:
        raise UserError(f"sweep: no run in {folder} is done")
    if not any(table.rows for table in found):
        figures = dict.fromkeys(name for each in compared for name in each.figures)
        samplers = dict.fromkeys(series.sampler for each in compared for series in each.series)
        wanted = (f"the figure {figure!r}" if figure else "a figure") + (f" of {sampler!r}" if sampler else "")
        raise UserError(
            f"sweep: no run that is done has {wanted}: "
            f"there are {', '.join(figures) or 'none'}, of {', '.join(samplers) or 'no sampler'}; see --figure"
        )
    return [table for table in found if table.rows]


def _table(compared: Comparison, cells: Sequence[Task], figure: str, sampler: str | None) -> SweepTable:
    names = tuple(name for name in cells[0].factors if name != SEEDS)
    columns: dict[tuple[str, ...], list[float]] = {}
    for task in cells:
        measured = [
            series.steps[series.last][figure].mean
            for series in compared.series
            if series.run == task.name and series.sampler == (sampler or series.sampler)
            if figure in series.steps[series.last]
        ]
        if measured:
            columns.setdefault(tuple(task.factors[name] for name in names), []).append(measured[-1])
    ends = compared.floor.get(figure), compared.gaussian.get(figure)
    rows = {cell: mean_of_seeds(column) for cell, column in columns.items()}
    return SweepTable(compared.title, figure, names, rows, *ends, compared.better.get(figure))


def draw(table: SweepTable, target: Path) -> None:
    """Draw a heat map of two factors, the first from top to bottom; in each cell the mean and its standard error.

    Args:
        table: A table of two factors.
        target: The ``.png`` file to create or replace.
    """
    from matplotlib.figure import Figure

    down, across = (list(dict.fromkeys(values)) for values in zip(*table.rows, strict=True))
    means = [[getattr(table.rows.get((y, x)), "mean", float("nan")) for x in across] for y in down]
    figure = Figure(figsize=(2.0 + 1.1 * len(across), 1.6 + 0.6 * len(down)), layout="constrained")
    axes = figure.subplots()
    colours = "viridis" if table.better == "max" else "viridis_r"
    picture = axes.imshow(means, cmap=colours, aspect="auto")
    for (y, x), value in table.rows.items():
        shade = picture.to_rgba(np.array([value.mean]))[0, :3].mean()  # white is 1
        words = str(value).replace(" ± ", "\n± ")
        place = across.index(x), down.index(y)
        axes.text(*place, words, ha="center", va="center", fontsize=8, color="black" if shade > 0.5 else "white")
    labels = short_names(table.names)
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(down)), down)
    axes.set_ylabel(labels[table.names[0]])
    axes.set_xlabel(labels[table.names[1]])
    axes.set_title(f"{table.figure}, {table.title}", fontsize=9)
    figure.colorbar(picture, ax=axes)
    with replacing(target) as file:
        figure.savefig(file, dpi=DPI)
