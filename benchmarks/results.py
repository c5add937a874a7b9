"""The experiments on images: table, curve and picture of docs/results.md, from what a folder keeps of their runs.

`--keep runs/experiments` first copies what is small of the runs that are done: figures, times, configs, of seed 0 the
last grids of samples, and the teacher's weights, at which its students begin. From these alone all else is made: for
each data set a table of what each row has reached over its seeds, its hours and its FLOPs (those of `realuid plan`);
distances by generator updates, as tables and as curves, and against FLOPs; and samples of the teacher, of UID's and of
the best other generator from the same latents. The page's text between two marks is replaced, the rest stays. Nothing
is trained or measured.

Usage: python benchmarks/results.py [--keep runs/experiments] [--folder docs/results] [--page docs/results.md]
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from convergence import crossing
from frameworks import TEACHER, line, spread
from parts.kept import SHOWN, Cell, cells_of, keep, seed_of
from parts.pages import replace
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid

from realuid_lightning.atomic import replacing
from realuid_lightning.cli.card import objective_of, path_options
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation.writer import write_png
from realuid_lightning.reporting import comparisons
from realuid_lightning.reporting.pictures import find_pictures

CURVES = ("uid", "realuid")
COLUMNS = 20
"""Samples of each network in the picture."""


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
            cells = cells_of(place)
            methods = methods_of(cells)
            parts = (table(cells, methods), faster(methods), progress(methods))
            replace(options.page, place.name, "\n\n".join(filter(None, parts)))
            draw_curves(methods, place.with_name(f"{place.name}_curves.png"))
            draw_samples(cells, methods, place.with_name(f"{place.name}_samples.png"))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


# ---------------------------------------------------------------------------------------------------------------- runs


COMMON: tuple[tuple[str, Callable[[Cell], str], str], ...] = (
    ("end at different steps", lambda cell: f"at {cell.cost.steps}", "go on with those that are behind"),
    ("evaluate different averages first", lambda cell: cell.shown, "one row shows one of them"),
    ("begin at different generators", lambda cell: f"at {cell.start or 'the teacher'}", "give each its own row"),
)
"""What seeds of a row have in common: how they differ otherwise, what is told of each, and what to do."""


def methods_of(cells: Sequence[Cell]) -> list[Method]:
    """Return the rows of generators, the least distance first; last those without any, which have diverged.

    Raises:
        UserError: If seeds of a row have ended at different steps, evaluate different averages or begin elsewhere.
    """
    found = []
    for name in sorted({cell.row for cell in cells} - {TEACHER}):
        seeds = [cell for cell in cells if cell.row == name]
        for differ, told, advice in COMMON:
            if len({told(cell) for cell in seeds}) > 1:
                each = ", ".join(f"{seed_of(cell.run)} {told(cell)}" for cell in seeds)
                raise UserError(f"seeds of {name} {differ}, {each}: {advice}")
        found.append(Method(name, options_of(seeds[0]), seeds))

    def distance(method: Method) -> tuple[bool, float]:
        mean = fmean(last(cell)["fid"] for cell in method.cells)
        return math.isnan(mean), mean

    return sorted(found, key=distance)


def last(cell: Cell, sampler: str | None = None) -> dict[str, float]:
    """Return the figures of the last step; of the sampler that stands for the run unless one is named."""
    steps = cell.samplers[sampler or cell.shown]
    return steps[max(steps)]


def distances(cell: Cell) -> dict[int, float]:
    """Return the distances by step of the sampler that stands for the run."""
    return {step: each["fid"] for step, each in cell.curve.items()}


def options_of(cell: Cell) -> str:
    """Return what a config says of the objective and where the generator begins, in time and from a generator."""
    model = cell.run.config.get("model", {}).get("init_args", {})
    levels = path_options(model).get("levels")
    begins = f", levels {levels}" * (levels is not None)
    row, _, seed = cell.start.partition("/")
    return objective_of(model) + begins + f", from `{row}`, {seed.replace('=', ' ')}" * bool(row)


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
            cost = costs([cell])
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
        columns = [spread([last(cell)[name] for cell in method.cells]) for name in SHOWN]
        lines.append(line([f"`{method.name}`", method.options, str(len(method.cells)), *columns, *costs(method.cells)]))
    lines.append(bound("a Gaussian with the data's moments", compared.gaussian))
    return "\n".join(lines)


def costs(cells: Sequence[Cell]) -> list[str]:
    """Return steps, hours and FLOPs of a row, with those of the generator at which it begins."""
    whole = [cell.before + cell.cost for cell in cells]
    before = f"{cells[0].before.steps} + " * bool(cells[0].start)
    hours = fmean(each.seconds for each in whole) / 3600
    return [f"{before}{cells[0].cost.steps}", f"{hours:.2g}", f"{whole[0].flops:.2g}"]


def progress(methods: Sequence[Method]) -> str:
    """Return tables of distances by updates, one for the rows of the same steps and start: a seed after the other."""
    alike: dict[tuple[bool, tuple[int, ...]], list[Method]] = {}
    for method in methods:
        steps = {step for cell in method.cells for step in distances(cell)}
        if len(steps) > 1:
            alike.setdefault((bool(method.cells[0].start), tuple(sorted(steps))), []).append(method)
    tables = []
    for (tuned, steps), rows in sorted(alike.items()):
        title = f"FID after so many updates{' of tuning' * tuned}, by seed"
        lines = [line([title, "seeds", *map(str, steps)]), line(["---"] * (len(steps) + 2))]
        for name, _, cells in rows:
            reached = [distances(cell) for cell in cells]
            fids = (", ".join(f"{each[step]:.3g}" if step in each else "-" for each in reached) for step in steps)
            lines.append(line([f"`{name}`", ", ".join(str(seed_of(cell.run)) for cell in cells), *fids]))
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


# ------------------------------------------------------------------------------------------------------------ pictures


def curves(methods: Sequence[Method]) -> dict[str, list[dict[int, float]]]:
    """Return distances by step of each seed, of the rows that are compared."""
    named = {method.name: method for method in methods}
    return {name: [distances(cell) for cell in named[name].cells] for name in CURVES if name in named}


def faster(methods: Sequence[Method]) -> str:
    """Return how many updates the second row takes for the first one's end, by seed; none where that has diverged."""
    found = curves(methods)
    if set(found) != set(CURVES):
        return ""
    goal = fmean(each[max(each)] for each in found[CURVES[0]])
    if math.isnan(goal):
        return ""
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

    figure, spent = Figure(figsize=(9, 3.2), layout="constrained"), {each.name: each.cells[0].cost for each in methods}
    axes = figure.subplots(1, 2, sharey=True)
    for colour, (name, seeds) in enumerate(curves(methods).items()):
        for seed, curve in enumerate(seeds):
            for each, scale in zip(axes, (1.0, spent[name].flops / spent[name].steps), strict=True):
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
    """Draw samples of the same latents and labels, a row each: teacher in many steps, in one, UID, the best other.

    Raises:
        UserError: If a grid cannot be read, or images of grids are of different sizes.
    """
    drawn = [(cell, file) for cell in cells if cell.row == TEACHER for file in grids(cell).values()]
    generators = [cell for method in methods for cell in method.cells if cell.shown in grids(cell)]
    usual, others = ([cell for cell in generators if (cell.row == CURVES[0]) is same] for same in (True, False))
    drawn += [(cell, grids(cell)[cell.shown]) for cell in usual[:1] + others[:1]]
    rows = [tiles(file, cell)[:COLUMNS] for cell, file in drawn]
    if len({row.shape[1:] for row in rows}) > 1:
        sizes = ", ".join(f"{file} {tuple(row.shape[2:])}" for (_, file), row in zip(drawn, rows, strict=True))
        raise UserError(f"grids hold images of different sizes: {sizes}")
    if rows:
        picture = make_grid(torch.cat(rows), nrow=COLUMNS, padding=2)
        write_png(picture[:1] if bool((picture[0] == picture[1]).all()) else picture, target)


