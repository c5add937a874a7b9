"""Which runs a run comes from, by their configs: a generator's teacher, and what a teacher was trained further from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realuid_lightning.reporting.reading import CONFIG, Run, read_config


def teacher_folder(run: Run) -> Path | None:
    """Return the run of a run's teacher: the folder of the checkpoint that its config names.

    It is looked for where the command is given, and, for runs that were moved together, above the run itself. None for
    runs that begin at no teacher, and teachers that no run of this package has trained.
    """
    return _folder_of(_teacher_file(run.config), run.folder)


def ancestors(run: Path) -> list[str]:
    """Return the file of the teacher that a run in a folder began at, what that one began at, and so on."""
    files: list[str] = []
    place: Path | None = run
    while place is not None:
        file = _teacher_file(read_config(place))
        if file is None or file in files:  # a config that was edited may lead in a circle
            break
        files.append(file)
        place = _folder_of(file, place)
    return files


def same_latents(run: Run, other: Path) -> bool:
    """Return whether a run generates from the same latents as one in another folder, of data of the same shape."""
    configs = run.config, read_config(other)
    names = ("origin", "labels", "eval_seed")
    first, second = ([option(config, "data", "init_args", name) for name in names] for config in configs)
    return first == second


def option(config: Any, *names: str) -> Any:
    """Return an option of a config; None where there is none."""
    for name in names:
        config = config.get(name) if isinstance(config, dict) else None
    return config


def families(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return each run that began at a teacher with the run of that, where both are among the runs."""
    by_folder = {run.folder.resolve(): run for run in runs}
    teachers = ((run, teacher_folder(run)) for run in runs)
    return [(run, by_folder[folder]) for run, folder in teachers if folder in by_folder]


def _teacher_file(config: Any) -> str | None:
    file = option(config, "model", "init_args", "teacher_ckpt")
    return file if isinstance(file, str) and file else None


def _folder_of(file: str | None, run: Path) -> Path | None:
    if file is None:
        return None
    places = [place / file for place in (Path(), *run.parents)]
    folders = [place.parent.parent for place in places if place.parent.name == "checkpoints"]
    # Path.is_file raises where a name is too long or a folder closed.
    return next((each.resolve() for each in folders if os.path.isfile(each / CONFIG)), None)
