"""What a run has left in its folder, read line by line: whatever cannot be read costs itself and no more."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from realuid_lightning.errors import UserError, printable

FIGURES = "figures.jsonl"
FIDELITY = "fidelity.jsonl"
TIMES = "times.jsonl"
FITS = "fits.json"
CONFIG = "config.yaml"

LARGEST = 64 * 2**20
"""Bytes of a file beyond which its first ones alone are read."""

ENDLESS = 1e300
"""Numbers from here on count as infinite: of those below, sums and differences are finite."""

T = TypeVar("T")


class Measurement(NamedTuple):
    """What was measured of one sampler at one step.

    Attributes:
        step: Training steps behind the weights.
        sampler: Its name.
        figures: Figures by their names.
        floor: The same of held-out real data; empty where it was not measured.
        gaussian: The same of a Gaussian with the data's moments; empty where it was not measured.
        better: Whether a low (``min``) or a high (``max``) figure is good, of those of which it is told.
        protocol: How it was measured, but for the seed. Figures of different protocols are never compared.
        seed: Of the latents; None where none is told.
        checkpoint: Where weights of another run come from; None for the run's own.
    """

    step: int
    sampler: str
    figures: dict[str, float]
    floor: dict[str, float]
    gaussian: dict[str, float]
    better: dict[str, str]
    protocol: dict[str, Any]
    seed: int | None
    checkpoint: str | None


class TimeBins(NamedTuple):
    """Diagnostics by time at one step.

    Attributes:
        step: Training steps behind the weights.
        bins: Times in [0, 1]: the middles of the bins.
        values: A number for each bin, by what it tells of; NaN for a bin without samples.
    """

    step: int
    bins: list[float]
    values: dict[str, list[float]]


class Run(NamedTuple):
    """A folder in which something was measured.

    Attributes:
        name: Unique among the runs that are read together.
        folder: Its place.
        config: Its config, by the names of options; empty where there is none.
        measurements: In the order in which they were made.
        broken: Number of lines that could not be read.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    measurements: list[Measurement]
    broken: int


def read_runs(folders: Iterable[str | Path]) -> list[Run]:
    """Return every run at or below the folders, those of a folder by their age.

    A run is named by its place below the folder that was asked for, or by its own folder's name if it is that one.

    Raises:
        UserError: If a folder holds no run that has measured anything.

    Example:
        >>> read_runs([])
        []
    """
    found: dict[Path, str] = {}
    for folder in map(Path, folders):
        files = measured_files(folder)
        if not files:
            raise UserError(
                f"report: {folder} holds no {FIGURES} and no {FIDELITY}; give the folder of a run that validated"
            )
        for file in sorted(files, key=lambda file: file.stat().st_mtime):
            place = file.parent.relative_to(folder).as_posix()
            found.setdefault(file.parent.resolve(), file.parent.resolve().name if place == "." else place)
    names = list(found.values())
    told = [name if names.count(name) == 1 else folder.as_posix() for folder, name in found.items()]
    return [_read_run(printable(name), folder) for name, folder in zip(told, found, strict=True)]


def measured_files(folder: Path) -> list[Path]:
    """Return the files at or below a folder in which runs keep what they have measured."""
    return [file for name in (FIGURES, FIDELITY) for file in folder.rglob(name) if file.is_file()]


def _read_run(name: str, folder: Path) -> Run:
    figures, lost = read_lines(folder / FIGURES, _measurement)
    likeness, also_lost = read_lines(folder / FIDELITY, _likeness)
    return Run(name, folder, read_config(folder), figures + likeness, lost + also_lost)


def read_lines(file: Path, parse: Callable[[Any], T]) -> tuple[list[T], int]:
    """Return what ``parse`` makes of each line of a JSON Lines file, and the number of lines that are broken.

    A kill may have cut a line off. A file that is missing, or is none (a pipe would be waited for), has no lines.
    """
    parsed, broken = [], 0
    for line in read_text(file).splitlines():
        try:
            parsed.append(parse(json.loads(line)))
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            broken += bool(line.strip())
    return parsed, broken


