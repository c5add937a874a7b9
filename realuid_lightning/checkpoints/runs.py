"""Which checkpoint of a run folder to go on from."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from realuid_lightning.checkpoints.files import DamagedCheckpointError, read_checkpoint
from realuid_lightning.checkpoints.records import record_of
from realuid_lightning.errors import UserError

Which = Literal["last", "best", "resume"]

_BEST = re.compile(r"(?:.*[/\\])?(best_step_\d+(?:-v\d+)?\.ckpt)", re.DOTALL)


def find_checkpoint(run_folder: Path, which: Which) -> Path | None:
    """Return the checkpoint of a run folder that ``--ckpt_path WHICH`` stands for.

    ``last`` is the newest whole one: ``last.ckpt``, or if that is damaged or gone, the newest of the best ones, with a
    warning. ``resume`` is the same, but begins (None) where there is no checkpoint yet. ``best`` is the one with the
    best metric so far; if that is damaged or gone, the next best one, or else the newest, with a warning.

    Raises:
        UserError: If there is none, or if the newest is whole but not a checkpoint of this package.

    Example:
        >>> find_checkpoint(Path("runs/new"), "resume") is None  # so a run begins
        True
    """
    folder = run_folder / "checkpoints"
    # What a killed write leaves begins with a dot. The names of the best ones end in their steps.
    best_ones = sorted((file for file in folder.glob("best*.ckpt")), reverse=True)
    candidates = [file for file in [folder / "last.ckpt", *best_ones] if file.is_file()]
    if not candidates and which == "resume":
        return None
    newest = _first_whole(candidates, run_folder, which)
    if which == "best":
        return _best_whole(newest, run_folder)
    if newest.file.name != "last.ckpt":
        why = newest.damages[0] if newest.damages else f"{folder} holds no last.ckpt"
        rank_zero_warn(f"{why}. Going on from {newest}, the newest whole one")
    return newest.file


def best_scores(state: Mapping[str, Any]) -> dict[str, float]:
    """Return the file names and scores of the best checkpoints that a state of ``RunCheckpoint`` knows.

    Whatever else the state says, a stranger may have written it: folders are left out, for the files are those of the
    run's own folder, wherever that is by now, and so is what is not named as ``RunCheckpoint`` names them.
    """
    known = state.get("best_k_models")
    found: dict[str, float] = {}
    for place, score in known.items() if isinstance(known, dict) else ():
        name = _BEST.fullmatch(place) if isinstance(place, str) else None
        value = score.item() if isinstance(score, Tensor) and score.numel() == 1 else score
        if name is not None and (isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64)):
            found[name[1]] = float(value)
    return found


class _Whole(NamedTuple):
    """A checkpoint that can be read, and what is wrong with those that would have come before it."""

    file: Path
    content: dict[str, Any]
    damages: list[str]

    def __str__(self) -> str:
        return f"{self.file.name} (step {self.content.get('global_step')})"


def _first_whole(candidates: list[Path], run_folder: Path, which: str) -> _Whole:
    damages: list[str] = []
    for file in candidates:
        try:
            content = read_checkpoint(file, mmap=True)
        except DamagedCheckpointError as error:
            damages.append(str(error))
            continue
        record_of(content, file)
        return _Whole(file, content, damages)
    if damages:
        raise UserError("\n".join([*damages, f"ckpt_path: {which}, but no checkpoint in {run_folder} is whole"]))
    raise UserError(
        f"ckpt_path: {which}, but {run_folder} holds no checkpoints/last.ckpt; set --trainer.default_root_dir to "
        "the folder of a run, or name a file"
    )


def _best_whole(newest: _Whole, run_folder: Path) -> Path:
    """Return the best checkpoint of those that the newest one knows."""
    callbacks = newest.content.get("callbacks")
    state = callbacks.get("RunCheckpoint") if isinstance(callbacks, dict) else None
    state = state if isinstance(state, dict) else {}
    sign, scores = -1 if state.get("mode") == "max" else 1, best_scores(state)
    if not scores:
        raise UserError(
            f"ckpt_path: best, but the run in {run_folder} monitors nothing; set --checkpoint.monitor in fit"
        )
    folder = run_folder / "checkpoints"
    files = [folder / name for name in sorted(scores, key=lambda name: _rank(sign * scores[name]))]
    there = [file for file in files if file.is_file()]
    found = newest if not there else _first_whole([*there, newest.file], run_folder, "best")
    if found.file != files[0]:
        why = found.damages[0] if files[0] in there else f"{files[0]} is gone"
        rank_zero_warn(f"{why}. Taking {found}, the {'next best' if found.file in there else 'newest'} one")
    return found.file


def _rank(score: float) -> float:
    return math.inf if math.isnan(score) else score
