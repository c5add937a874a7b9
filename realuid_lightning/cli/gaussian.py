"""``realuid gaussian``: what the objective does between Gaussians, exact and trained side by side."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jsonargparse.typing import PositiveInt
from rich.console import Console
from rich.table import Table

from realuid_lightning.analysis import (
    Normal,
    Problem,
    best_generator,
    is_bounded,
    realuid_value,
    train_generators,
)
from realuid_lightning.atomic import replacing
from realuid_lightning.cli.parsing import Clear, at_home

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REAL = Normal(0.0, 1.0)
# Study 1, teacher = real: the coefficients of the published runs, the data-free ones, and a pair that is not bounded.
LOSSES = ((1.0, 1.0), (0.9, 0.9), (0.92, 0.94), (0.98, 0.96), (0.9, 0.88), (1.0, 0.9))
WRONG_GENERATORS = (Normal(0.5, 1.0), Normal(0.0, 0.75), Normal(0.0, 1.5))
MEANS, STDS = np.arange(-12, 13) / 10, np.linspace(0.4, 1.8, 22)
LEVELS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Study 2, the teacher is wrong: off by its mean, by its standard deviation, and by both.
TEACHERS = (Normal(1.0, 1.0), Normal(0.0, 0.5), Normal(0.5, 1.5))
# Pairs are RealUID, and triples general RealUID with beta = gamma, which divides the teacher's error by them.
COEFFICIENTS: tuple[tuple[float, ...], ...] = (
    *((1.0, 1.0), (0.9, 0.9), (0.92, 0.94), (0.94, 0.92), (0.8, 0.9)),
    *((0.9, 0.8), (0.5, 0.6), (1.0, 0.9), (0.94, 1.0), (0.9, 1.08)),
    *((0.5, 1.0, 1.0), (0.5, 2.0, 2.0), (0.5, 4.0, 4.0), (0.5, 10.0, 10.0)),
)
DPI = 76  # keeps each figure below 100 kB

Row = dict[str, Any]
Grid = npt.NDArray[np.float64]


def gaussian(words: Sequence[str]) -> None:
    """Draw both studies into a folder and print their tables.

    Raises:
        UserError: If an option is at fault.
    """
    parser = Clear(prog="realuid gaussian", description="Draw what the objective does between Gaussians.")
    parser.add_argument("--folder", type=str, default="runs/gaussian_laboratory", help="where to write")
    parser.add_argument("--steps", type=PositiveInt, default=800, help="generator updates of the trained part")
    parser.add_argument("--seed", type=int, default=0, help="of the trained part")
    options = at_home(parser.parse_args(list(words)))
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written to is told before minutes of work

    losses = [loss_row(alpha, beta) for alpha, beta in LOSSES]
    draw_losses(folder / "loss.png")
    _print_losses(losses)
    teachers = teacher_rows(options.steps, options.seed)
    draw_teachers(teachers, folder / "teacher.png")
    _print_teachers(teachers)
    with replacing(folder / "table.csv") as file, file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(teachers[0]))
        writer.writeheader()
        writer.writerows(teachers)
    with replacing(folder / "table.json") as file:
        tables = {"steps": options.steps, "seed": options.seed, "losses": losses, "teachers": teachers}
        file.write_text(json.dumps(tables, indent=1) + "\n")
    print(f"{folder}: loss.png, teacher.png, table.csv and table.json written")


def loss_row(alpha: float, beta: float) -> Row:
    """Return the exact loss of a few wrong generators when the teacher is right; None where it is infinite."""
    row: Row = {"alpha": alpha, "beta": beta}
    for generated in WRONG_GENERATORS:
        loss = realuid_value(generated, REAL, REAL, alpha, beta)
        row[_name(generated)] = loss if math.isfinite(loss) else None
    return row


def teacher_rows(steps: int, seed: int) -> list[Row]:
    """Return where exact and trained generators end under each wrong teacher, one row a teacher and coefficients.

    Distances are Wasserstein-2, between Gaussians ``sqrt(difference of means^2 + difference of stds^2)``.

    Args:
        steps: Generator updates.
        seed: Of the trained part.
    """
    problems = [Problem(REAL, teacher, *coefficients) for teacher in TEACHERS for coefficients in COEFFICIENTS]
    rows = []
    for problem, trained in zip(problems, train_generators(problems, steps, seed), strict=True):
        real, teacher, alpha, beta, gamma = problem
        exact = best_generator(*problem)
        rows.append(
            {
                **{f"teacher_{field}": value for field, value in teacher._asdict().items()},
                "alpha": alpha,
                "beta": beta,
                "gamma": alpha if gamma is None else gamma,
                "bounded_at_teacher": is_bounded(teacher, *problem),
                **{f"exact_{field}": value for field, value in exact._asdict().items()},
                **{f"trained_{field}": value for field, value in trained._asdict().items()},
                "error": max(abs(trained.mean - exact.mean), abs(trained.std - exact.std)),
                "exact_value": realuid_value(exact, *problem),
                "teacher_to_real": math.dist(teacher, real),
                "exact_to_real": math.dist(exact, real),
                "trained_to_real": math.dist(trained, real),
            }
        )
    return rows


def draw_losses(target: Path) -> None:
    """Draw the exact loss of every generator of the family, a panel for each (alpha, beta), on one scale.

    Args:
        target: The ``.png`` file to create or replace.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 6.0), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    for axes, (alpha, beta) in zip(panels.flat, LOSSES, strict=True):
        losses = _losses(alpha, beta)
        shown = np.ma.masked_invalid(np.maximum(losses, LEVELS[0] / 4))  # the scale has no place for 0
        picture = axes.contourf(MEANS, STDS, shown, levels=LEVELS, norm=LogNorm(), cmap="viridis", extend="both")
        axes.contour(MEANS, STDS, shown, levels=LEVELS, colors="white", linewidths=0.5)
        axes.plot(REAL.mean, REAL.std, "*", color="red", markersize=9)
        axes.set_title(f"alpha = {alpha:g}, beta = {beta:g}", fontsize=10)
        if not np.isfinite(losses).all():
            axes.text(REAL.mean, 0.5, "infinite", ha="center", fontsize=10)
    figure.colorbar(picture, ax=panels, format="%g", label="loss with the exact fake model; star: its minimum, 0")
    figure.supxlabel("mean of the generator")
    figure.supylabel("standard deviation of the generator")
    with replacing(target) as file:
        figure.savefig(file, dpi=DPI)