def read_text(file: Path) -> str:
    """Return a file's text; nothing where there is no such file, or it may not be read."""
    try:
        if not file.is_file():
            return ""
        with file.open("rb") as stream:
            return stream.read(LARGEST).decode(errors="replace")
    except OSError:
        return ""


def _measurement(row: Any) -> Measurement:
    protocol = {printable(name): _shown(value) for name, value in row.get("protocol", {}).items()}
    seed = protocol.pop("seed", None)
    figures, floor, gaussian = (_numbers(row.get(part) or {}) for part in ("figures", "floor", "gaussian"))
    if not figures:
        raise ValueError("no figures")
    better = {printable(name): sense for name, sense in row.get("better", {}).items() if sense in ("min", "max")}
    checkpoint = row.get("checkpoint")
    return Measurement(
        *(_step(row), _text(row["sampler"]), figures, floor, gaussian, better, protocol),
        seed=None if seed is None else int(seed),
        checkpoint=None if checkpoint is None else _text(checkpoint),
    )


def _likeness(row: Any) -> Measurement:
    """Return a line of fidelity, whose truth is no set of samples: it has neither floor nor Gaussian."""
    figures = _numbers({name: row[name] for name in ("psnr", "ssim")})
    protocol = {"truth": "pairs", "samples": row["samples"]}
    better = dict.fromkeys(figures, "max")
    return _measurement({**row, "figures": figures, "better": better, "protocol": protocol})


def read_times(folder: Path) -> list[TimeBins]:
    """Return a run's diagnostics by time, in the order of their steps; the last ones where a step has several."""
    rows, _ = read_lines(folder / TIMES, _time_bins)
    return [row for _, row in sorted({row.step: row for row in rows}.items())]


def _time_bins(row: Any) -> TimeBins:
    bins = [number(each) for each in row["bins"]]
    values = {
        printable(name): [math.nan if each is None else number(each) for each in column]
        for name, column in row.items()
        if name != "bins" and isinstance(column, list)
    }
    if any(len(column) == len(bins) - 1 for column in values.values()):  # edges
        bins = [(left + right) / 2 for left, right in pairwise(bins)]
    if not all(map(math.isfinite, bins)) or any(len(column) != len(bins) for column in values.values()):
        raise ValueError("bins and values do not belong together")
    return TimeBins(_step(row), bins, values)


def read_fits(folder: Path) -> list[dict[str, Any]]:
    """Return what ``FitRecord`` has written: an entry for each time that the run was begun or gone on with."""
    try:
        entries = json.loads(read_text(folder / FITS) or "[]")
    except (ValueError, RecursionError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def read_config(folder: Path) -> dict[str, Any]:
    """Return a run's config; empty where there is none."""
    try:
        config = yaml.safe_load(read_text(folder / CONFIG))
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):  # of "!!bool x", "!!int ''"
        return {}
    return config if isinstance(config, dict) else {}


def _step(row: Mapping[str, Any]) -> int:
    step = row["step"]
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**53:
        raise ValueError("no step")
    return step


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return printable(value)


def _shown(value: Any) -> Any:
    """Return a value of a protocol that can be shown and compared; nested ones as text."""
    return value if isinstance(value, int | float) or value is None else printable(str(value))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return figures by their names; null is NaN."""
    if any(isinstance(value, bool | str) for value in values.values()):
        raise TypeError("no number")
    return {printable(name): math.nan if value is None else number(value) for name, value in values.items()}


def number(value: Any) -> float:
    """Return a number that was read; infinite from ``ENDLESS`` on.

    Raises:
        ValueError, TypeError, OverflowError: If it is none.

    Example:
        >>> number("1e305"), number(3)
        (inf, 3.0)
    """
    read = float(value)
    return read if math.isnan(read) or abs(read) < ENDLESS else math.copysign(math.inf, read)


def thinned(rows: Sequence[T], most: int) -> list[T]:
    """Return at most so many of the rows, evenly and in order, the first and the last among them.

    Example:
        >>> thinned(range(9), 3)
        [0, 4, 8]
    """
    if len(rows) <= most:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)] if most > 1 else [rows[-1]]
