"""What is small of experiments' runs: kept in a folder, and read from there.

A data set a folder, in it the teacher, its weights beside it, and rows of a cell a seed.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from frameworks import TEACHER, own

from realuid_lightning.atomic import replacing
from realuid_lightning.checkpoints import read_teacher, write_teacher
from realuid_lightning.cli.plan import checked_fit, quiet
from realuid_lightning.errors import UserError
from realuid_lightning.planning import Plan
from realuid_lightning.reporting import Run, comparisons, read_fits, read_runs
from realuid_lightning.reporting.pictures import find_pictures
from realuid_lightning.sweeping import state_of

CHECKPOINT = Path("checkpoints") / "last.ckpt"
FLOPS = "flops.json"
SMALL = ("figures.jsonl", "fits.json", "config.yaml", "sweep.json")
SHOWN = ("fid", "precision", "recall", "coverage")


class Cost(NamedTuple):
    """What training has taken: generator updates, seconds and FLOPs."""

    steps: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        return Cost(*map(sum, zip(self, other, strict=True)))


class Cell(NamedTuple):
    """What a run has reached: its row, its cost and that of its generator before, and its figures by sampler and step.

    Attributes:
        start: The run at whose generator it begins, such as ``uid/seed=0``; empty where that is the teacher.
    """

    row: str
    run: Run
    cost: Cost
    samplers: dict[str, dict[int, dict[str, float]]]
    start: str = ""
    before: Cost = Cost()

    @property
    def shown(self) -> str:
        """The sampler whose figures and pictures stand for the run: the average that is evaluated first, if any is."""
        return next((name for name in self.samplers if name != "raw"), "raw")

    @property
    def curve(self) -> dict[int, dict[str, float]]:
        """Figures of that sampler by step."""
        return self.samplers[self.shown]


def keep(runs: Path, folder: Path) -> None:
    """Copy what is small of a sweep's runs that are done, and of teachers.

    Raises:
        UserError: If a teacher is not the one at which the rows that are kept begin.
    """
    for run in read_runs([runs]):
        teaches = run.folder.name == TEACHER
        if state_of(run.folder) != "done" and not teaches:
            continue
        target = folder / run.folder.resolve().relative_to(runs.resolve())
        if teaches and (run.folder / CHECKPOINT).is_file():
            keep_teacher(run, target.with_suffix(".safetensors"))
        target.mkdir(parents=True, exist_ok=True)
        for name in SMALL:
            if (run.folder / name).is_file():
                shutil.copyfile(run.folder / name, target / name)
        with replacing(target / FLOPS) as file:  # counting them may need the data
            file.write_text(f"{json.dumps({'step': flops(run)})}\n")
        for name, files in find_pictures(run.folder).items() if seed_of(run) in (None, "0") else ():
            shutil.rmtree(target / "samples" / name, ignore_errors=True)
            (target / "samples" / name).mkdir(parents=True)
            shutil.copy(files[max(files)], target / "samples" / name)


def keep_teacher(run: Run, target: Path) -> None:
    """Write the average of the teacher's weights in half precision: the students of all rows begin from this file."""
    ema = run.config["model"]["init_args"]["ema"][0]
    step = max(each.step for each in run.measurements)
    network, path = read_teacher(run.folder / CHECKPOINT, ema)
    network.half()
    students = [each.name for each in sorted(target.parent.glob("*/")) if each.name != TEACHER]
    if target.is_file() and students and not same(network, read_teacher(target)[0].half()):
        raise UserError(
            f"{run.folder} is another teacher than {target}, at which {', '.join(students)} began; "
            "move what is kept of them away, or keep the new one in another folder"
        )
    write_teacher(network, path, target, {"weights": f"ema_{ema}, step {step}, in float16"})


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks have the same weights."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def seed_of(run: Run) -> str | None:
    """Return the seed in the name of a sweep's cell; None for other runs."""
    return run.folder.name.removeprefix("seed=") if run.folder.name.startswith("seed=") else None


def cells_of(place: Path) -> list[Cell]:
    """Return the runs of a data set, by name.

    Raises:
        UserError: If they were measured by several protocols, which one table must not mix, or are not those kept, or
            lack what a table tells of them.
    """
    runs = [own(run) for run in read_runs([place])]
    compared = comparisons(runs)
    if len(compared) != 1:
        raise UserError(f"{place} mixes figures of {len(compared)} protocols: {'; '.join(c.title for c in compared)}")
    cells = {run.name: _cell(run) for run in sorted(runs, key=lambda each: each.name)}
    return [cell._replace(before=_before(cell, cells)) for cell in cells.values()]


def _before(cell: Cell, cells: Mapping[str, Cell]) -> Cost:
    """Return what the generator at which a run begins had cost, with that at which its own run began."""
    if not cell.start:
        return Cost()
    if cell.start not in cells:
        raise UserError(f"{cell.run.folder} begins at {cell.start}, which is not kept: what it had cost is unknown")
    return cells[cell.start].cost + _before(cells[cell.start], cells)


def _cell(run: Run) -> Cell:
    """Return what a kept run has reached."""
    if not (run.folder / FLOPS).is_file():
        raise UserError(f"{run.folder} has no {FLOPS}: name what `make results` keeps, which is in docs/results")
    fits, samplers = read_fits(run.folder), _by_sampler(run)
    if not fits:
        raise UserError(f"{run.folder} has no fits.json that tells how long it was trained")
    steps, each = max(map(max, samplers.values())), json.loads((run.folder / FLOPS).read_text())["step"]
    seconds = sum(float(fit.get("training_seconds", 0)) for fit in fits)
    row = run.name.rpartition("/")[0] if seed_of(run) is not None else run.name
    begun = run.config.get("model", {}).get("init_args", {}).get("generator_ckpt")
    start = "/".join(Path(begun).parts[-4:-2]) if begun else ""
    cell = Cell(row, run, Cost(steps, seconds, steps * each), samplers, start)
    if max(cell.curve) < steps:
        ends = f"end at {max(cell.curve)} of {steps}"
        raise UserError(f"{run.folder}: figures of {cell.shown}, which a table shows, {ends}: keep it again")
    return cell


def _by_sampler(run: Run) -> dict[str, dict[int, dict[str, float]]]:
    """Return a run's figures by sampler and step; all that a table tells are there."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for each in run.measurements:
        found.setdefault(each.sampler, {})[each.step] = each.figures
    missing = sorted({name for steps in found.values() for row in steps.values() for name in SHOWN if name not in row})
    if not found or missing or run.broken:
        what = f"lack {', '.join(missing)}" if missing else "have lines that cannot be read" if found else "are empty"
        raise UserError(f"{run.folder}: its figures {what}; keep it again from where it was run")
    return found


def flops(run: Run) -> float:
    """Return the FLOPs of a training step, which `realuid plan` counts of a run's config.

    Raises:
        UserError: If the config is refused, as where its data must be there and are not.
    """
    cli = checked_fit(["--config", str(run.folder / "config.yaml"), "--trainer.accelerator=cpu"])
    with quiet():
        made = Plan(cli.model, cli.datamodule, cli.trainer, cli.devices, cli.gpu)
    return float(sum(each.times * each.flops for each in made.passes.values()))
