"""The figures of a page: what was measured, what was logged, and diagnostics by time."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from realuid_lightning.reporting.comparison import Comparison
from realuid_lightning.reporting.plots import Level, Line, Plot, Point, plot
from realuid_lightning.reporting.reading import Run, TimeBins, read_times, thinned
from realuid_lightning.reporting.scalars import binned, read_scalars

MOST_POINTS = 400
"""Points of a curve of measurements; from more, as many are taken evenly."""

MOST_STEPS = 5
"""Steps at which diagnostics by time are shown."""

LOSSES = "train/"
NO_CURVES = ("epoch", "hp_metric")


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
        drawn = []
        for name in comparison.figures:
            lines = []
            for series in comparison.series:
                label = (
                    series.sampler
                    if len(runs) == 1 and series.run == runs[0].name
                    else f"{series.run}: {series.sampler}"
                )
                steps = thinned([step for step, values in series.steps.items() if name in values], MOST_POINTS)
                points = [_point(step, *series.steps[step][name][:2]) for step in steps]
                lines.append(Line(label, legend.colour(label), points))
            ends = (("real data", "floor", comparison.floor), ("Gaussian", "gaussian", comparison.gaussian))
            levels = [Level(label, kind, end[name].mean) for label, kind, end in ends if name in end]
            drawn += _drawn(plot(name, lines, levels))
        sections.append(Section(comparison.title, legend.keys(drawn), drawn, {}))
    return sections


def _point(step: int, mean: float, error: float) -> Point:
    return Point(step, mean, mean - error, mean + error)


def _drawn(figure: Plot | None) -> list[Plot]:
    return [] if figure is None else [figure]


def logged_curves(runs: Sequence[Run], measured: Iterable[str]) -> tuple[Section, Section]:
    """Return the losses, and whatever else was logged, but for the figures that were measured."""
    legend = _Legend()
    lines: dict[str, list[Line]] = {}
    left_out = (*NO_CURVES, *measured)
    for run in runs:
        for tag, points in read_scalars(run.folder).items():
            if tag.partition("/")[0] in left_out:
                continue
            # What is logged of each sampler belongs into one figure: diagnostics/spread/ema_0.99.
            title, _, sampler = tag.rpartition("/") if tag.count("/") > 1 else (tag, "", "")
            label = ": ".join(word for word in (run.name if len(runs) > 1 or not sampler else "", sampler) if word)
            curve = [Point(*each) for each in binned(points)]
            lines.setdefault(title, []).append(Line(label, legend.colour(label), curve, marked=False))
    losses = [each for title, part in lines.items() if title.startswith(LOSSES) for each in _drawn(plot(title, part))]
    others = [
        each for title, part in lines.items() if not title.startswith(LOSSES) for each in _drawn(plot(title, part))
    ]
    return Section("", legend.keys(losses), losses, {}), Section("", legend.keys(others), others, {})


def time_curves(runs: Iterable[Run]) -> list[Section]:
    """Return a section for each run that has diagnostics by time: a curve over time for each of a few steps."""
    sections = []
    for run in runs:
        legend, rows = _Legend(), thinned(read_times(run.folder), MOST_STEPS)
        names = list(dict.fromkeys(name for row in rows for name in row.values))
        drawn = [
            each
            for name in names
            for each in _drawn(
                plot(name, [_line(row, name, legend) for row in rows if name in row.values], x_label="t")
            )
        ]
        if drawn:
            sections.append(Section(f"By time: {run.name}", legend.keys(drawn), drawn, {}))
    return sections


def _line(row: TimeBins, name: str, legend: _Legend) -> Line:
    label = f"step {row.step}"
    return Line(label, legend.colour(label), list(map(Point, row.bins, row.values[name])))
