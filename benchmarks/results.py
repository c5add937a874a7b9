"""The experiments on images: table, curve and picture of docs/results.md, from what a folder keeps of their runs.

`--keep runs/experiments` first copies what is small of the runs that are done: figures, times, configs, of seed 0 the
last grids of samples, and the teacher's weights, at which its students begin. From these alone all else is made: for
each data set a table of what each row has reached over its seeds, its hours and its FLOPs (those of `realuid plan`);
distances against generator updates and FLOPs; and samples of the teacher, of UID's and of the best other generator
from the same latents. The page's text between two marks is replaced, the rest stays. Nothing is trained or measured.

Usage: python benchmarks/results.py [--keep runs/experiments] [--folder docs/results] [--page docs/results.md]
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from convergence import crossing
from frameworks import TEACHER, line, own, spread
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid

from realuid_lightning.atomic import replacing
from realuid_lightning.checkpoints import read_teacher, write_teacher
from realuid_lightning.cli.card import objective_of, path_options
from realuid_lightning.cli.plan import checked_fit, quiet
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation.writer import write_png
from realuid_lightning.planning import Plan
from realuid_lightning.reporting import Run, comparisons, read_fits, read_runs
from realuid_lightning.reporting.pictures import find_pictures
from realuid_lightning.sweeping import state_of

CHECKPOINT = Path("checkpoints") / "last.ckpt"
FLOPS = "flops.json"
SMALL = ("figures.jsonl", "fits.json", "config.yaml", "sweep.json")
SHOWN = ("fid", "precision", "recall", "coverage")
CURVES = ("uid", "realuid")
COLUMNS = 20
"""Samples of each network in the picture."""


class Cell(NamedTuple):
    """What a run has reached: its row, steps, seconds and FLOPs of training, and its figures by sampler and step."""

    row: str
    run: Run
    steps: int
    seconds: float
    flops: float
    samplers: dict[str, dict[int, dict[str, float]]]


class Method(NamedTuple):
    """A row of the table: its name, what its config says of the objective, and its cells."""

    name: str
    options: str
    cells: list[Cell]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="runs whose small files are copied first")
    parser.add_argument("--folder", type=Path, default=Path("docs/results"), help="what is kept, a data set a folder")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"), help="whose marked parts are replaced")
    options = parser.parse_args()
    try:
        if options.keep is not None:
            keep(options.keep, options.folder)
        for place in sorted(each for each in options.folder.glob("*") if each.is_dir()):
            cells = list(cells_of(place))
            methods = methods_of(cells)
            replace(options.page, place.name, f"{table(cells, methods)}\n\n{faster(methods)}".strip())
            draw_curves(methods, place.with_name(f"{place.name}_curves.png"))
            draw_samples(cells, methods, place.with_name(f"{place.name}_samples.png"))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


# ---------------------------------------------------------------------------------------------------------------- runs


def keep(runs: Path, folder: Path) -> None:
    """Copy what is small of the runs that are done."""
    for run in read_runs([runs]):
        if state_of(run.folder) == "begun":
            continue
        target = folder / run.folder.resolve().relative_to(runs.resolve())
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
        if (run.folder / CHECKPOINT).is_file() and run.folder.name == TEACHER:
            keep_teacher(run, target.with_suffix(".safetensors"))


def keep_teacher(run: Run, target: Path) -> None:
    """Write the average of the teacher's weights in half precision: the students of all rows begin from this file."""
    ema = run.config["model"]["init_args"]["ema"][0]
    step = max(each.step for each in run.measurements)
    network, path = read_teacher(run.folder / CHECKPOINT, ema)
    write_teacher(network.half(), path, target, {"weights": f"ema_{ema}, step {step}, in float16"})


def seed_of(run: Run) -> str | None:
    """Return the seed in the name of a sweep's cell; None for other runs."""
    return run.folder.name.removeprefix("seed=") if run.folder.name.startswith("seed=") else None


def cells_of(place: Path) -> Iterator[Cell]:
    """Yield the runs of a data set.

    Raises:
        UserError: If they were measured by several protocols, which one table must not mix, or are not those kept.
    """
    runs = [own(run) for run in read_runs([place])]
    compared = comparisons(runs)
    if len(compared) != 1:
        raise UserError(f"{place} mixes figures of {len(compared)} protocols: {'; '.join(c.title for c in compared)}")
    for run in sorted(runs, key=lambda each: each.name):
        fits = read_fits(run.folder)
        samplers: dict[str, dict[int, dict[str, float]]] = {}
        for each in run.measurements:
            samplers.setdefault(each.sampler, {})[each.step] = each.figures
        seconds = sum(float(fit.get("training_seconds", 0)) for fit in fits)
        row = run.name.rpartition("/")[0] if seed_of(run) is not None else run.name
        if not (run.folder / FLOPS).is_file():
            raise UserError(f"{run.folder} has no {FLOPS}: name what `make results` keeps, which is in docs/results")
        steps, each = max(map(max, samplers.values())), json.loads((run.folder / FLOPS).read_text())["step"]
        yield Cell(row, run, steps, seconds, steps * each, samplers)


