"""Pictures of samples: over the steps of a run, and those of a teacher beside those of its generator."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from realuid_lightning.reporting.lineage import same_latents, teacher_folder
from realuid_lightning.reporting.pictures import BUDGET, Picture, chosen_steps, find_pictures, read_picture
from realuid_lightning.reporting.reading import Run


class Grid(NamedTuple):
    """The pictures of a run.

    Attributes:
        title: Name of the run.
        steps: Steps that are shown.
        samplers: By name, the pictures with their places among the steps; a picture that stays is there once.
    """

    title: str
    steps: list[int]
    samplers: list[tuple[str, list[tuple[Picture, list[int]]]]]


class Pair(NamedTuple):
    """The last pictures of a teacher and of a run that began at it.

    Attributes:
        title: Names of both runs.
        words: What is to be seen.
        pictures: By name.
    """

    title: str
    words: str
    pictures: list[tuple[str, Picture]]


def sample_grids(runs: Iterable[Run]) -> list[Grid]:
    """Return the pictures of all runs that have any."""
    found = [(run, pictures) for run in runs if (pictures := find_pictures(run.folder))]
    grids = []
    for run, pictures in found:
        steps = chosen_steps(pictures, BUDGET // len(found))
        samplers = []
        for name, files in pictures.items():
            images: dict[Picture, list[int]] = {}
            for place, step in enumerate(steps):
                image = read_picture(files[step]) if step in files else None
                if image is not None:
                    images.setdefault(image, []).append(place)
            if images:
                samplers.append((name, list(images.items())))
        if samplers:
            grids.append(Grid(run.name, steps, samplers))
    return grids


def teacher_pairs(runs: Iterable[Run]) -> list[Pair]:
    """Return the last pictures of each run beside those of its teacher, where both are of the same latents."""
    pairs = []
    for run in runs:
        teacher = teacher_folder(run)
        if teacher is None or not same_latents(run, teacher):
            continue
        theirs, ours = (_last_pictures(folder) for folder in (teacher, run.folder))
        if theirs and ours:
            named = [*((f"teacher: {name}", image) for name, image in theirs if name not in ("source", "truth")), *ours]
            words = "From the same latents, each at its last step: place by place, the pictures show the same sample."
            pairs.append(Pair(f"{run.name} and its teacher", words, named))
    return pairs


def _last_pictures(folder: Path) -> list[tuple[str, Picture]]:
    last = {name: read_picture(files[max(files)]) for name, files in find_pictures(folder).items()}
    return [(name, image) for name, image in last.items() if image is not None]
