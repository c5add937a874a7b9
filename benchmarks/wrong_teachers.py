"""Does real data pay under a wrong teacher? Trains teachers with known flaws, and generators of each by each method.

Every run is one `realuid fit`, in FOLDER/DATA/FLAW/METHOD/seed=K; each seed has a teacher of its own. Runs that are
done are left alone and others go on where they were, the first seed of everything first. Then come the tables of
docs/wrong_teachers.md: mean and standard deviation over the seeds that are done, of the average of the weights.
Figures of what is done can be kept in another folder, of which the tables can be made as well.

Usage: python benchmarks/wrong_teachers.py runs/wrong_teachers [--data moons digits] [--flaws blurred ...]
           [--methods UID ...] [--seeds 0 1 2] [--jobs 2] [--show] [--keep FOLDER] [--page FILE.md] [--picture FILE.png]
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import frameworks
from parts.pages import replace

from realuid_lightning.errors import UserError
from realuid_lightning.reporting import Measurement

HOME = Path(__file__).resolve().parent
CONFIGS = HOME.parent / "configs"


class Study(NamedTuple):
    """A data set: its configs, how both are shortened, its flaws in words of a teacher's command, and its figures."""

    configs: str
    teacher: str
    distil: str
    flaws: dict[str, str]
    figures: dict[str, float]  # and what they are multiplied by


def training(steps: int, fake: int = 0) -> str:
    """Return the words that make a run so long, its schedules with it."""
    words = f"--trainer.max_steps {steps} --trainer.val_check_interval {steps} "
    if not fake:
        return f"{words} --model.schedule.steps {steps} --model.schedule.warmup 20"
    return f"{words} --model.generator_schedule.steps {steps} --model.fake_schedule.steps {fake * steps}"


TRUE_MOONS = "--data.reference Toy2D --data.reference.name moons --data.reference.size 20000 --data.eval_samples 5000"
STUDIES = {
    "moons": Study(
        "toy2d",
        f"--model.sampling_steps [50] {TRUE_MOONS} {training(2000)}",
        f"{TRUE_MOONS} --data.batch_size 256 {training(600, 5)}",
        {
            "none": "",
            "blurred": "--data.source flawed.BlurredMoons",
            "biased": "--data.source flawed.BiasedMoons",
            "few": "--data.source.size 100",
            "early": training(150),
            "small": "--model.network.width 12",
        },
        {"mmd_0.2": 1e4, "precision": 1, "coverage": 1},
    ),
    "digits": Study(
        "demo",
        f"--model.sampling_steps [50] --model.evaluate [ema_0.999_steps_50] {training(2000)}",
        training(800, 5),
        {
            "none": "",
            "blurred": "--data.source flawed.BlurredDigits",
            "biased": "--data.source flawed.BiasedDigits",
            "few": "--data.source flawed.FewDigits",
            "early": training(200),
            "small": "--model.network.width 64",
        },
        {"fid": 1, "precision": 1, "coverage": 1},
    ),
}
CORRECTED = "--model.alpha 1 --model.beta 1 --model.objective Corrected --model.objective"
METHODS = {
    "UID": "--model.alpha 1 --model.beta 1",
    "RealUID (0.98, 0.96)": "--model.alpha 0.98 --model.beta 0.96",
    "RealUID (0.94, 1)": "--model.alpha 0.94 --model.beta 1",
    "RealUID (0.9, 0.9)": "--model.alpha 0.9 --model.beta 0.9",
    "RealUID (0.9, 1.08)": "--model.alpha 0.9 --model.beta 1.08",
    "general RealUID (0.9, 2, 2)": "--model.alpha 0.9 --model.beta 2 --model.gamma 2",
    "Corrected, rho 0.5": f"{CORRECTED}.rho 0.5",
    "Corrected, rho 1": f"{CORRECTED}.rho 1",
    "UID + GAN": "--model.alpha 1 --model.beta 1 --model.gan GAN",
    "UID of a tuned teacher": "--model.alpha 1 --model.beta 1",
}
DRAWN = ("teacher", "UID", "RealUID (0.98, 0.96)", "UID + GAN", "Corrected, rho 1")
DRAWN_FLAWS = ("blurred", "biased", "few", "early")
TUNING = training(500)
"""Of a teacher on the data as they are, from the weights that it has with its flaw."""


