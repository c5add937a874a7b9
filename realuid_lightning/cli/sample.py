"""``realuid sample``: samples of a file, without its config."""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor

from realuid_lightning import solvers
from realuid_lightning.atomic import replacing
from realuid_lightning.checkpoints import load_generator, load_teacher, read_checkpoint, record_of
from realuid_lightning.checkpoints.files import EXPORTED
from realuid_lightning.cli.parsing import Clear, at_home
from realuid_lightning.conditions import Condition, joined, rows, size
from realuid_lightning.data import Batch, ImageFolder, LatentDataset, to_floats
from realuid_lightning.data.stream import parse_indices
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.evaluation.grids import draw
from realuid_lightning.evaluation.writer import write_png
from realuid_lightning.metrics import to_bytes
from realuid_lightning.modules.generation import Sampler, generate, later_noise, step_noise
from realuid_lightning.networks import Generator
from realuid_lightning.networks.generator import decoded
from realuid_lightning.solvers import ManySteps

Made = Generator | ManySteps


def sample(words: Sequence[str]) -> None:
    """Generate from a checkpoint or an export, and write pictures.

    Raises:
        UserError: If the file or an option is at fault.
    """
    options = at_home(parser_of().parse_args(list(words)))
    _check(options)
    if options.trust and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    made = _loaded(options)
    shape = _shape(options, made)
    _check_pictures(options, _decoded_shape(made, shape))
    latents, device = _latents(options, made, shape), _moved(made, options.device)
    kept: list[tuple[Tensor, Condition | None]] = []
    for batch in _batches(latents, options.batch):
        samples = generate(_sampler(made), batch, options.batch, device, torch.float32).cpu()
        if options.out is not None and not _is_archive(options.out):
            for index, image in zip(cast(Tensor, batch.index).tolist(), to_bytes(samples), strict=True):
                write_png(image, Path(options.out) / f"{index:06d}.png")
        if options.grid is not None or _is_archive(options.out):
            kept.append((samples, batch.y))
    if kept:
        _write_whole(options, torch.cat([samples for samples, _ in kept]), joined([y for _, y in kept]))
    print("\n".join(f"{target}: written" for target in (options.out, options.grid) if target is not None))


def parser_of() -> Clear:
    """Return the parser of the command."""
    parser = Clear(prog="realuid sample", description="Generate samples from a checkpoint or an export.")
    add = parser.add_argument
    add("file", type=str, help="checkpoint of a teacher or a distillation, or an export")
    add("--count", type=int, default=64, help="number of samples")
    add("--labels", type=str | None, default=None, help="classes in turn, such as 0-9 or 3,3,7; all if left out")
    add("--conditions", type=str | None, default=None, help=".safetensors of the network's conditions, in turn")
    add("--origin", type=str | None, default=None, help="folder of images that a translating model begins with")
    add("--grid", type=str | None, default=None, help="one picture of all; samples.png if nothing else is asked for")
    add("--out", type=str | None, default=None, help="folder for a PNG file a sample, or a .npz file")
    add("--seed", type=int, default=0, help="which samples; those of predict and its data.eval_seed")
    add("--ema", type=float | None, default=None, help="decay of the average; the raw weights if left out")
    add("--steps", type=int | None, default=None, help="solver steps of a teacher (50), calls of a generator")
    add("--solver", type=Literal["Euler", "Heun", "Ancestral"] | None, default=None, help="of a teacher; Euler")
    add("--guidance", type=float | None, default=None, help="scale of a teacher's classifier-free guidance")
    add("--batch", type=int, default=64, help="samples in one forward; the last one is filled up")
    add("--device", type=str, default="auto", help="cpu, cuda, mps, ...; what there is if left out")
    add("--trust", type=str, action="append", default=[], metavar="NAME", help="as in realuid export")
    return parser


def _check(options: Namespace) -> None:
    """Refuse what is out of range whatever the file, and fill in what nothing was said of."""
    faults = Faults("sample")
    for name in ("count", "batch"):
        faults.unless(options[name] >= 1, f"--{name} must be at least 1, got {options[name]}")
    faults.unless(options.seed >= 0, f"--seed must be at least 0, got {options.seed}")
    faults.unless(options.steps is None or options.steps >= 1, f"--steps must be at least 1, got {options.steps}")
    faults.unless(
        options.labels is None or options.conditions is None, "--labels and --conditions: leave one of them out"
    )
    picture = options.grid is None or Path(options.grid).suffix.lower() == ".png"
    faults.unless(picture, f"--grid is a PNG file: expected a name that ends with .png, got {options.grid}")
    faults.raise_any()
    if options.out is None and options.grid is None:
        options.grid = "samples.png"


def _loaded(options: Namespace) -> Made:
    """Open the file as what it is."""
    content = read_checkpoint(options.file, mmap=True)
    record = record_of(content, options.file)
    if options.ema is None and record["ema"] and EXPORTED not in content:
        averages = ", ".join(map(str, record["ema"]))
        print(f"{options.file}: raw weights; it also holds averages of decay {averages}: --ema", file=sys.stderr)
    if record["role"] == "teacher":
        solver = getattr(solvers, options.solver or "Euler")()
        teaching = {"steps": options.steps or 50, "solver": solver, "guidance": options.guidance}
        return load_teacher(options.file, options.ema, **teaching, trust=options.trust)
    made = load_generator(options.file, options.ema, trust=options.trust)
    faults = Faults(options.file)
    for name in ("solver", "guidance"):
        faults.unless(options[name] is None, f"holds a generator, which knows no --{name}: it is that of a teacher")
    steps = options.steps or made.steps
    faults.unless(made.steps % steps == 0, f"--steps must divide {made.steps}, those of the generator, got {steps}")
    faults.raise_any()
    made.steps = steps
    return made