def grids(cell: Cell) -> dict[str, Path]:
    """Return the last grids of a run's samplers, many steps first, then as they are evaluated."""
    found = find_pictures(cell.run.folder)
    order = sorted(
        filter(found.__contains__, cell.samplers),
        key=lambda name: -int(name.rpartition("_steps_")[2]) if "_steps_" in name else 0,
    )
    return {name: found[name][max(found[name])] for name in order}


def tiles(file: Path, cell: Cell, padding: int = 2) -> torch.Tensor:
    """Return the images of a grid as `SampleGrid` draws it, ``(B, C, H, W)``, without the empty places at its end.

    Raises:
        UserError: If the file is no picture, a damaged one, or not of as many images as its run draws.
    """
    try:
        with Image.open(file) as image:
            picture: torch.Tensor = pil_to_tensor(image)
    except (OSError, SyntaxError) as error:
        raise UserError(f"{file}: no picture, or a damaged one ({error}): keep it anew, or take it away") from error
    data = cell.run.config.get("data", {}).get("init_args", {})
    count = min((cell.run.config.get("grid") or {}).get("count", 64), data.get("eval_samples", math.inf))
    if count == 1:  # drawn without an edge
        return picture[None]
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    side, left = divmod(picture.shape[1] - padding, down)
    if left or side <= padding or picture.shape[2] != side * across + padding:
        raise UserError(f"{file}: expected a grid of {down} x {across} images, got {tuple(picture.shape[1:])} pixels")
    cut = picture.unfold(1, side, side).unfold(2, side, side)[:, :down, :across, padding:, padding:]
    return cut.permute(1, 2, 0, 3, 4).flatten(0, 1)[:count]


if __name__ == "__main__":
    main()