class Run(NamedTuple):
    """One `realuid fit`."""

    folder: Path
    words: str
    after: Path | None = None  # the folder of the run whose weights it begins at

    def __call__(self) -> str:
        """Train, unless that is done, and tell how it went."""
        done = self.folder / "done"
        if done.exists():
            return ""
        if self.after is not None and not (self.after / "done").exists():  # it may have left weights of half its steps
            return f"{self.folder}: left out, for {self.after} is not done"
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = [str(HOME / "parts"), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [
            sys.executable,
            "-m",
            "realuid_lightning.cli",
            "fit",
            *shlex.split(f"{self.words} --ckpt_path resume"),
        ]
        with (self.folder / "log.txt").open("a") as log:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            code = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
        if code == 0:
            done.touch()
        return f"{self.folder}: {'done' if code == 0 else 'failed, see log.txt there'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--flaws", nargs="+", choices=STUDIES["moons"].flaws, default=list(STUDIES["moons"].flaws))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, at least 1")
    parser.add_argument("--show", action="store_true", help="print the tables and train nothing")
    parser.add_argument("--keep", type=Path, help="where to copy figures of runs that are done to")
    parser.add_argument("--page", type=Path, help="whose tables of these data are replaced, between marks")
    parser.add_argument("--picture", type=Path, help="where to draw the moons of the first seed, a .png file")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    if not options.show:
        train_all(options)
    if options.picture:
        draw(options.folder, options.seeds[0], options.picture)
    if options.keep:
        keep(options.folder, options.data, options.keep)
    tables = {data: tables_of(options.folder, data) for data in options.data}
    if not any(tables.values()):
        raise SystemExit(f"error: {options.folder} has no figures of {' or '.join(options.data)}")
    if not options.page:
        print(*filter(None, tables.values()), sep="\n\n", end="\n\n")
        return
    try:
        for data, text in tables.items():
            if text:
                replace(options.page, data, text)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


def train_all(options: argparse.Namespace) -> None:
    """Train what is not done: of each seed the teachers with their flaws, those tuned further, then the generators."""
    for seed, data in product(options.seeds, options.data):
        train([teacher(options.folder, data, flaw, seed) for flaw in options.flaws], options.jobs)
        if any("tuned" in method for method in options.methods):
            train([tuned(options.folder, data, flaw, seed) for flaw in options.flaws], options.jobs)
        students = [student(options.folder, data, *pair, seed) for pair in product(options.flaws, options.methods)]
        train(students, options.jobs)


def keep(folder: Path, data: list[str], target: Path) -> None:
    """Copy the figures of runs that are done, and that they are."""
    for done in sorted(file for each in data for file in folder.glob(f"{each}/*/*/seed=*/done")):
        place = target / done.parent.relative_to(folder)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(done.with_name("figures.jsonl"), place / "figures.jsonl")
        (place / "done").touch()


