"""The figures of a page: what was measured, what was logged, and diagnostics by time."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from realuid_lightning.reporting.comparison import Comparison
from realuid_lightning.reporting.plots import Level, Line, Plot, Point, plot
from realuid_lightning.reporting.reading import Run, read_times, thinned
from realuid_lightning.reporting.scalars import binned, read_scalars

MOST_POINTS = 400
"""Points of a curve of measurements; from more, as many are taken evenly."""

MOST_STEPS = 5
"""Steps at which diagnostics by time are shown."""

LOSSES, TRAINING, SAMPLERS = "Losses", "Training", "Samplers"
NO_CURVES = ("epoch", "hp_metric", "time")  # curves by time are read from their own file
SENSES = {"min": "lower", "max": "higher"}


class Key(NamedTuple):
    """An entry of a legend: what a colour stands for."""

    label: str
    colour: int


class Section(NamedTuple):
    """Figures that share a legend.

    Attributes:
        title: What they are about.
        legend: What their colours stand for.
        plots: The figures.
        notes: What else a figure's caption says, by its title.
    """

    title: str
    legend: list[Key]
    plots: list[Plot]
    notes: dict[str, str]


class _Legend:
    """Gives every label the next colour."""

    def __init__(self) -> None:
        self._colours: dict[str, int] = {}

    def colour(self, label: str) -> int:
        return self._colours.setdefault(label, len(self._colours))

    def keys(self, drawn: Iterable[Plot]) -> list[Key]:
        """Return the entries that some figures use."""
        used = {curve.line.colour for each in drawn for curve in each.curves}
        used |= {level.colour for each in drawn for level in each.levels if level.colour is not None}
        return [Key(label, colour) for label, colour in self._colours.items() if colour in used]


def figure_curves(runs: Sequence[Run], compared: Iterable[Comparison]) -> list[Section]:
    """Return a section for each protocol, a figure for each of its figures, with floor and Gaussian as levels."""
    legend, sections = _Legend(), []
    for comparison in compared:
        drawn = _drawn(_figure(runs, comparison, name, legend) for name in comparison.figures)
        notes = {name: f"{SENSES[better]} is better" for name, better in comparison.better.items()}
        sections.append(Section(comparison.title, legend.keys(drawn), drawn, notes))
    return sections


def _figure(runs: Sequence[Run], comparison: Comparison, name: str, legend: _Legend) -> Plot | None:
    lines = []
    for series in comparison.series:
        label = _label(runs, series.run, series.sampler)
        steps = thinned([step for step, values in series.steps.items() if name in values], MOST_POINTS)
        points = [_point(step, *series.steps[step][name][:2]) for step in steps]
        lines.append(Line(label, legend.colour(label), points))
    ends = (("real data", "floor", comparison.floor), ("Gaussian", "gaussian", comparison.gaussian))
    levels = [Level(label, kind, end[name].mean) for label, kind, end in ends if name in end]
    return plot(name, lines, levels)


def _point(step: int, mean: float, error: float) -> Point:
    return Point(step, mean, mean - error, mean + error)


def _drawn(figures: Iterable[Plot | None]) -> list[Plot]:
    return [figure for figure in figures if figure is not None]


def _label(runs: Sequence[Run], run: str, sampler: str) -> str:
    """Return the name of a sampler among those of all runs."""
    return sampler if len(runs) == 1 and run == runs[0].name else f"{run}: {sampler}"


def logged_curves(runs: Sequence[Run], measured: Iterable[str]) -> list[Section]:
    """Return what else was logged: losses, what training tells besides, and diagnostics of samplers.

    Args:
        runs: The runs.
        measured: Names of the figures, which have curves of their own.
    """
    kinds: dict[str, tuple[_Legend, dict[str, list[Line]]]] = {
        title: (_Legend(), {}) for title in (LOSSES, TRAINING, SAMPLERS)
    }
    for run in runs:
        for tag, points in read_scalars(run.folder).items():
            if tag.partition("/")[0] in (*NO_CURVES, *measured):
                continue
            # What is logged of each sampler belongs into one figure: diagnostics/spread/ema_0.99.
            title, _, sampler = tag.rpartition("/") if tag.count("/") > 1 else (tag, "", "")
            legend, lines = kinds[LOSSES if tag.startswith("train/") else SAMPLERS if sampler else TRAINING]
            label = _label(runs, run.name, sampler) if sampler else run.name
            curve = [Point(*each) for each in binned(points)]
            lines.setdefault(title, []).append(Line(label, legend.colour(label), curve, marked=False))
    sections = []
    for title, (legend, lines) in kinds.items():
        drawn = _drawn(plot(name, part) for name, part in lines.items())
        sections += [Section(title, legend.keys(drawn), drawn, {})] if drawn else []
    return sections


def time_curves(runs: Iterable[Run]) -> list[Section]:
    """Return a section for each run that has diagnostics by time: a curve over time for each of a few steps."""
    sections = []
    for run in runs:
        legend, rows = _Legend(), thinned(read_times(run.folder), MOST_STEPS)
        lines: dict[str, list[Line]] = {}
        for row in rows:
            label = f"step {row.step}"
            for name, values in row.values.items():
                lines.setdefault(name, []).append(Line(label, legend.colour(label), list(map(Point, row.bins, values))))
        drawn = _drawn(plot(name, part, x_label="t") for name, part in lines.items())
        sections += [Section(f"By time: {run.name}", legend.keys(drawn), drawn, {})] if drawn else []
    return sections
