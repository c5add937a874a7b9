"""``realuid sweep``: a grid of runs, and its figures over seeds."""

import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse.typing import PositiveInt
from rich.markup import escape
from rich.table import Table

from realuid_lightning.cli.console import wide_console
from realuid_lightning.cli.filling import run_folder
from realuid_lightning.cli.parsing import Clear, at_home, check_configs
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.sweeping import (
    Factor,
    Runner,
    Sweep,
    SweepTable,
    Task,
    check_unchanged,
    draw,
    parse_factors,
    read_state,
    tables,
    write_state,
)
from realuid_lightning.sweeping.grid import ALPHA, RATIO, SEEDS, short_names
from realuid_lightning.sweeping.record import config_files

USAGE = "realuid sweep --config FILE [--config FILE ...] [--KEY VALUE ...] [options] FACTOR=VALUE,VALUE,... ..."
EPILOG = (
    "A FACTOR is an option of realuid fit, such as model.alpha, or ratio (model.beta over model.alpha), or seeds, such "
    "as seeds=0-4. --config and --KEY VALUE are those of realuid fit, for all cells."
)
OPTIONS = ("--folder", "--teacher", "--jobs", "--figure", "--sampler")
FLAGS = ("--show", "--array", "-h", "--help")


class Words(NamedTuple):
    """What was typed, sorted.

    Attributes:
        own: Options of the sweep.
        fit: Options of ``fit``.
        factors: The rest.
    """

    own: list[str]
    fit: list[str]
    factors: list[str]


def sweep(words: Sequence[str]) -> None:
    """Run the cells of a grid that are not done yet, and print the table of all that are.

    Raises:
        UserError: If words or configs are at fault, which is told before anything starts; or if cells fail.
        SystemExit: After a signal.
    """
    parser = _parser()
    typed = _sorted(words)
    options = at_home(parser.parse_args(typed.own))
    factors = parse_factors(typed.factors)
    _check_words(typed.fit, factors, options.teacher)
    fit = tuple(at_home(typed.fit))
    files = config_files(fit)
    folder = Path(options.folder or Path("runs/sweeps", *Path(run_folder(files)).parts[1:]))
    teacher = tuple(chain.from_iterable(("--config", file) for file in options.teacher)) or None
    alpha = _alpha(fit) if RATIO in {each.name for each in factors} - {ALPHA} else None
    tasks = Sweep(folder, fit, teacher, alpha).tasks(factors)
    if not options.show:
        check_unchanged(folder, tasks)
    if options.array:
        return _run_one(folder, tasks)
    failed = [] if options.show else _run_all(folder, tasks, options.jobs)
    _print_states(folder, tasks)
    for number, table in enumerate(tables(folder, tasks, options.figure, options.sampler)):
        _print(table)
        if len(table.names) == 2:
            picture = folder / f"{table.figure}{number or ''}.png"
            draw(table, picture)
            print(f"{picture} written")
    if failed:
        raise UserError(
            f"sweep: {len(failed)} of {len(tasks)} runs failed: {', '.join(failed[:8])}{', ...' * (len(failed) > 8)}; "
            "the same words try them again"
        )
    return None


def _parser() -> Clear:
    parser = Clear(prog="realuid sweep", usage=USAGE, description="Run a grid of fits.", epilog=EPILOG)
    parser.add_argument(
        "--folder", type=str | None, default=None, help="where the runs go; runs/sweeps/CONFIG unless set"
    )
    parser.add_argument(
        "--teacher",
        action="append",
        type=str,
        default=[],
        help="config of a teacher that is trained first, once a seed, and handed to the cells; repeat it to override",
    )
    parser.add_argument("--jobs", type=PositiveInt, default=1, help="runs at a time, each a process")
    parser.add_argument("--array", action="store_true", help="run one cell alone, that of $SLURM_ARRAY_TASK_ID")
    parser.add_argument("--show", action="store_true", help="run nothing, print the table of what is done")
    parser.add_argument(
        "--figure", type=str | None, default=None, help="what the table shows; the first one measured unless set"
    )
    parser.add_argument("--sampler", type=str | None, default=None, help="whose figure; the last one's unless set")
    return parser


def _sorted(words: Sequence[str]) -> Words:
    """Sort words; one that follows an option without ``=`` is its value."""
    typed, rest = Words([], [], []), list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            typed.factors.append(word)
            continue
        into = typed.own if word.partition("=")[0] in (*OPTIONS, *FLAGS) else typed.fit
        into.append(word)
        if "=" not in word and word not in FLAGS and rest:
            into.append(rest.pop(0))
    return typed


