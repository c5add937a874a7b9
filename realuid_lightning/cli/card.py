"""The card of an exported generator: what it is, how good, made how and of what, for whom it may be."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from realuid_lightning.atomic import replacing
from realuid_lightning.errors import UserError
from realuid_lightning.networks.ema import ema_name
from realuid_lightning.redaction import without_secrets
from realuid_lightning.reporting.lineage import ancestors
from realuid_lightning.reporting.reading import Measurement, read_config, read_runs

LIBRARY = "realuid_lightning"

USE = {
    "safetensors": """\
from realuid_lightning import load_generator

samples = load_generator("{name}")({arguments})""",
    "torch": """\
import torch

samples = torch.export.load("{name}").module()({named})""",
    "onnx": """\
import onnxruntime

(samples,) = onnxruntime.InferenceSession("{name}").run(None, {{{arrays}}})""",
    "diffusers": """\
from diffusers import DiffusionPipeline

images = DiffusionPipeline.from_pretrained("{name}")(num_inference_steps=1, batch_size=8).images""",
}


class Export(NamedTuple):
    """What was exported.

    Attributes:
        checkpoint: Its file.
        target: The file that was written.
        format: The name of its format.
        ema: Decay of the average; None for raw weights.
        dtype: Type of the weights.
        record: What the checkpoint says of itself.
        translates: Whether it begins at samples of a source domain.
        step: Generator updates behind it; None where it does not tell.
    """

    checkpoint: Path
    target: Path
    format: str
    ema: float | None
    dtype: str
    record: dict[str, Any]
    translates: bool
    step: int | None


class Licences(NamedTuple):
    """Under what terms the generator and its teacher may be used, as Hugging Face names licences."""

    own: str = "unknown"
    teacher: str = "unknown"


def write_card(export: Export, licences: Licences) -> Path:
    """Write ``README.md`` beside an export, or into one that is a folder, whose name has no suffix.

    Raises:
        UserError: If another text is there under this name.
    """
    target = card_place(export.target)
    with replacing(target) as file:
        file.write_text(card(export, licences))
    return target


def card_place(export: Path) -> Path:
    """Return where the card of an export goes.

    Raises:
        UserError: If there is a README.md that is no card of ours.
    """
    target = (export.parent if export.suffix else export) / "README.md"
    if target.is_file() and f"\nlibrary_name: {LIBRARY}\n" not in target.read_text(errors="replace"):
        raise UserError(f"{target}: there already, and no card of ours; export into another folder")
    return target


def card(export: Export, licences: Licences) -> str:
    """Return the text of a card: its front matter as Hugging Face reads it, then Markdown."""
    run = _run_folder(export)
    config = {} if run is None else without_secrets(read_config(run))
    model = config.get("model", {}).get("init_args", {})
    teacher, *begun_at = ([] if run is None else without_secrets(ancestors(run))) or ["not told"]
    front = {
        "library_name": LIBRARY,
        "license": licences.own,
        "tags": ["one-step-generation", "distillation", "realuid"],
        "teacher": {"weights": teacher, "license": licences.teacher},
    }
    record = export.record
    facts = [
        ("network", _class(record["network"])),
        ("path", _class(record["path"])),
        ("network calls a sample", record["sampling_steps"]),
        ("weights", f"{'raw' if export.ema is None else ema_name(export.ema)}, {export.dtype}"),
        ("generator updates", "not told" if export.step is None else export.step),
        ("objective", objective_of(model)),
        ("teacher", f"{teacher}{_of_average(model)}; licence: {licences.teacher}"),
        *(("which began at", file) for file in begun_at),
        ("licence", licences.own),
    ]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {export.target.stem}",
        "A generator distilled by [RealUID](https://arxiv.org/abs/2509.22459), made with realuid_lightning.",
        _table(("", ""), facts),
        f"## Use\n\n```python\n{_use(export)}\n```",
        f"## Figures\n\n{_figures(export)}",
        "## Config\n\n" + (f"```yaml\n{yaml.safe_dump(config, sort_keys=False)}```" if config else "Not told."),
    ]
    return "\n\n".join(parts) + "\n"


def _run_folder(export: Export) -> Path | None:
    """Return the folder of the run that a checkpoint is of; None if it lies elsewhere."""
    folder = export.checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" else None


def _class(record: dict[str, Any] | None) -> str:
    return "not recorded" if record is None else record["class_path"].rpartition(".")[2]


def objective_of(model: dict[str, Any]) -> str:
    """Return what a config says of its objective, and of the weight of times in it."""
    named = model.get("objective")
    shorthands = ("alpha", "beta", "gamma", "divergence", "gan")  # which have no part in an objective that is named
    names = (*(shorthands if named is None else ()), "guidance", "guide_fake")
    found = {name: model.get(name) for name in names} | {"weighting": path_options(model).get("weighting")}
    told = [f"{name} {_short(value)}" for name, value in found.items() if value not in (None, False)]
    return ", ".join([*([] if named is None else [_short(named)]), *told]) or "not told"


def path_options(model: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a config gives to its path."""
    path = model.get("path")
    return (path.get("init_args") or {}) if isinstance(path, dict) else {}


def _short(value: Any) -> str:
    """Return a value of a config as words: a class with those of its arguments that are set."""
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    if not isinstance(value, dict) or "class_path" not in value:
        return str(value)
    given = [f"{name} {_short(each)}" for name, each in (value.get("init_args") or {}).items() if each is not None]
    return _class(value) + (f" ({', '.join(given)})" if given else "")


def _of_average(model: dict[str, Any]) -> str:
    return "" if model.get("teacher_ema") is None else f", {ema_name(model['teacher_ema'])}"


def _use(export: Export) -> str:
    """Return code that makes samples."""
    record = export.record
    arguments = (record["network"] or {"init_args": {}})["init_args"]
    inputs = ["z"]
    if arguments.get("num_classes") is not None:
        inputs.append("y")
    elif export.translates and export.format == "safetensors":
        inputs.append("None")
    if export.translates:
        inputs.append("x0")
    if export.format != "safetensors" and record["sampling_steps"] > 1:
        inputs.append("renoise")
    words = {
        "arguments": ", ".join(inputs),
        "named": ", ".join(f"{each}={each}" for each in inputs),
        "arrays": ", ".join(f'"{each}": {each}' for each in inputs),
    }
    template = USE.get(export.format)
    return "" if template is None else template.format(name=export.target.name, **words)


def _figures(export: Export) -> str:
    """Return the figures of the exported weights, a table a protocol; the last ones where there are several."""
    run, sampler = _run_folder(export), "raw" if export.ema is None else ema_name(export.ema)
    try:
        read = [] if run is None else read_runs([run])
    except UserError:  # which has measured nothing
        read = []
    wanted = export.step, sampler, None
    made = [each for one in read if one.folder.resolve() == run for each in one.measurements]
    found = {_protocol(each): each for each in made if (each.step, each.sampler, each.checkpoint) == wanted}
    return "\n\n".join(f"{_measured(each)}\n\n{protocol}" for protocol, each in found.items()) or "Not measured."


def _measured(each: Measurement) -> str:
    rows = [
        (name, *(_number(of.get(name)) for of in (each.figures, each.floor, each.gaussian))) for name in each.figures
    ]
    return _table(("figure", "generator", "held-out real data", "Gaussian of the data's moments"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _protocol(each: Measurement) -> str:
    seed = "" if each.seed is None else f", seed {each.seed}"
    return "Protocol: " + ", ".join(f"{name} {value}" for name, value in each.protocol.items()) + seed + "."


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)
