"""Curves as figures of a page: where every line, tick and label goes. The template draws them."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 12, 34

SPAN = 30.0
"""Ratio of the greatest to the least value beyond which an axis is logarithmic."""

HUGE = 1e100
"""Values from here on are not drawn, for nothing else could be seen beside them; their inverses are like 0."""


class Point(NamedTuple):
    """A point of a curve, and how far it may be off."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


class Line(NamedTuple):
    """A curve.

    Attributes:
        label: What it is.
        colour: Number of its colour, from 0; the page has ``COLOURS``, and then dashes.
        points: In the order of x; NaN leaves a gap.
        marked: Whether each point is shown as a measurement; otherwise the curve has a band from low to high.
    """

    label: str
    colour: int
    points: Sequence[Point]
    marked: bool = True


class Level(NamedTuple):
    """A horizontal line.

    Attributes:
        label: What it is.
        kind: ``floor`` and ``gaussian`` are named beside it; ``single`` is a line of one point, in its colour.
        y: Its value.
        colour: Number of the line's colour; None for a level of no line.
    """

    label: str
    kind: str
    y: float
    colour: int | None = None


class Axis(NamedTuple):
    """A range of values, and where they lie on the page."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        """Return the place of a value; one beyond the range lies at its end."""
        low, high, inside = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, inside = math.log(low), math.log(high), math.log(inside)
        return round(self.start + (self.stop - self.start) * (inside - low) / (high - low), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places of round values, with these as text."""
        values = _decades(self.low, self.high) if self.logarithmic else _round_steps(self.low, self.high)
        return [(self(value), short(value)) for value in values]


class Curve(NamedTuple):
    """A line as it is drawn: SVG paths, and the places of its marks with their error bars and words."""

    line: Line
    path: str
    band: str
    marks: list[tuple[float, float, float, float, str]]


class Plot(NamedTuple):
    """A figure as it is drawn.

    Attributes:
        title: What it shows.
        x_label: Name of the horizontal axis.
        x: The horizontal axis.
        y: The vertical axis.
        curves: Its lines.
        levels: Its horizontal lines.
    """

    title: str
    x_label: str
    x: Axis
    y: Axis
    curves: list[Curve]
    levels: list[Level]


def plot(title: str, lines: Iterable[Line], levels: Iterable[Level] = (), x_label: str = "step") -> Plot | None:
    """Lay out a figure; None where there is no finite value.

    A line of one point becomes a level if there are longer ones: what was measured once is compared with all steps.

    Args:
        title: What it shows.
        lines: The curves.
        levels: Horizontal lines that all of them are compared with.
        x_label: Name of the horizontal axis.
    """
    sound = [line for line in lines if any(_is_drawn(point.y) for point in line.points)]
    levels = [level for level in levels if _is_drawn(level.y)]
    if not sound:
        return None
    long = [line for line in sound if len(line.points) > 1]
    if long:
        single = [line for line in sound if len(line.points) == 1]
        levels += [Level(line.label, "single", line.points[0].y, line.colour) for line in single]
    lines = long or sound
    points = [point for line in lines for point in line.points if _is_drawn(point.y)]
    x = _axis([point.x for point in points], LEFT, WIDTH - RIGHT, logarithmic=False, margin=0.02)
    ys = [y for point in points for y in (point.y, point.low, point.high) if _is_drawn(y)]
    values = ys + [level.y for level in levels]
    positive = [value for value in values if value > 1 / HUGE]
    logarithmic = min(ys) > 1 / HUGE and max(positive) / min(positive) > SPAN
    y = _axis(positive if logarithmic else values, HEIGHT - BOTTOM, TOP, logarithmic=logarithmic, margin=0.06)
    return Plot(title, x_label, x, y, [_curve(line, x, y) for line in lines], levels)


def _is_drawn(value: float) -> bool:
    return abs(value) < HUGE  # which NaN is not


def _axis(values: Sequence[float], start: float, stop: float, *, logarithmic: bool, margin: float) -> Axis:
    low, high = min(values), max(values)
    if logarithmic:
        room = (high / low) ** margin
        return Axis(low / room, high * room, start, stop, logarithmic)
    narrow = high - low <= 1e-9 * max(abs(low), abs(high))
    room = (abs(high) * 0.1 or 1.0) if narrow else margin * (high - low)
    return Axis(low - room, high + room, start, stop, logarithmic)


def _curve(line: Line, x: Axis, y: Axis) -> Curve:
    runs: list[list[Point]] = [[]]
    for point in line.points:
        if _is_drawn(point.y):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    path = " ".join(_path([(x(point.x), y(point.y)) for point in run]) for run in runs if run)
    if not line.marked:
        sides = [[(x(p.x), y(p.low)) for p in run] + [(x(p.x), y(p.high)) for p in reversed(run)] for run in runs]
        return Curve(line, path, " ".join(f"{_path(side)} Z" for side in sides if side), [])
    marks = []
    for point in (point for run in runs for point in run):
        low, high = (y(end if math.isfinite(end) else point.y) for end in (point.low, point.high))
        spread = f" ± {point.high - point.y:.2g}" if math.isfinite(point.high) else ""
        marks.append((x(point.x), y(point.y), low, high, f"{line.label}: {point.y:.4g}{spread} at {point.x:g}"))
    return Curve(line, path, "", marks)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:g} {y:g}" for x, y in places)


def _round_steps(low: float, high: float) -> list[float]:
    """Return about five round values between two others."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.99)
    return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Return powers of ten between two positive values, and their multiples where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, (last - first) // 6)
    factors = (1, 2, 5) if high / low < 300 else (1,)
    values = [factor * 10.0**power for power in range(first, last + 1, stride) for factor in factors]
    return [value for value in values if low <= value <= high]


def short(value: float) -> str:
    """Return a number as an axis shows it.

    Example:
        >>> [short(value) for value in (0.05, 1200, 50_000, 2e6, 1e-7)]
        ['0.05', '1200', '50k', '2M', '1e-07']
    """
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size and abs(value) < 1e9:
            return f"{value / (1e3 if unit == 'k' else 1e6):.4g}{unit}"
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"
