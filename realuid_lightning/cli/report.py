"""``realuid report``: what runs have measured, as a table, and a second one for runs that know the truth."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from realuid_lightning.errors import UserError

TEXTS = ("run", "sampler", "features")

Rows = list[tuple[Any, ...]]


def report(words: Sequence[str]) -> None:
    """Print the last and the best figures of every run at or below the given folders, oldest run first.

    Raises:
        UserError: If a folder holds no run that has measured anything.
    """
    folders = [Path(word) for word in words] or [Path("runs")]
    for folder in folders:
        if not (_histories(folder, "fid.jsonl") or _histories(folder, "fidelity.jsonl")):
            raise UserError(
                f"report: {folder} holds no fid.jsonl and no fidelity.jsonl; give the folder of a run that validated"
            )
    distances = _rows(folders, "fid.jsonl", last_distances)
    if distances:
        columns = ["run", "sampler", "step", "last", "best", "samples", "features"]
        _print("Frechet distance to the real data", columns, distances)
    fidelities = _rows(folders, "fidelity.jsonl", last_fidelities)
    if fidelities:
        columns = ["run", "sampler", "step", "PSNR, dB", "best PSNR", "SSIM", "best SSIM", "samples"]
        _print("Likeness to the truth", columns, fidelities)


def last_distances(history: Path) -> Rows:
    """Return a row of the report for each sampler in a run's ``fid.jsonl``, in the order of first appearance.

    Last is what belongs to the greatest step: an older checkpoint may have been measured again since.
    """
    return [
        (
            sampler,
            measured[-1]["step"],
            f"{measured[-1]['distance']:.4g}",
            f"{min(row['distance'] for row in measured):.4g}",
            measured[-1]["samples"],
            measured[-1]["features"],
        )
        for sampler, measured in _by_sampler(history).items()
    ]


def last_fidelities(history: Path) -> Rows:
    """Return a row of the report for each sampler in a run's ``fidelity.jsonl``, as ``last_distances`` does."""
    return [
        (
            sampler,
            measured[-1]["step"],
            f"{measured[-1]['psnr']:.2f}",
            f"{max(row['psnr'] for row in measured):.2f}",
            f"{measured[-1]['ssim']:.4f}",
            f"{max(row['ssim'] for row in measured):.4f}",
            measured[-1]["samples"],
        )
        for sampler, measured in _by_sampler(history).items()
    ]


def _by_sampler(history: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what a run has measured of each sampler, in the order of steps."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in history.read_text().splitlines():
        with suppress(json.JSONDecodeError):  # a line that a kill has cut off
            row = json.loads(line)
            rows.setdefault(row["sampler"], []).append(row)
    for measured in rows.values():
        measured.sort(key=lambda row: row["step"])
    return rows


def _histories(folder: Path, name: str) -> list[Path]:
    return sorted(folder.rglob(name), key=lambda file: file.stat().st_mtime)


def _rows(folders: Sequence[Path], name: str, read: Callable[[Path], Rows]) -> Rows:
    return [
        (_run(folder, history), *row)
        for folder in folders
        for history in _histories(folder, name)
        for row in read(history)
    ]


def _run(folder: Path, history: Path) -> str:
    """Return a run's place below the folder that was asked for, or its own name if that is the run."""
    place = history.parent.relative_to(folder).as_posix()
    return history.parent.resolve().name if place == "." else place


def _print(title: str, columns: Sequence[str], rows: Rows) -> None:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, no_wrap=column != "features", justify="left" if column in TEXTS else "right")
    for row in rows:
        table.add_row(*map(str, row))
    # Into a file or a pipe whole lines; a terminal decides for itself.
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200).print(table)