def methods_of(cells: Sequence[Cell]) -> list[Method]:
    """Return the rows of generators, the least distance first; last those without any, which have diverged."""
    names = sorted({cell.row for cell in cells} - {TEACHER})
    found = []
    for name in names:
        own_cells = [cell for cell in cells if cell.row == name]
        config = own_cells[0].run.config
        found.append(Method(name, options_of(config), own_cells))

    def distance(method: Method) -> tuple[bool, float]:
        mean = fmean(last(cell)["fid"] for cell in method.cells)
        return math.isnan(mean), mean

    return sorted(found, key=distance)


def last(cell: Cell, sampler: str | None = None) -> dict[str, float]:
    """Return the figures of the last step; of the last sampler unless one is named."""
    steps = cell.samplers[sampler or list(cell.samplers)[-1]]
    return steps[max(steps)]


def options_of(config: dict[str, Any]) -> str:
    """Return what a config says of the objective and where the generator begins, in time and from a generator."""
    model = config.get("model", {}).get("init_args", {})
    levels = path_options(model).get("levels")
    begins = f", levels {levels}" * (levels is not None)
    return objective_of(model) + begins + ", fine-tuned" * (model.get("generator_ckpt") is not None)


def flops(run: Run) -> float:
    """Return the FLOPs of a training step, which `realuid plan` counts of a run's config.

    Raises:
        UserError: If the config is refused, as where its data must be there and are not.
    """
    cli = checked_fit(["--config", str(run.folder / "config.yaml"), "--trainer.accelerator=cpu"])
    with quiet():
        made = Plan(cli.model, cli.datamodule, cli.trainer, cli.devices, cli.gpu)
    return float(sum(each.times * each.flops for each in made.passes.values()))


# --------------------------------------------------------------------------------------------------------------- table


def table(cells: Sequence[Cell], methods: Sequence[Method]) -> str:
    """Return the table in Markdown: bounds, teacher, and a row a method with mean and standard deviation."""
    (compared,) = comparisons(cell.run for cell in cells)
    header = ["", "options", "seeds", *(name.upper() if name == "fid" else name for name in SHOWN)]
    lines = [line([*header, "steps", "hours", "FLOPs"]), line(["---"] * (len(header) + 3))]

    def bound(name: str, figures: dict[str, Any]) -> str:
        return line([name, "", "", *(f"{figures[each].mean:.3g}" for each in SHOWN), "", "", ""])

    lines.append(bound("held-out real images: the floor", compared.floor))
    for cell in cells:
        if cell.row == TEACHER:
            cost = [str(cell.steps), f"{cell.seconds / 3600:.2g}", f"{cell.flops:.2g}"]
            for name in sorted(cell.samplers, key=lambda name: -int(name.rpartition("_")[2])):
                steps = name.rpartition("_")[2]
                figures = last(cell, name)
                lines.append(
                    line(
                        [
                            f"teacher, {steps} step{'s' * (steps != '1')}",
                            "",
                            "1",
                            *(f"{figures[each]:.3g}" for each in SHOWN),
                            *cost,
                        ]
                    )
                )
    for method in methods:
        columns = [[last(cell)[name] for cell in method.cells] for name in SHOWN]
        hours = fmean(cell.seconds for cell in method.cells) / 3600
        first = method.cells[0]
        lines.append(
            line(
                [
                    *(f"`{method.name}`", method.options, str(len(method.cells)), *map(spread, columns)),
                    *(str(first.steps), f"{hours:.2g}", f"{first.flops:.2g}"),
                ]
            )
        )
    lines.append(bound("a Gaussian with the data's moments", compared.gaussian))
    return "\n".join(lines)


def replace(page: Path, mark: str, text: str) -> None:
    """Replace what stands on a page between two marks.

    Raises:
        UserError: If it has no such marks.
    """
    begin, end = f"<!-- {mark}: made by make results -->", f"<!-- {mark}: end -->"
    old = page.read_text() if page.is_file() else ""
    before, found, rest = old.partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise UserError(f"{page} must have the lines {begin!r} and {end!r}, between which its table goes")
    with replacing(page) as file:
        file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
    print(f"{page}: {mark} written")


