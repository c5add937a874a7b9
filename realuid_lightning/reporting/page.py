"""One HTML page of runs: it holds all that it shows, and asks no network for anything."""

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from realuid_lightning import __version__
from realuid_lightning.atomic import replacing
from realuid_lightning.redaction import without_secrets_in_text
from realuid_lightning.reporting import plots, tables
from realuid_lightning.reporting.comparison import Comparison, Value, comparisons
from realuid_lightning.reporting.costs import cost
from realuid_lightning.reporting.curves import LOSSES, figure_curves, logged_curves, time_curves
from realuid_lightning.reporting.grids import sample_grids, teacher_pairs
from realuid_lightning.reporting.reading import CONFIG, Run, read_fits, read_text
from realuid_lightning.reporting.standing import standings

HERE = Path(__file__).parent

LONGEST = 200_000
"""Characters of a config that are shown."""


def write_page(runs: Sequence[Run], target: str | Path) -> None:
    """Write a page about runs.

    Args:
        runs: What it is about.
        target: The ``.html`` file to create or replace.

    Raises:
        OSError: If it cannot be written.
    """
    text = render(runs)
    with replacing(target) as file:
        file.write_text(text, encoding="utf-8", errors="replace")


def render(runs: Sequence[Run]) -> str:
    """Return the page as HTML; whatever runs call themselves is text there, and never markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    compared = comparisons(runs)
    logged = logged_curves(runs, {name for each in compared for name in each.figures})
    costs = [(run.name, entry) for run in runs if (entry := cost(read_fits(run.folder)))]
    script = (HERE / "page.js").read_text()
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        title=", ".join(run.name for run in runs[:4]) + (f" and {len(runs) - 4} more runs" if len(runs) > 4 else ""),
        version=__version__,
        broken=sum(run.broken for run in runs),
        width=plots.WIDTH,
        height=plots.HEIGHT,
        style=(HERE / "page.css").read_text(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        boards=[board(each) for each in compared],
        standings=standings(runs, compared),
        curves=figure_curves(runs, compared),
        pairs=teacher_pairs(runs),
        grids=sample_grids(runs),
        losses=[each for each in logged if each.title == LOSSES],
        diagnostics=[*(each for each in logged if each.title != LOSSES), *time_curves(runs)],
        costs=costs,
        cost_rows=list(dict.fromkeys(row for _, entry in costs for row in entry)),
        configs=list(_configs(runs)),
    )


def _configs(runs: Iterable[Run]) -> Iterable[tuple[str, str]]:
    for run in runs:
        text = read_text(run.folder / CONFIG)
        if text.strip():
            cut = f"{text[:LONGEST]}\n..." if len(text) > LONGEST else text
            yield run.name, without_secrets_in_text(cut)


def board(compared: Comparison) -> dict[str, Any]:
    """Return the table of a comparison as the template takes it."""
    best = {name: compared.best(name) for name in compared.figures} if len(compared.series) > 1 else {}
    body = [
        {
            **row._asdict(),
            "cells": [_cell(row.values.get(name), best.get(name, math.nan)) for name in compared.figures],
        }
        for row in tables.rows(compared)
    ]
    ends = [(row.run, [str(row.values.get(name, "")) for name in compared.figures]) for row in tables.bounds(compared)]
    return {
        "title": compared.title,
        "figures": compared.figures,
        "rows": body,
        "ends": ends,
        "protocol": compared.protocol,
    }


def _cell(value: Value | None, best: float) -> dict[str, Any]:
    return {"text": "" if value is None else str(value), "best": value is not None and value.mean == best}
