"""How many generator updates two methods need to come as near: the curves and the ratio of docs/convergence.md.

Reads `figures.jsonl` of runs of both, one run a seed, that have measured often (`trainer.val_check_interval`). For each
target distance it finds where a run first comes below it, on a line between two measurements in the logarithm of the
distance, and divides: above 1, the second method is faster. Seeds are paired; a target that a run never reaches counts
for none.

Usage: python benchmarks/convergence.py runs/convergence/uid runs/convergence/realuid [--figure fid] [--cost 1.4]
"""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

from frameworks import measured, spread

Curve = list[tuple[int, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="holds runs of a method, a folder a seed")
    parser.add_argument("second", type=Path, help="holds runs of the other, with the same seeds")
    parser.add_argument("--figure", default="fid", help="a distance: less is better")
    parser.add_argument("--sampler", help="whose figures; the last average of a run by default")
    parser.add_argument("--cost", type=float, default=1.0, help="of an update of the second, in updates of the first")
    options = parser.parse_args()
    found = [
        [curve(folder / seed.name, options.figure, options.sampler) for folder in (options.first, options.second)]
        for seed in sorted(options.first.glob("seed=*"))
    ]
    pairs = [pair for pair in found if all(pair)]
    if not pairs:
        raise SystemExit(f"error: no seed has measured {options.figure}, above 0, in both folders")
    print("\n".join(curves(pairs, options.figure, (options.first.name, options.second.name))), end="\n\n")
    print("\n".join(ratios(pairs, options.figure, options.cost)))


def curve(run: Path, figure: str, sampler: str | None) -> Curve:
    """Return a figure by generator updates; empty where a run has none, or none above 0, of which a logarithm is."""
    rows = measured(run)
    samplers = [row.sampler for row in rows]
    last = next((name for name in reversed(samplers) if name.startswith("ema")), samplers[-1] if samplers else None)
    found = [
        (row.step, row.figures[figure])
        for row in rows
        if row.sampler == (sampler or last) and math.isfinite(row.figures.get(figure, math.nan))
    ]
    return found if any(value > 0 for _, value in found) else []


def curves(pairs: list[list[Curve]], figure: str, names: tuple[str, str]) -> list[str]:
    """Return a table of both curves."""
    lines = [f"| updates | {figure}, {names[0]} | {names[1]} |", "| --- " * 3 + "|"]
    for step, _ in pairs[0][0]:
        found = [[dict(each)[step] for each in sides if step in dict(each)] for sides in zip(*pairs, strict=True)]
        if not all(found):
            continue  # the other has measured at other steps
        lines.append(f"| {step} | {' | '.join(map(spread, found))} |")
    return lines


def ratios(pairs: list[list[Curve]], figure: str, cost: float) -> list[str]:
    """Return a table of targets and of how much sooner the second method reaches them, by updates and by compute."""
    reached = [value for pair in pairs for each in pair for _, value in each]
    ends = [min(value for _, value in each if value > 0) for pair in pairs for each in pair]
    low, high = math.log(max(ends)), math.log(max(reached))
    lines = [f"| {figure} | updates | compute | seeds |", "| --- " * 4 + "|"]
    for part in (0.75, 0.5, 0.25, 0.0):
        target = math.exp(low + part * (high - low))
        found = [[crossing(each, target) for each in pair] for pair in pairs]
        sooner = [first / second for first, second in found if first and second]
        if sooner:
            by_compute = spread([each / cost for each in sooner])
            lines.append(f"| {target:.3g} | {spread(sooner)} | {by_compute} | {len(sooner)} |")
    return lines


def crossing(curve: Iterable[tuple[int, float]], target: float) -> float | None:
    """Return the step at which a curve first reaches a target, on straight lines of its logarithm; None if never."""
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value <= target:
            if before is None or value <= 0:
                return float(step)
            share = math.log(before[1] / target) / math.log(before[1] / value)
            return before[0] + share * (step - before[0])
        before = step, value
    return None


if __name__ == "__main__":
    main()
