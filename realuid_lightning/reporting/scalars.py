"""Curves that loggers have kept in a run folder: event files of TensorBoard, and ``metrics.csv`` of a CSVLogger."""

import csv
import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from realuid_lightning.reporting.reading import FIDELITY, FIGURES, number, read_text

Scalars = dict[str, dict[int, float]]
"""Values by step, by the name of what was logged."""


class Bin(NamedTuple):
    """Neighbouring points of a curve, for which one stands: their means, and the values between which they lie."""

    step: float
    mean: float
    low: float
    high: float


def read_scalars(folder: Path) -> Scalars:
    """Return what was logged of a run; where a step was logged twice, as after a resume, what the later file says."""
    scalars: Scalars = {}
    for found in [*_event_folders(folder), *_own(folder, "metrics.csv")]:
        for name, points in (_events(found) if found.is_dir() else _table(found)).items():
            scalars.setdefault(name, {}).update(points)
    return {name: dict(sorted(points.items())) for name, points in sorted(scalars.items())}


def _own(folder: Path, pattern: str) -> list[Path]:
    """Return files of a run by their age; not those of a run that lies below it."""
    others = [file.parent for name in (FIGURES, FIDELITY) for file in folder.rglob(name) if file.parent != folder]
    files = (file for file in folder.rglob(pattern) if file.is_file())
    own = [file for file in files if not any(file.is_relative_to(other) for other in others)]
    return sorted(own, key=lambda file: (file.stat().st_mtime, file))


def _event_folders(folder: Path) -> list[Path]:
    return list(dict.fromkeys(file.parent for file in _own(folder, "events.out.tfevents.*")))


def _events(folder: Path) -> Scalars:
    """Return the scalars of a folder of event files, which TensorBoard itself reads, up to where one is damaged."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tb_logging

    tb_logging.get_logger().setLevel(logging.ERROR)  # it tells of every file that was begun anew
    sizes = {**dict.fromkeys(event_accumulator.DEFAULT_SIZE_GUIDANCE, 1), event_accumulator.SCALARS: 0}
    events = event_accumulator.EventAccumulator(str(folder), sizes)
    with suppress(Exception):  # whatever a damaged file makes it raise, what came before the damage is there
        events.Reload()
    return {
        name: {int(event.step): number(event.value) for event in events.Scalars(name)}
        for name in events.Tags()[event_accumulator.SCALARS]
    }


def _table(file: Path) -> Scalars:
    scalars: Scalars = {}
    for row in _rows(file):
        try:
            step = int(row["step"])
        except (ValueError, TypeError, KeyError):
            continue
        for name, text in row.items():
            if isinstance(text, str) and text and name not in (None, "step"):
                try:
                    scalars.setdefault(name, {})[step] = number(text)
                except ValueError:
                    continue
    return scalars


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with suppress(csv.Error):  # what came before the damage is there
        yield from csv.DictReader(read_text(file).replace("\0", "").splitlines())


def binned(points: dict[int, float], most: int = 240) -> list[Bin]:
    """Return a curve of at most so many points, each of which stands for as many neighbours as the others.

    Args:
        points: Values by step, in the order of steps.
        most: At least 1.

    Returns:
        The bins; a bin without finite values is NaN.

    Example:
        >>> binned({0: 1.0, 1: 3.0, 2: 5.0}, most=2)
        [Bin(step=0.5, mean=2.0, low=1.0, high=3.0), Bin(step=2.0, mean=5.0, low=5.0, high=5.0)]
    """
    rows = list(points.items())
    width = -(-len(rows) // most) or 1
    bins = []
    for start in range(0, len(rows), width):
        part = rows[start : start + width]
        values = [value for _, value in part if math.isfinite(value)] or [math.nan]
        bins.append(Bin(fmean(step for step, _ in part), fmean(values), min(values), max(values)))
    return bins
