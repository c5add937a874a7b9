"""Teachers and their one-step generators, of sweeps over seeds: the tables of docs/frameworks.md.

A table for each figure and protocol, with a row for each sweep that `realuid sweep --teacher` has left in the folder:
mean and standard deviation over its seeds, at the end of training; for each value of its other factors, if it has any.
Runs that are not done, and weights of other runs, do not count. Of several averages of a generator the last one counts
that its config names. Nothing is trained or measured.

Usage: python benchmarks/frameworks.py runs/sweeps/frameworks [--figures coverage mmd_0.05]
"""

import argparse
import math
import re
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev

from realuid_lightning.errors import UserError
from realuid_lightning.reporting import Comparison, Measurement, Run, Series, comparisons, read_runs
from realuid_lightning.sweeping import state_of

TEACHER = "teacher"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds sweeps, at any depth")
    parser.add_argument("--figures", nargs="+", default=["fid", "coverage", "mmd_0.05"], help="a table each")
    options = parser.parse_args()
    try:
        compared = comparisons(own(run) for run in read_runs([options.folder]) if state_of(run.folder) != "begun")
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    for figure in options.figures:
        for each in compared:
            if figure in each.figures:
                print(f"{table(figure, each)}\n")


def own(run: Run) -> Run:
    """Return a run without what was measured of other weights in its folder."""
    return run._replace(measurements=[each for each in run.measurements if each.checkpoint is None])


def measured(folder: Path) -> list[Measurement]:
    """Return what the run of this very folder has measured, without runs that lie in it; nothing where it has none."""
    runs = read_runs([folder]) if (folder / "figures.jsonl").is_file() else []
    return [row for run in runs if run.folder == folder.resolve() for row in run.measurements]


def table(figure: str, compared: Comparison) -> str:
    """Return the table of a figure in Markdown."""
    cells: dict[str, dict[str, dict[str, float]]] = {}  # by row, column and seed
    for series in sorted(compared.series, key=lambda each: each.sampler != "raw"):  # averages stand in for raw weights
        row, column, seed = place(series)
        if figure in series.steps[series.last]:
            cells.setdefault(row, {}).setdefault(column, {})[seed] = series.steps[series.last][figure].mean
    columns = sorted({each for row in cells.values() for each in row}, key=many_steps_of_teachers_first)
    ends = [f"{end[figure].mean:.3g}" if figure in end else "" for end in (compared.floor, compared.gaussian)]
    header = ["", "seeds", "floor", *columns, "Gaussian"]
    lines = [f"**{figure}** ({compared.title})", "", line(header), line(["---"] * len(header))]
    for row, found in sorted(cells.items()):
        seeds = str(max(map(len, found.values())))
        lines.append(
            line([f"`{row}`", seeds, ends[0], *(spread(found.get(each, {}).values()) for each in columns), ends[1]])
        )
    return "\n".join(lines)


def place(series: Series) -> tuple[str, str, str]:
    """Return whose row, which column and which seed samples belong to, by the folder of their run."""
    folder, named = Path(series.run), re.search(r"_steps_(\d+)$", series.sampler)
    steps = named[1] if named else "1"
    taught = TEACHER in (folder.name, folder.parent.name)
    row = folder.parent.parent if folder.parent.name == TEACHER else folder.parent
    parts = folder.name.split(",")  # alpha=1,seed=0
    factors = [part for part in parts if "=" in part and not part.startswith("seed=")]
    seed = ",".join(part for part in parts if part not in factors)
    column = f"{TEACHER if taught else 'generator'}, {steps} step{'s' * (steps != '1')}"
    return str(row / ",".join(factors)), column, seed


def many_steps_of_teachers_first(column: str) -> tuple[bool, int]:
    return not column.startswith(TEACHER), -int(column.split()[1])


def spread(figures: Iterable[float]) -> str:
    """Return mean and standard deviation."""
    known = list(figures)
    deviation = f" ± {stdev(known):.2g}" if len(known) > 1 and all(map(math.isfinite, known)) else ""
    return f"{fmean(known):.3g}{deviation}" if known else ""


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