def draw_teachers(rows: Sequence[Row], target: Path) -> None:
    """Draw where exact and trained generators end, a panel for each teacher.

    Args:
        rows: What ``teacher_rows`` returns.
        target: The ``.png`` file to create or replace.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.8, 4.8), layout="constrained")
    panels = figure.subplots(1, len(TEACHERS))
    for axes, teacher in zip(panels, TEACHERS, strict=True):
        axes.plot(*REAL, "k*", markersize=13, label="real data")
        axes.plot(*teacher, "k^", markersize=9, label="teacher")
        _draw_ends(axes, [row for row in rows if (row["teacher_mean"], row["teacher_std"]) == teacher])
        axes.set_title(f"teacher {_name(teacher)}", fontsize=10)
        axes.set_xlabel("mean")
        axes.margins(0.12)
        axes.set_aspect("equal", adjustable="datalim")
    panels[0].set_ylabel("standard deviation")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        *(handles, labels),
        loc="outside lower center",
        ncols=4,
        fontsize=9,
        title="circle (square where gamma is not alpha): exact, cross: trained",
    )
    with replacing(target) as file:
        figure.savefig(file, dpi=DPI)


def _draw_ends(axes: "Axes", rows: Sequence[Row]) -> None:
    for index, row in enumerate(rows):
        label, marker = f"alpha = {row['alpha']:g}, beta = {row['beta']:g}", "o"
        if row["gamma"] != row["alpha"]:
            label, marker = f"{label}, gamma = {row['gamma']:g}", "s"
        exact = [row["exact_mean"], row["trained_mean"]], [row["exact_std"], row["trained_std"]]
        axes.plot(*exact, color=f"C{index}", linewidth=0.8)  # joins what belongs together
        axes.plot(
            exact[0][:1], exact[1][:1], marker, color=f"C{index}", markerfacecolor="none", markersize=9, label=label
        )
        axes.plot(exact[0][1:], exact[1][1:], "x", color=f"C{index}", markersize=6)


def _losses(alpha: float, beta: float) -> Grid:
    """Return the exact loss over STDS and MEANS; the quadrature is coarse, but good to 1e-6 of a bounded loss."""
    half = MEANS[MEANS >= 0]
    values = [
        realuid_value(Normal(mean, std), REAL, REAL, alpha, beta, times=12, points=81, reach=8.0)
        for std in STDS.tolist()
        for mean in half.tolist()
    ]
    right = np.array(values).reshape(len(STDS), len(half))
    return np.hstack([right[:, :0:-1], right])  # REAL has mean 0, so that the loss is even in the mean


def _name(data: Normal) -> str:
    return f"N({data.mean:g}, {data.std:g}²)"


def _print_losses(rows: Sequence[Row]) -> None:
    table = Table(title=f"Teacher = real = {_name(REAL)}: exact loss of wrong generators")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*("infinite" if value is None else f"{value:.4g}" for value in row.values()))
    Console().print(table)


def _print_teachers(rows: Sequence[Row]) -> None:
    table = Table(
        title=f"Wrong teachers, real = {_name(REAL)}: where the generator ends (mean, std)",
        caption="Distances are Wasserstein-2.   * inner problem not bounded at the teacher, where training starts",
    )
    ends = ("exact", "trained")
    for name in ("teacher", "alpha", "beta", "gamma", *ends, "error", "teacher to real", *ends):
        table.add_column(name, justify="right")
    for row in rows:
        teacher, exact, trained = (
            f"{row[f'{who}_mean']:.{digits}f}, {row[f'{who}_std']:.{digits}f}"
            for who, digits in (("teacher", 1), ("exact", 3), ("trained", 3))
        )
        table.add_row(
            teacher,
            *(f"{row[name]:g}" for name in ("alpha", "beta", "gamma")),
            *(exact, trained),
            f"{row['error']:.3f}{' ' if row['bounded_at_teacher'] else '*'}",
            *(f"{row[f'{who}_to_real']:.3f}" for who in ("teacher", "exact", "trained")),
            end_section=(row["alpha"], row["beta"], row["gamma"]) == COEFFICIENTS[-1],
        )
    Console().print(table)