def _shape(options: Namespace, made: Made) -> tuple[int, ...]:
    """Return the shape of what the network makes."""
    given = getattr(made.network, "shape", None)
    if given is None:
        raise UserError(f"{options.file}: its network does not tell the shape of a sample; load_generator it in Python")
    return tuple(given)


@torch.no_grad()
def _decoded_shape(made: Made, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a sample, once it is decoded if that is due."""
    return tuple(decoded(torch.zeros(1, *shape), made.decoder).shape[1:])


def _check_pictures(options: Namespace, shape: tuple[int, ...]) -> None:
    """Refuse to draw samples that cannot be."""
    pictures = len(shape) == 3 and shape[0] in (1, 3)
    faults = Faults(options.file)
    faults.unless(
        pictures or shape == (2,) or options.grid is None,
        f"samples of shape {shape} are neither images nor points in the plane: name a .npz file by --out",
    )
    faults.unless(
        pictures or options.out is None or _is_archive(options.out),
        f"samples of shape {shape} are no images of 1 or 3 channels: name a .npz file by --out",
    )
    faults.raise_any()


def _moved(made: Made, name: str) -> torch.device:
    """Bring the networks to a device, and return it."""
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    try:
        device = (there or torch.device("cpu")) if name == "auto" else torch.device(name)
        made.to(device)
    except (RuntimeError, AssertionError) as error:  # of names and devices that are not there
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


# ------------------------------------------------------------------------------------------------------------ inputs


def _latents(options: Namespace, made: Made, shape: tuple[int, ...]) -> LatentDataset:
    """Return what samples are made from: latents, conditions and source ends, functions of the index alone."""
    origin = None
    if made.path.translates != (options.origin is not None):
        raise UserError(
            f"{options.file}: begins at samples of a source domain: name a folder of images, --origin FOLDER"
            if made.path.translates
            else f"{options.file}: begins at noise: leave --origin out"
        )
    if options.origin is not None:
        if len(shape) != 3 or shape[1] != shape[2]:
            raise UserError(f"{options.file}: --origin reads square images, but a sample has shape {shape}")
        origin = ImageFolder(options.origin, size=shape[1], channels=shape[0])
        origin.setup()
    told = _conditions(options, getattr(made.network, "num_classes", None))
    conditions = None if told is None else partial(_in_turn, told=told)
    return LatentDataset(torch.arange(options.count), shape, conditions, origin, seed=options.seed)


def _conditions(options: Namespace, classes: int | None) -> Condition | None:
    """Return the conditions that samples get in turn."""
    if options.conditions is not None:
        return _read_conditions(options.conditions)
    if classes is None:
        if options.labels is not None:
            raise UserError(f"{options.file}: its network has no classes: leave --labels out")
        return None
    if options.labels is None:
        return torch.arange(classes)
    labels = torch.cat([parse_indices(part) for part in options.labels.split(",")])
    if int(labels.max()) >= classes:
        raise UserError(f"--labels: expected classes from 0 to {classes - 1}, got {int(labels.max())}")
    return labels


def _read_conditions(file: str) -> Condition:
    content = read_checkpoint(file)
    sizes = {len(part) if isinstance(part, Tensor) and part.ndim else 0 for part in content.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise UserError(f"{file}: expected tensors with as many rows, one of each a sample; or one tensor, named y")
    return content["y"] if list(content) == ["y"] else content


def _in_turn(index: Tensor, key: Tensor, told: Any) -> Any:  # noqa: ARG001
    return rows(told, index % size(told))


def _batches(latents: LatentDataset, batch: int) -> Iterator[Batch]:
    """Yield the batches, source ends as floats."""
    for start in range(0, len(latents), batch):
        given = latents.__getitems__(range(start, min(start + batch, len(latents))))
        yield given._replace(x0=None if given.x0 is None else to_floats(given.x0))


def _sampler(made: Made) -> Sampler:
    def sample(batch: Batch) -> Tensor:
        noise: Any = partial(step_noise, batch)
        samples: Tensor = made(
            batch.z, batch.y, batch.x0, later_noise(noise, made.steps) if isinstance(made, Generator) else noise
        )
        return samples

    return torch.no_grad()(sample)


# ----------------------------------------------------------------------------------------------------------- outputs


def _is_archive(out: str | None) -> bool:
    return out is not None and out.endswith(".npz")


def _write_whole(options: Namespace, samples: Tensor, y: Condition | None) -> None:
    """Write what holds all samples: one picture, an archive, or both."""
    if options.grid is not None:
        picture = draw(samples)
        assert picture is not None
        write_png(picture, Path(options.grid))
    if _is_archive(options.out):
        _write_archive(samples, y, Path(options.out))


def _write_archive(samples: Tensor, y: Condition | None, target: Path) -> None:
    """Write what ``realuid predict --writer.format npz`` writes: ``index``, ``samples``, and ``labels`` if any."""
    samples = to_bytes(samples).permute(0, 2, 3, 1) if samples.ndim == 4 and samples.shape[1] in (1, 3) else samples
    arrays = {"index": np.arange(len(samples)), "samples": samples.numpy()}
    if isinstance(y, Tensor) and y.dtype == torch.int64:
        arrays["labels"] = y.numpy()
    with replacing(target) as file, file.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
