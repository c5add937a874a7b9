"""``realuid report``: what runs have measured, as one table."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from realuid_lightning.errors import UserError

TEXTS = ("run", "sampler", "features")


def report(words: Sequence[str]) -> None:
    """Print the last and the best distances of every run at or below the given folders, oldest run first.

    Raises:
        UserError: If a folder holds no run that has measured anything.
    """
    folders = [Path(word) for word in words] or [Path("runs")]
    table = Table(title="Frechet distance to the real data")
    for column in ("run", "sampler", "step", "last", "best", "samples", "features"):
        table.add_column(column, no_wrap=column != "features", justify="left" if column in TEXTS else "right")
    for folder in folders:
        histories = sorted(folder.rglob("fid.jsonl"), key=lambda file: file.stat().st_mtime)
        if not histories:
            raise UserError(f"report: {folder} holds no fid.jsonl; give the folder of a run that has validated")
        for history in histories:
            for row in last_distances(history):
                table.add_row(*map(str, row))
    Console().print(table)


def last_distances(history: Path) -> list[tuple[Any, ...]]:
    """Return a row of the report for each sampler in a run's ``fid.jsonl``, in the order of first appearance.

    Last is what belongs to the greatest step: an older checkpoint may have been measured again since.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in history.read_text().splitlines():
        with suppress(json.JSONDecodeError):  # a line that a kill has cut off
            row = json.loads(line)
            rows.setdefault(row["sampler"], []).append(row)
    for measured in rows.values():
        measured.sort(key=lambda row: row["step"])
    return [
        (
            history.parent.name,
            sampler,
            measured[-1]["step"],
            f"{measured[-1]['distance']:.3f}",
            f"{min(row['distance'] for row in measured):.3f}",
            measured[-1]["samples"],
            measured[-1]["features"],
        )
        for sampler, measured in rows.items()
    ]
