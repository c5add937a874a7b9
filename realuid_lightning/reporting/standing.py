"""In words: where a run stands between real data, the teacher it began at and a Gaussian."""

import math
from collections.abc import Sequence

from realuid_lightning.reporting.comparison import Comparison, Series
from realuid_lightning.reporting.lineage import families
from realuid_lightning.reporting.reading import Run

PLACES = (
    "as good as real data",
    "between real data and its teacher",
    "between its teacher and a Gaussian",
    "worse than a Gaussian",
)


def standings(runs: Sequence[Run], compared: Sequence[Comparison]) -> list[str]:
    """Return a sentence for each run whose teacher is among the runs, for each protocol of both.

    A teacher that was trained further has one, too: that which it began at.

    Both are taken at their last steps, by the sampler that is best in the first figure. What real data score against
    held-out ones is the measure: a figure's distance from that, and that of the teacher and of a Gaussian with the
    data's moments.
    """
    return [
        sentence
        for run, teacher in families(runs)
        for comparison in compared
        for sentence in [_sentence(comparison, run.name, teacher.name)]
        if sentence
    ]


def _sentence(comparison: Comparison, run: str, teacher: str) -> str:
    generator, other = (_best(comparison, name) for name in (run, teacher))
    if generator is None or other is None:
        return ""
    found: dict[str, list[str]] = {}
    for figure in comparison.figures:
        placed = _place(comparison, figure, generator, other)
        if placed is not None:
            found.setdefault(placed[0], []).append(f"{figure}{placed[1]}")
    words = "; ".join(f"{place} in {', '.join(found[place])}" for place in PLACES if place in found)
    note = " (in brackets its distance from real data, that of its teacher being 1)" if "(" in words else ""
    return f"{run}, {generator.sampler}, by {comparison.title}: {words}{note}." if words else ""


def _best(comparison: Comparison, run: str) -> Series | None:
    """Return a run's sampler that is best in the first figure, at its last step."""
    figure = next((name for name in comparison.figures if name in comparison.better), None)
    own = [each for each in comparison.series if each.run == run and figure in each.steps[each.last]]
    if figure is None or not own:
        return None
    return min(own, key=lambda each: _loss(comparison, figure, each.steps[each.last][figure].mean))


def _loss(comparison: Comparison, figure: str, value: float) -> float:
    """Return a figure so that low is good; infinite for NaN."""
    loss = value if comparison.better[figure] == "min" else -value
    return math.inf if math.isnan(loss) else loss


def _place(comparison: Comparison, figure: str, generator: Series, teacher: Series) -> tuple[str, str] | None:
    """Return where a figure stands, and its distance from real data in units of the teacher's; None if unknown."""
    values = [comparison.floor, generator.steps[generator.last], teacher.steps[teacher.last], comparison.gaussian]
    if figure not in comparison.better or not all(figure in each for each in values):
        return None
    floor, own, other, gaussian = (_loss(comparison, figure, each[figure].mean) for each in values)
    if gaussian <= floor:
        return None  # a figure that a Gaussian satisfies tells nothing
    if own <= floor:
        return PLACES[0], ""
    times = (own - floor) / (other - floor) if other > floor else math.inf
    place = PLACES[3] if own > gaussian else PLACES[1] if own <= other else PLACES[2]
    return place, f" ({times:.3g})" if math.isfinite(times) else ""
