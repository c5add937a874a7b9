"""Tables of figures: a row a sampler, a column a figure, and the bounds below."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from realuid_lightning.reporting.comparison import Comparison, Series, Values

BOUNDS = ("held-out real data", "Gaussian")
NAMES = ("run", "sampler", "step")


class Row(NamedTuple):
    """A row of figures.

    Attributes:
        run: Name of the run; that of the bound in rows of bounds.
        sampler: Name of the sampler.
        step: Its step, in words.
        values: Figures by their names.
    """

    run: str
    sampler: str
    step: str
    values: Values


def rows(comparison: Comparison) -> list[Row]:
    """Return the last step of every sampler, and the one at which its first figure was best, if that is another."""
    found = []
    for series in comparison.series:
        found.append(Row(series.run, series.sampler, str(series.last), series.steps[series.last]))
        best = _best_step(comparison, series)
        if best is not None and best != series.last:
            found.append(Row(series.run, series.sampler, f"{best}, best", series.steps[best]))
    return found


def _best_step(comparison: Comparison, series: Series) -> int | None:
    figure = next((name for name in comparison.figures if name in comparison.better), None)
    if figure is None:
        return None
    means = {step: values[figure].mean for step, values in series.steps.items() if figure in values}
    sound = {step: mean for step, mean in means.items() if math.isfinite(mean)}
    choose = min if comparison.better[figure] == "min" else max
    return choose(reversed(sound), key=lambda step: sound[step]) if sound else None  # the latest of equals


def bounds(comparison: Comparison) -> list[Row]:
    """Return what real data and a Gaussian score, where it was measured."""
    ends = zip(BOUNDS, (comparison.floor, comparison.gaussian), strict=True)
    return [Row(name, "", "", values) for name, values in ends if values]


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the table of a comparison; where a line has no place for all figures, the others in tables below."""
    body, ends = rows(comparison), bounds(comparison)
    columns = zip(NAMES, *(row[:3] for row in [*body, *ends]), strict=True)
    names = [max(map(len, column)) for column in columns]
    room = console.width - sum(names) - 3 * len(names) - 1
    for part in _parts(comparison, [*body, *ends], room):
        table = Table(title=escape(comparison.title))
        for column in NAMES:
            table.add_column(column, justify="right" if column == "step" else "left", no_wrap=True)
        for figure in part:
            table.add_column(escape(figure), justify="right", no_wrap=True)
        for row in [*body, *ends]:
            words = [*row[:3], *(str(row.values.get(figure, "")) for figure in part)]
            table.add_row(*map(escape, words), end_section=row is body[-1])
        console.print(table)


def _parts(comparison: Comparison, lines: Sequence[Row], room: int) -> list[list[str]]:
    """Return the figures of tables that are no wider than there is room."""
    parts: list[list[str]] = [[]]
    left = room
    for figure in comparison.figures:
        width = 3 + max(len(text) for text in (figure, *(str(row.values.get(figure, "")) for row in lines)))
        if parts[-1] and width > left:
            parts.append([])
            left = room
        parts[-1].append(figure)
        left -= width
    return parts