def train(runs: list[Run], jobs: int) -> None:
    """Train runs, so many at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        for told in filter(None, pool.map(lambda run: run(), runs)):
            print(told, flush=True)


def teacher(folder: Path, data: str, flaw: str, seed: int) -> Run:
    """Return the run of a teacher with a flaw."""
    study, place = STUDIES[data], cell(folder, data, flaw, "teacher") / f"seed={seed}"
    return Run(place, f"{common(study, 'teacher', place, seed)} {study.teacher} {study.flaws[flaw]}")


def tuned(folder: Path, data: str, flaw: str, seed: int) -> Run:
    """Return the run that trains that teacher further on the data as they are."""
    study, place = STUDIES[data], cell(folder, data, flaw, "tuned teacher") / f"seed={seed}"
    begun = teacher(folder, data, flaw, seed).folder
    words = f"{common(study, 'teacher', place, seed)} {study.teacher} {TUNING}"
    return Run(place, f"{words} {start(begun)} {width(study.flaws[flaw])}", begun)


def student(folder: Path, data: str, flaw: str, method: str, seed: int) -> Run:
    """Return the run of a generator of that teacher, which sees the data as they are."""
    study, place = STUDIES[data], cell(folder, data, flaw, method) / f"seed={seed}"
    taught = (tuned if "tuned" in method else teacher)(folder, data, flaw, seed).folder
    words = f"{common(study, 'distil', place, seed)} {study.distil}"
    return Run(place, f"{words} {METHODS[method]} {width(study.flaws[flaw])} {start(taught)}", taught)


def cell(folder: Path, data: str, flaw: str, method: str) -> Path:
    """Return where the runs of a method, or of the teachers, are."""
    return folder / data / flaw / method.replace(" ", "_")


def common(study: Study, config: str, place: Path, seed: int) -> str:
    """Return the words that every run has; places are quoted as in a shell, for a name may have blanks."""
    file = shlex.quote(str(CONFIGS / study.configs / f"{config}.yaml"))
    return f"--config {file} --seed_everything {seed} --trainer.default_root_dir {shlex.quote(str(place))}"


def start(run: Path) -> str:
    """Return the words of a teacher that a run has left."""
    return f"--model.teacher_ckpt {shlex.quote(str(run / 'checkpoints' / 'last.ckpt'))}"


def width(flaw: str) -> str:
    """Return the words of a flaw that all networks share."""
    return flaw if "width" in flaw else ""


def draw(folder: Path, seed: int, target: Path) -> None:
    """Draw the densities of teachers in 50 steps and of generators in one, a row a flaw."""
    import torch
    from matplotlib.figure import Figure

    from realuid_lightning import load_generator, load_teacher

    z = torch.randn(20000, 2, generator=torch.Generator().manual_seed(0))
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    for row, flaw in zip(figure.subplots(len(DRAWN_FLAWS), len(DRAWN)), DRAWN_FLAWS, strict=True):
        row[0].set_ylabel(flaw)
        for axes, method in zip(row, DRAWN, strict=True):
            file = cell(folder, "moons", flaw, method) / f"seed={seed}" / "checkpoints" / "last.ckpt"
            with torch.no_grad():
                sampler = load_teacher(file, 0.99) if method == "teacher" else load_generator(file, 0.99)
                x = sampler(z)
            axes.hist2d(*x.T.numpy(), bins=70, range=[[-2.8, 2.8], [-1.9, 1.9]], cmap="magma", vmax=40)
            axes.set(xticks=[], yticks=[])
            if flaw == DRAWN_FLAWS[0]:
                axes.set_title(method, fontsize=9)
    figure.savefig(target, dpi=64)


def tables_of(folder: Path, data: str) -> str:
    """Return the tables of a data set in Markdown, a figure each; nothing where nothing was measured."""
    return "\n\n".join(filter(None, ("\n".join(table(folder, data, figure)) for figure in STUDIES[data].figures)))


def table(folder: Path, data: str, figure: str) -> Iterator[str]:
    """Yield the lines of a table in Markdown: a row a method, a column a flaw, of which something is done."""
    study = STUDIES[data]
    found = map(last, sorted(folder.glob(f"{data}/*/*/seed=*")))
    ends = [end for end in found if end and figure in end.floor and figure in end.gaussian]
    if not ends:
        return
    floor, gaussian = (known[figure] * study.figures[figure] for known in (ends[0].floor, ends[0].gaussian))
    factor = f" x {study.figures[figure]:g}" if study.figures[figure] != 1 else ""
    yield f"**{data}, {figure}{factor}**: floor {floor:.3g}, Gaussian {gaussian:.3g}\n"
    methods = ("teacher", "tuned teacher", *METHODS)
    cells = {
        (method, flaw): spread(cell(folder, data, flaw, method), figure, study.figures[figure])
        for method, flaw in product(methods, study.flaws)
    }
    flaws = [flaw for flaw in study.flaws if any(cells[method, flaw] for method in methods)]
    yield f"| | {' | '.join(flaws)} |"
    yield "| --- " * (len(flaws) + 1) + "|"
    for method in methods:
        if any(row := [cells[method, flaw] for flaw in flaws]):
            yield f"| {method} | {' | '.join(row)} |"


def spread(runs: Path, figure: str, factor: float) -> str:
    """Return mean and standard deviation over the seeds that are done, and how many these are."""
    found = map(last, sorted(done.parent for done in runs.glob("seed=*/done")))
    values = [factor * row.figures[figure] for row in found if row and figure in row.figures]
    return frameworks.spread(values) + (f" ({len(values)})" if len(values) > 1 else "")


def last(run: Path) -> Measurement | None:
    """Return the last that a run has measured of an average of its weights."""
    rows = frameworks.measured(run)
    return next((row for row in reversed(rows) if row.sampler.startswith("ema")), None)


if __name__ == "__main__":
    main()