def _check_words(fit: Sequence[str], factors: Sequence[Factor], teacher: Sequence[str]) -> None:
    faults, names = Faults("sweep"), {factor.name for factor in factors}
    check_configs([*fit, *chain.from_iterable(("--config", file) for file in teacher)])
    missing = [file for file in [*config_files(fit), *map(Path, teacher)] if not file.is_file()]
    faults.extend(f"{file}: no such config file" for file in missing)
    faults.unless(bool(config_files(fit)), "expected --config FILE, got none")
    given = {word.partition("=")[0].removeprefix("--") for word in fit if word.startswith("--")}
    taken = {"trainer.default_root_dir", "ckpt_path"} | ({"model.teacher_ckpt"} if teacher else set())
    faults.extend(f"it sets {name} itself: leave it out" for name in sorted(taken & (given | names)))
    former = names | ({"seed_everything"} if SEEDS in names else set())
    faults.extend(f"{name} is a factor and an option: leave one out" for name in sorted(former & given))
    faults.raise_any()


def _alpha(fit: Sequence[str]) -> float:
    """Return ``model.alpha`` of a config."""
    from realuid_lightning.cli.plan import checked_fit

    cli = checked_fit(fit)
    alpha = getattr(cli.model, "alpha", None)
    if alpha is None:
        raise UserError(f"sweep: {RATIO} needs a model with alpha and beta, but {type(cli.model).__name__} has none")
    return float(alpha)


def _run_all(folder: Path, tasks: Sequence[Task], jobs: int) -> list[str]:
    if any(read_state(folder, task) != "done" for task in tasks):
        environment = dict(os.environ)  # building what is checked sets the seed
        _check(tasks)
        os.environ.clear()
        os.environ.update(environment)
    return Runner(folder, jobs).run(tasks)


def _check(tasks: Sequence[Task]) -> None:
    """Check a teacher, the first cell, and each value of a factor in its place.

    Raises:
        UserError: With the faults of all of them.
    """
    from realuid_lightning.cli.plan import checked_fit

    teachers = [task for task in tasks if not task.factors]
    cells = [task for task in tasks if task.factors]
    first = cells[0].factors
    for task in (*teachers[:1], cells[0]):
        checked_fit(task.words[1:])
    faults = Faults("sweep")
    for task in cells[1:]:
        others = [name for name, value in task.factors.items() if value != first[name]]
        if len(others) == 1 and others != [SEEDS]:
            faults.attempt(lambda task=task: checked_fit(task.words[1:]))  # type: ignore[misc]
    faults.raise_any()


def _run_one(folder: Path, tasks: Sequence[Task]) -> None:
    """Run the task of this job of a SLURM array, in this process, which SLURM's signals reach.

    Raises:
        UserError: If this is no such job, the array is too long, or the teacher of the task has not been trained.
    """
    number = os.environ.get("SLURM_ARRAY_TASK_ID")
    if number is None:
        raise UserError(f"sweep: --array is for a job of a SLURM array, such as sbatch --array=0-{len(tasks) - 1}")
    if not (number.isdecimal() and int(number) < len(tasks)):
        raise UserError(f"sweep: the array must be 0-{len(tasks) - 1}, a job for each run, but this job is {number}")
    task, by_name = tasks[int(number)], {each.name: each for each in tasks}
    if read_state(folder, task) == "done":
        print(f"{task.name}: done already")
        return
    if task.after is not None and read_state(folder, by_name[task.after]) != "done":
        last = sum(not each.factors for each in tasks) - 1
        raise UserError(
            f"sweep: {task.name} needs its teacher, {task.after}: submit --array=0-{last} first, and the rest with "
            f"--dependency=afterok:JOB --array={last + 1}-{len(tasks) - 1}"
        )
    from realuid_lightning.cli.training import run

    first = os.environ.get("SLURM_PROCID", "0") == "0"
    if first:
        write_state(folder, task, "begun")
    sys.argv = [sys.argv[0], *task.words]  # of processes that the run launches
    run(task.words)
    if first:
        write_state(folder, task, "done")


# -------------------------------------------------------------------------------------------------------------- tables


def _print_states(folder: Path, tasks: Sequence[Task]) -> None:
    """Print the runs that are not done, with their numbers in an array."""
    states = [read_state(folder, task) for task in tasks]
    open_ones = [
        f"{number}: {task.name} ({state})"
        for number, (task, state) in enumerate(zip(tasks, states, strict=True))
        if state != "done"
    ]
    print(f"{folder}: {states.count('done')} of {len(tasks)} runs done")
    if open_ones:
        print("not done: " + ", ".join(open_ones[:12]) + ", ..." * (len(open_ones) > 12))


def _print(table: SweepTable) -> None:
    ends = {"floor": table.floor, "Gaussian": table.gaussian}
    caption = ", ".join(f"{name} {value}" for name, value in ends.items() if value is not None)
    shown = Table(title=f"{table.figure}, {escape(table.title)}", caption=caption or None)
    labels = short_names(table.names)
    for name in (*(labels[each] for each in table.names), f"{table.figure}, mean ± standard error", "seeds"):
        shown.add_column(name, justify="right")
    for cell, value in table.rows.items():
        row: list[Any] = [*map(escape, cell), str(value), str(value.seeds)]
        shown.add_row(*row, style="bold" if cell == table.best else None)
    wide_console().print(shown)
