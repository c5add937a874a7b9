"""``realuid report``: what runs have measured, as a table, and a second one for runs that know the truth."""

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from realuid_lightning.cli.parsing import Clear, at_home
from realuid_lightning.errors import UserError

TEXTS = ("run", "sampler", "features")


class Figures(NamedTuple):
    """A kind of figures, each of which a run keeps in a file, a line a measurement.

    Attributes:
        file: Name of the file.
        title: Of the table.
        columns: Of the table, after the run and the sampler; features go last.
        better: The better of some figures, by their names in the file.
        formats: Of the figures, by their names.
    """

    file: str
    title: str
    columns: tuple[str, ...]
    better: dict[str, Callable[[Iterable[float]], float]]
    formats: dict[str, str]


DISTANCES = Figures(
    "figures.jsonl",
    "Frechet distance to the real data",
    ("step", "last", "best", "samples", "features"),
    {"fid": min},
    {"fid": ".4g"},
)
FIDELITIES = Figures(
    "fidelity.jsonl",
    "Likeness to the truth",
    ("step", "PSNR, dB", "best PSNR", "SSIM", "best SSIM", "samples"),
    {"psnr": max, "ssim": max},
    {"psnr": ".2f", "ssim": ".4f"},
)


def report(words: Sequence[str]) -> None:
    """Print the last and the best figures of every run at or below the given folders, oldest run first.

    Raises:
        UserError: If a folder holds no run that has measured anything.
    """
    parser = Clear(prog="realuid report", description="Print a table of the distances that runs have measured.")
    parser.add_argument("folders", type=str, nargs="*", default=["runs"], help="folders of runs, at any depth")
    folders = [Path(folder) for folder in at_home(parser.parse_args(list(words)).folders)]
    for folder in folders:
        if not (_histories(folder, DISTANCES) or _histories(folder, FIDELITIES)):
            raise UserError(
                f"report: {folder} holds no figures.jsonl and no fidelity.jsonl; give the folder of a run that has "
                "validated"
            )
    shown = False
    for figures in (DISTANCES, FIDELITIES):
        rows = [
            row
            for folder in folders
            for history in _histories(folder, figures)
            for row in last_and_best(figures, history, _run(folder, history))
        ]
        if rows:
            shown = True
            _print(figures.title, ["run", "sampler", *figures.columns], rows)
    if not shown:
        raise UserError("report: no complete line of figures was found")


def last_and_best(figures: Figures, history: Path, run: str) -> list[tuple[Any, ...]]:
    """Return a row of the report for each sampler in a run's history, in the order of first appearance.

    Only figures of one protocol are compared: other features, other real data or another number of samples make a row
    of their own, and so do weights of another run that have been measured in this one's folder. Last is what belongs
    to the greatest step, for an older checkpoint may have been measured again since. Figures that are not finite are
    no best ones.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in _lines(figures, history):
        protocol = (row["sampler"], row["samples"], row.get("features"), row.get("reference"), row.get("checkpoint"))
        groups.setdefault(tuple(map(str, protocol)), []).append(row)
    references = {group[3] for group in groups}
    found = []
    for group, measured in groups.items():
        last = max(reversed(measured), key=lambda row: row["step"])
        cells: list[Any] = [_place(run, last.get("checkpoint")), last["sampler"], last["step"]]
        for name, better in figures.better.items():
            finite = [row[name] for row in measured if math.isfinite(row[name])]
            shown = (last[name], better(finite) if finite else math.nan)
            cells += [format(figure, figures.formats[name]) for figure in shown]
        cells.append(last["samples"])
        if "features" in figures.columns:
            mark = f", data {hashlib.sha256(group[3].encode()).hexdigest()[:4]}" if len(references) > 1 else ""
            cells.append(f"{last['features']}{mark}")
        found.append(tuple(cells))
    return found


def _place(run: str, checkpoint: str | None) -> str:
    """Return whose weights were measured: the run's own, those of a file, or weights as they were given."""
    return run if checkpoint is None else f"{run}: {'untrained' if checkpoint == 'none' else checkpoint}"


def _lines(figures: Figures, history: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a history, and report others: a kill may have cut one off."""
    rows, broken = [], 0
    for line in history.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
            row = {**row, **row.get("protocol", {}), **row.get("figures", {})}
            numbers = [row["step"], row["samples"], *(row[name] for name in figures.better)]
            sound = all(isinstance(number, int | float) for number in numbers) and isinstance(row["sampler"], str)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            sound = False
        if sound:
            rows.append({"features": "", **row})
        elif line.strip():
            broken += 1
    if broken:
        print(f"report: {history}: {broken} broken line{'s' * (broken > 1)} left out", file=sys.stderr)
    return rows


def _histories(folder: Path, figures: Figures) -> list[Path]:
    found = [file for file in folder.rglob(figures.file) if file.is_file()]  # a pipe would be waited for
    return sorted(found, key=lambda file: file.stat().st_mtime)


def _run(folder: Path, history: Path) -> str:
    """Return a run's place below the folder that was asked for, or its own name if that is the run."""
    place = history.parent.relative_to(folder).as_posix()
    return history.parent.resolve().name if place == "." else place


def _print(title: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, no_wrap=column != "features", justify="left" if column in TEXTS else "right")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    # Into a file or a pipe lines are not cut; a terminal decides for itself.
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200).print(table)
