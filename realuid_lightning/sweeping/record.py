"""What the folder of a task tells of it: with which words it was begun, and whether it is done."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import yaml

from realuid_lightning.atomic import replacing
from realuid_lightning.errors import Faults
from realuid_lightning.sweeping.grid import Task

RECORD = "sweep.json"

State = Literal["new", "begun", "done"]


def write_state(folder: Path, task: Task, state: State) -> None:
    """Write down that a task is begun, or done: with what it was begun, whatever its configs say by then.

    Args:
        folder: The sweep's folder.
        task: The task.
        state: Its state.
    """
    told = _read(folder / task.name / RECORD) if state == "done" else None
    with replacing(folder / task.name / RECORD) as file:
        file.write_text(json.dumps({**(told or _told(task)), "state": state}, indent=1) + "\n")


def read_state(folder: Path, task: Task) -> State:
    """Return the state of a task; what cannot be read is taken for begun, for there may be checkpoints."""
    return state_of(folder / task.name)


def state_of(place: Path) -> State:
    """Return the state of the task whose folder this is; new where no sweep has written any."""
    known = _read(place / RECORD)
    return "new" if known is None else "done" if known.get("state") == "done" else "begun"


def check_unchanged(folder: Path, tasks: Iterable[Task]) -> None:
    """Refuse tasks that were begun with other words or configs.

    Args:
        folder: The sweep's folder.
        tasks: Its tasks.

    Raises:
        UserError: If there are any; the first few of them.
    """
    faults = Faults("sweep")
    changes = [(task.name, change) for task in tasks if (change := _change(folder, task))]
    faults.extend(f"{folder / name} was begun with {change}" for name, change in changes[:3])
    faults.unless(
        not changes,
        f"{len(changes)} runs in {folder} are of another sweep: choose another --folder, remove their folders to begin "
        f"anew, or the files {RECORD} there to go on from their checkpoints",
    )
    faults.raise_any()


def _change(folder: Path, task: Task) -> str:
    known, told = _read(folder / task.name / RECORD), _told(task)
    if known is None or {key: known.get(key) for key in told} == told:
        return ""
    words = known.get("words")
    former = [word for word in words if word not in told["words"]] if isinstance(words, list) else []
    return " ".join(map(str, former)) or "other config files"


def _read(file: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _told(task: Task) -> dict[str, Any]:
    """Return what decides a run: its words, and what its config files say; comments do not count."""
    contents = [yaml.safe_load(file.read_text()) for file in config_files(task.words)]
    told = json.dumps({"words": task.words, "configs": contents}, default=str)
    return dict(json.loads(told))  # as a file gives it back


def config_files(words: Sequence[str]) -> list[Path]:
    """Return the config files that words name.

    Example:
        >>> config_files(["fit", "--config", "a.yaml", "--config=b.yaml", "--model.alpha=1"])
        [PosixPath('a.yaml'), PosixPath('b.yaml')]
    """
    names = [word.partition("=")[2] for word in words if word.startswith(("--config=", "-c="))]
    apart = [second for first, second in pairwise(words) if first in ("--config", "-c")]
    return [Path(name).expanduser() for name in (*apart, *names)]
