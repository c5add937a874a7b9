"""A grid of runs: its factors, and what ``realuid fit`` is told in each cell."""

import hashlib
import math
import os
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from realuid_lightning.data.stream import parse_indices
from realuid_lightning.errors import Faults, UserError

SEEDS = "seeds"
RATIO = "ratio"
ALPHA, BETA = "model.alpha", "model.beta"

MOST = 100_000
"""Cells of a grid beyond which it must be a slip."""


class Factor(NamedTuple):
    """What differs between the cells of a grid.

    Attributes:
        name: An option of ``realuid fit``, ``seeds`` (the option ``seed_everything``) or ``ratio`` (``model.beta`` over
            ``model.alpha``).
        values: Its values, as words.
    """

    name: str
    values: tuple[str, ...]


class Task(NamedTuple):
    """A run of a sweep.

    Attributes:
        name: Its folder, below that of the sweep.
        words: What comes after ``realuid``.
        factors: Its value of each factor; empty for a teacher.
        after: Name of the task that trains its teacher, if there is one.
    """

    name: str
    words: tuple[str, ...]
    factors: dict[str, str]
    after: str | None = None


class Sweep(NamedTuple):
    """What all cells of a grid share.

    Attributes:
        folder: The sweep's folder.
        words: Config files and options of ``realuid fit``.
        teacher: Those of the run that trains the teacher of each seed; None where cells need none trained.
        alpha: ``model.alpha`` where it is no factor, for ``ratio``.
    """

    folder: Path
    words: tuple[str, ...]
    teacher: tuple[str, ...] | None = None
    alpha: float | None = None

    def tasks(self, factors: Sequence[Factor]) -> list[Task]:
        """Return the runs: teachers first, then the cells, the last factor fastest."""
        made: list[Task] = []
        for values in product(*(factor.values for factor in factors)):
            cell = dict(zip((factor.name for factor in factors), values, strict=True))
            teacher = self._teacher(cell.get(SEEDS))
            if teacher is not None and teacher not in made:
                made.insert(sum(not task.factors for task in made), teacher)
            made.append(self._cell(cell, teacher))
        return made

    def _cell(self, cell: dict[str, str], teacher: Task | None) -> Task:
        labels = short_names(list(cell))
        name = ",".join(f"{labels[factor]}={_slug(value)}" for factor, value in cell.items())
        words = [*self.words, *self._options(cell)]
        if teacher is not None:
            words.append(f"--model.teacher_ckpt={self.folder / teacher.name / 'checkpoints' / 'last.ckpt'}")
        return Task(name, self._fit(name, words), cell, None if teacher is None else teacher.name)

    def _teacher(self, seed: str | None) -> Task | None:
        if self.teacher is None:
            return None
        name = "teacher" if seed is None else f"teacher/seed={seed}"
        seeded = [] if seed is None else [f"--seed_everything={seed}"]
        return Task(name, self._fit(name, [*self.teacher, *seeded]), {})

    def _options(self, cell: dict[str, str]) -> list[str]:
        options = []
        for name, value in cell.items():
            if name == RATIO:
                alpha = self.alpha if ALPHA not in cell else float(cell[ALPHA])
                assert alpha is not None
                options.append(f"--{BETA}={float(value) * alpha:.12g}")
            else:
                options.append(f"--{'seed_everything' if name == SEEDS else name}={value}")
        return options

    def _fit(self, name: str, words: Sequence[str]) -> tuple[str, ...]:
        own = f"--trainer.default_root_dir={self.folder / name}", "--ckpt_path=resume"
        return ("fit", "--trainer.enable_progress_bar=false", *words, *own)


def parse_factors(words: Sequence[str]) -> list[Factor]:
    """Parse factors such as ``model.alpha=0.9,1``, ``ratio=0.98,1`` and ``seeds=0-4``.

    Values are separated by commas, but for those in brackets and quotes.

    Raises:
        UserError: If one is malformed, named twice, or has a value twice or none; all faults at once.

    Example:
        >>> parse_factors(["model.ema=[0.9,0.99],[0.999]", "seeds=0-2"])[1].values
        ('0', '1', '2')
    """
    faults = Faults("sweep")
    factors = [factor for word in words if (factor := faults.attempt(lambda word=word: _factor(word))) is not None]  # type: ignore[misc]
    names = [factor.name for factor in factors]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    faults.extend(f"{name} is named {names.count(name)} times" for name in twice)
    faults.unless(not {RATIO, BETA} <= set(names), f"{RATIO} and {BETA} both set {BETA}: leave one out")
    faults.unless(bool(words), "expected factors such as model.alpha=0.9,0.98 ratio=0.98,1 seeds=0-4, got none")
    count = math.prod(len(factor.values) for factor in factors)
    faults.unless(count <= MOST, f"the grid has {count} cells, and may have {MOST}")
    faults.raise_any()
    return factors


def _factor(word: str) -> Factor:
    name, _, text = word.partition("=")
    if not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", name):
        raise UserError(f"sweep: expected a factor such as model.alpha=0.9,1, got {word!r}")
    if name == "seed_everything":
        raise UserError("sweep: name the seeds as seeds=0-4, got seed_everything")
    values = _seeds(text) if name == SEEDS else [value.strip() for value in _split(name, text)]
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise UserError(f"sweep: {name} has the value {twice} more than once")
    for value in values if name in (RATIO, ALPHA) else ():
        _number(name, value)
    return Factor(name, tuple(values))


def _seeds(text: str) -> list[str]:
    try:
        seeds = parse_indices(text).tolist()
    except UserError as error:
        raise UserError(f"sweep: {SEEDS}: {error}") from error
    if max(seeds) >= 2**32:
        raise UserError(f"sweep: {SEEDS} must be in [0, {2**32 - 1}], got {max(seeds)}")
    return [str(seed) for seed in seeds]


def _split(name: str, text: str) -> list[str]:
    """Split values at commas, but for those in brackets, of any depth, and in quotes."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = quote if letter != quote else ""
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not (depth or quote):
            values.append("")
        else:
            values[-1] += letter
        if depth < 0:
            break
    if depth or quote or not all(value.strip() for value in values):
        raise UserError(f"sweep: {name} needs values with commas between them, such as 0.9,1, got {text!r}")
    return values


def _number(name: str, value: str) -> None:
    try:
        sound = math.isfinite(float(value))
    except ValueError:
        sound = False
    if not sound:
        raise UserError(f"sweep: {name} needs numbers, got {value!r}")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return the last part of each option's name, or all of it where others end alike.

    Example:
        >>> short_names(["model.alpha", "seeds"])
        {'model.alpha': 'alpha', 'seeds': 'seed'}
    """
    ends = {name: "seed" if name == SEEDS else name.rpartition(".")[2] for name in names}
    return {name: end if list(ends.values()).count(end) == 1 else name for name, end in ends.items()}


def _slug(value: str) -> str:
    """Return a value as part of a folder's name; with a hash where it is not the value itself."""
    slug = re.sub(r"[^\w.+-]+", "_", value)[:40]
    return slug if slug == value else f"{slug}-{hashlib.sha256(os.fsencode(value)).hexdigest()[:6]}"
