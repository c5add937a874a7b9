"""Which run a generator's teacher comes from, as the configs of both tell."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realuid_lightning.reporting.reading import CONFIG, Run, read_config


def teacher_folder(run: Run) -> Path | None:
    """Return the run of a distillation's teacher: the folder of the checkpoint that its config names.

    It is looked for where the command is given, and, for runs that were moved together, above the run itself. None for
    runs that distil nothing, and teachers that no run of this package has trained.
    """
    checkpoint = option(run.config, "model", "init_args", "teacher_ckpt")
    if not isinstance(checkpoint, str):
        return None
    places = [place / checkpoint for place in (Path(), *run.folder.parents)]
    folders = [place.parent.parent for place in places if place.parent.name == "checkpoints"]
    # Path.is_file raises where a name is too long or a folder closed.
    return next((each.resolve() for each in folders if os.path.isfile(each / CONFIG)), None)


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
    """Return each distillation with its teacher's run, where both are among the runs."""
    by_folder = {run.folder.resolve(): run for run in runs}
    teachers = ((run, teacher_folder(run)) for run in runs)
    return [(run, by_folder[folder]) for run, folder in teachers if folder in by_folder]
