"""Figures that may be compared, side by side: those of one protocol."""

import json
import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from realuid_lightning.reporting.reading import Measurement, Run


class Value(NamedTuple):
    """A figure, as the mean over the seeds with which it was measured.

    Attributes:
        mean: Of all seeds.
        error: Standard error of the mean; NaN for one seed.
        seeds: Their number.
    """

    mean: float
    error: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.error:.2g}" if self.error > 0 else f"{self.mean:.4g}"


Values = dict[str, Value]


class Series(NamedTuple):
    """A sampler of a run, as it was measured step by step.

    Attributes:
        run: Name of the run, and whose weights they are if not its own.
        sampler: Name of the sampler.
        steps: Figures by their names, by step, in ascending order.
    """

    run: str
    sampler: str
    steps: dict[int, Values]

    @property
    def last(self) -> int:
        """The greatest step."""
        return max(self.steps)


class Comparison(NamedTuple):
    """All that was measured by one protocol.

    Attributes:
        protocol: What all of it shares.
        title: Tells it from the other comparisons.
        figures: Names of the figures.
        better: Whether a low (``min``) or a high (``max``) figure is good, of those of which it is known.
        series: Samplers of runs.
        floor: What held-out real data score, as far as it was measured.
        gaussian: What a Gaussian with the data's moments scores.
    """

    protocol: dict[str, Any]
    title: str
    figures: list[str]
    better: dict[str, str]
    series: list[Series]
    floor: Values
    gaussian: Values

    def best(self, figure: str) -> float:
        """Return the best of a figure that a sampler reaches at its last step; NaN where none or its sense is known."""
        last = [values[figure].mean for each in self.series if figure in (values := each.steps[each.last])]
        sound = [mean for mean in last if math.isfinite(mean)]
        sense = self.better.get(figure)
        return math.nan if not sound or sense is None else min(sound) if sense == "min" else max(sound)


def comparisons(runs: Iterable[Run]) -> list[Comparison]:
    """Sort what runs have measured by its protocol, in the order of first appearance.

    Where a sampler was measured at one step by several seeds, their mean stands for it; where by one seed several
    times, the last one counts.
    """
    groups: dict[str, list[tuple[str, Measurement]]] = {}
    for run in runs:
        for measured in run.measurements:
            key = json.dumps(measured.protocol, sort_keys=True, default=str)
            groups.setdefault(key, []).append((_place(run.name, measured.checkpoint), measured))
    protocols = [rows[0][1].protocol for rows in groups.values()]
    return [_comparison(title, rows) for title, rows in zip(_titles(protocols), groups.values(), strict=True)]


def _comparison(title: str, rows: Sequence[tuple[str, Measurement]]) -> Comparison:
    seeds: dict[tuple[str, str], dict[int, dict[int | None, dict[str, float]]]] = {}
    for place, row in rows:
        seeds.setdefault((place, row.sampler), {}).setdefault(row.step, {})[row.seed] = row.figures
    series = [
        Series(*names, {step: _values(steps[step].values()) for step in sorted(steps)})
        for names, steps in seeds.items()
    ]
    ends = [{row.seed: getattr(row, end) for _, row in rows if getattr(row, end)} for end in ("floor", "gaussian")]
    floor, gaussian = (_values(end.values()) for end in ends)
    figures = list(dict.fromkeys(name for _, row in rows for name in row.figures))
    better = {name: sense for _, row in rows for name, sense in row.better.items()}
    return Comparison(rows[0][1].protocol, title, figures, better, series, floor, gaussian)


def _values(measured: Iterable[dict[str, float]]) -> Values:
    """Return the mean of each figure over seeds; of those alone that have it."""
    columns: dict[str, list[float]] = {}
    for figures in measured:
        for name, figure in figures.items():
            columns.setdefault(name, []).append(figure)
    return {name: mean_of_seeds(column) for name, column in columns.items()}


def mean_of_seeds(column: Sequence[float]) -> Value:
    """Return the mean of a figure that was measured with several seeds, and its standard error."""
    sound = all(map(math.isfinite, column))
    error = stdev(column) / math.sqrt(len(column)) if sound and len(column) > 1 else math.nan
    return Value(fmean(column) if sound else column[0] if len(column) == 1 else math.nan, error, len(column))


def _place(run: str, checkpoint: str | None) -> str:
    """Return whose weights were measured: the run's own, those of a file, or weights as they were given."""
    return run if checkpoint is None else f"{run}: {'untrained' if checkpoint == 'none' else checkpoint}"


def _titles(protocols: Sequence[dict[str, Any]]) -> list[str]:
    """Name protocols by features and number of samples, and where that is not enough by what else tells them apart."""
    short = [_named(protocol, ("features", "truth", "samples")) for protocol in protocols]
    titles = []
    for name, protocol in zip(short, protocols, strict=True):
        like = [other for title, other in zip(short, protocols, strict=True) if title == name]
        keys = list(dict.fromkeys(key for other in like for key in other))
        telling = [key for key in keys if any(other.get(key) != protocol.get(key) for other in like)]
        titles.append(", ".join([name, *(f"{key} {_short(protocol.get(key))}" for key in telling)]))
    return titles


def _named(protocol: dict[str, Any], keys: Iterable[str]) -> str:
    words = {"features": "{}", "truth": "against the truth", "samples": "{} samples"}
    return ", ".join(words[key].format(protocol[key]) for key in keys if key in protocol) or "no protocol"


def _short(value: Any) -> str:
    """Return a value that fits into a title; of a hash, its beginning."""
    text = str(value)
    return text if len(text) <= 24 else f"{text[:8]}..."