# ------------------------------------------------------------------------------------------------------------ pictures


def curves(methods: Sequence[Method]) -> dict[str, list[dict[int, float]]]:
    """Return distances by step of each seed, of the rows that are compared."""
    named = {method.name: method for method in methods}
    return {
        name: [
            {step: each["fid"] for step, each in list(cell.samplers.values())[-1].items()} for cell in named[name].cells
        ]
        for name in CURVES
        if name in named
    }


def faster(methods: Sequence[Method]) -> str:
    """Return how many updates the second row takes for the first one's end, seed by seed."""
    found = curves(methods)
    if set(found) != set(CURVES):
        return ""
    goal = fmean(each[max(each)] for each in found[CURVES[0]])
    ratios = [max(each) / reached if (reached := reach(each, goal)) else math.nan for each in found[CURVES[1]]]
    ended = f"the distance at which `{CURVES[0]}` ends, {goal:.3g}"
    reaching = sum(map(math.isfinite, ratios))
    if reaching < len(ratios):
        return f"`{CURVES[1]}` reaches {ended}, with {reaching} of {len(ratios)} seeds."
    return f"`{CURVES[1]}` reaches {ended}, in 1 / ({spread(ratios)}) of the updates."


def reach(curve: dict[int, float], goal: float) -> float | None:
    """Return the step at which a curve first reaches a distance; None if never."""
    return crossing(sorted(curve.items()), goal)


def draw_curves(methods: Sequence[Method], target: Path) -> None:
    """Draw distance against generator updates and against FLOPs, a line a seed; nothing where none was measured."""
    if not curves(methods):
        return
    from matplotlib.figure import Figure

    figure, costs = Figure(figsize=(9, 3.2), layout="constrained"), {each.name: each.cells[0] for each in methods}
    axes = figure.subplots(1, 2, sharey=True)
    for colour, (name, seeds) in enumerate(curves(methods).items()):
        for seed, curve in enumerate(seeds):
            for each, scale in zip(axes, (1.0, costs[name].flops / costs[name].steps), strict=True):
                label = name if seed == 0 else None
                steps = sorted(curve)
                each.plot(
                    [step * scale for step in steps], [curve[step] for step in steps], f"C{colour}.-", label=label
                )
    for each, words in zip(axes, ("generator updates", "FLOPs of training"), strict=True):
        each.set(xlabel=words, yscale="log")
        each.legend()
    axes[0].set_ylabel("Fréchet distance")
    with replacing(target) as file:
        figure.savefig(file, dpi=100, format="png")


def draw_samples(cells: Sequence[Cell], methods: Sequence[Method], target: Path) -> None:
    """Draw samples of the same latents and labels, a row each: teacher in many steps, in one, UID, the best other."""
    rows = []
    for cell in [cell for cell in cells if cell.row == TEACHER]:
        rows += [tiles(file, cell)[:COLUMNS] for file in grids(cell)]
    shown = [cell for method in methods for cell in method.cells if grids(cell)]
    usual, others = ([cell for cell in shown if (cell.row == CURVES[0]) is same] for same in (True, False))
    rows += [tiles(grids(cell)[-1], cell)[:COLUMNS] for cell in usual[:1] + others[:1]]
    if rows:
        picture = make_grid(torch.cat(rows), nrow=COLUMNS, padding=2)
        write_png(picture[:1] if bool((picture[0] == picture[1]).all()) else picture, target)


def grids(cell: Cell) -> list[Path]:
    """Return the last grids of a run's samplers, many steps first."""
    found = find_pictures(cell.run.folder)
    order = sorted(found, key=lambda name: -int(name.rpartition("_steps_")[2]) if "_steps_" in name else 0)
    return [found[name][max(found[name])] for name in order]


def tiles(file: Path, cell: Cell, padding: int = 2) -> torch.Tensor:
    """Return the images of a grid as `SampleGrid` draws it, ``(B, C, H, W)``, without the empty places at its end."""
    picture: torch.Tensor = pil_to_tensor(Image.open(file))
    data = cell.run.config.get("data", {}).get("init_args", {})
    count = min(cell.run.config.get("grid", {}).get("count", 64), data.get("eval_samples", math.inf))
    if count == 1:  # drawn without an edge
        return picture[None]
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    side = (picture.shape[1] - padding) // down
    cut = picture.unfold(1, side, side).unfold(2, side, side)[:, :down, :across, padding:, padding:]
    return cut.permute(1, 2, 0, 3, 4).flatten(0, 1)[:count]


if __name__ == "__main__":
    main()
