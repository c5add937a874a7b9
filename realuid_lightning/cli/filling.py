"""What a config leaves open because its data, its path or its own name say it: filled in before anything is built."""

import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace
from lightning import LightningModule
from torch import nn

from realuid_lightning.checkpoints import describe_teacher
from realuid_lightning.cli.building import build, in_one_line
from realuid_lightning.data import Source
from realuid_lightning.data.checks import as_user_errors, shape_of
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.lightning_internals import make_optional
from realuid_lightning.paths import FlowMatchingPath, MatchingPath

T = TypeVar("T")

OPEN = ("shape", "image_size", "in_channels", "num_classes", "condition_channels")
"""Arguments of networks that follow from data and path."""

DESCRIBED = ("network", "path")
"""Arguments of modules that follow from the file of a teacher."""


def leave_open(parser: ArgumentParser, class_type: type) -> None:
    """Let None stand for what data and path will say, in the arguments of a network: nothing requires or presets it.

    And for the network of a module that may begin at a teacher, for the teacher's file may say it.

    Args:
        parser: Parser of the arguments of ``class_type``.
        class_type: Any class.
    """
    if _is_open(class_type):
        make_optional(parser, OPEN)
    elif "teacher_ckpt" in inspect.signature(class_type).parameters:
        make_optional(parser, ("network",))


def fill(config: Namespace) -> None:
    """Fill in, in place, what the options of a command leave open.

    - ``trainer.default_root_dir``: ``runs``, and there the name of the first config file, from ``configs`` on.
    - ``model.network`` and ``model.path``: those of the file ``model.teacher_ckpt``, where it describes itself.
    - ``data.labels``: whether the network has classes.
    - ``model.network`` and further networks: the shape of samples, the number of classes, and the channels that the
      path shows beside ``xt``.
    - ``features``: the shape of samples as they are measured.

    What is given stays; whether it agrees is checked where module and data meet.

    Raises:
        UserError: If a network lacks what the data do not tell, or there is none.
    """
    trainer, model, data = config["trainer"], _arguments(config["model"]), _arguments(config["data"])
    if trainer["default_root_dir"] is None:
        trainer["default_root_dir"] = run_folder(config.get("config"))
    _follow_teacher(model)
    networks, features = list(_networks(model)), config["features"]
    if "labels" in data and data["labels"] is None:
        data["labels"] = any(_arguments(network).get("num_classes") is not None for network in networks)
    faults = Faults("model")
    known = _known(model, data, faults)
    missing: list[str] = []
    for spec in _specs(config):
        if any(spec is network for network in networks):
            missing += _fill(spec, known)
        else:
            missing += _fill(spec, {"shape": known["measured"]} if spec is features and "shape" in known else {})
    if missing:  # else what is wrong with data and path is told together with the faults of all other parts
        faults.raise_any()
        faults.extend(missing)
        faults.raise_any()


def run_folder(configs: list[Any] | None) -> str:
    """Return the run folder of a command with these config files: ``runs/run`` without any."""
    if not configs:
        return "runs/run"
    parts = Path(str(configs[0])).with_suffix("").parts
    return str(Path("runs", *parts[len(parts) - parts[::-1].index("configs") :] if "configs" in parts else parts[-1:]))


def _follow_teacher(model: Namespace) -> None:
    """Fill in what the teacher's file says of its network and path."""
    file = model.get("teacher_ckpt")
    missing = [name for name in DESCRIBED if name in model and model[name] is None]
    if not missing or "teacher_ckpt" not in model:
        return
    try:
        if not file:
            raise UserError("model: network is left out, and no teacher_ckpt describes one: set one of them")
        teacher = describe_teacher(file)
    except UserError as error:
        if "network" in missing:
            raise UserError(
                f"{error}\nmodel: network is left out, so teacher_ckpt must describe it; or set network"
            ) from error
        return  # it is read, and refused if that is due, when the run begins
    for name in missing:
        kind = nn.Module if name == "network" else MatchingPath
        model[name] = _parsed(kind, getattr(teacher, name).recorded())


def _parsed(kind: type, record: dict[str, Any]) -> Namespace:
    """Return a record as the parser of a config would."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    spec: Namespace = parser.parse_object({"it": record})["it"]
    return spec


def _known(model: Namespace, data: Namespace, faults: Faults) -> dict[str, Any]:
    """Return what data and path tell; note what is wrong with them."""
    known: dict[str, Any] = {}
    source = faults.attempt(lambda: _built(Source, data.get("source")))  # type: ignore[type-abstract]
    path = faults.attempt(lambda: _built(MatchingPath, model.get("path")) or FlowMatchingPath())  # type: ignore[type-abstract]
    shape = None if source is None else faults.attempt(lambda: shape_of(source))
    if source is None or shape is None:
        return known
    known["shape"], known["in_channels"], known["measured"] = list(shape), shape[0], list(source.original.shape)
    if len(shape) == 3 and shape[1] == shape[2]:
        known["image_size"] = shape[1]
    if path is not None:
        known["condition_channels"] = path.conditions * shape[0]
    if "labels" in data:
        known["num_classes"] = faults.attempt(lambda: _classes(source)) if data["labels"] else None
    return known


def _classes(source: Source) -> int | None:
    with as_user_errors(source, "num_classes"):
        return source.num_classes


def _fill(spec: Namespace, known: dict[str, Any]) -> list[str]:
    """Fill in what is known, and else what the class itself presets; return what is missing then."""
    class_type, arguments = pkgutil.resolve_name(spec["class_path"]), _arguments(spec)
    parameters = inspect.signature(class_type).parameters if _is_open(class_type) else {}
    missing = []
    for name in [name for name in OPEN if name in parameters and name in arguments and arguments[name] is None]:
        arguments[name] = known[name] if name in known else parameters[name].default
        if arguments[name] is inspect.Parameter.empty:
            arguments[name] = None
            missing.append(f"{class_type.__name__} needs {name}, which data and path do not tell: set it")
    return missing


def _is_open(class_type: Any) -> bool:
    return (
        inspect.isclass(class_type)
        and issubclass(class_type, nn.Module)
        and not issubclass(class_type, LightningModule)
    )


def _is_spec(value: Any) -> bool:
    return isinstance(value, Namespace) and "class_path" in value


def _arguments(spec: Any) -> Namespace:
    """Return the arguments in a spec, to be filled in place."""
    return spec["init_args"] if _is_spec(spec) and "init_args" in spec else Namespace()  # type: ignore[no-untyped-call]


def _networks(arguments: Namespace) -> Iterator[Namespace]:
    """Yield the networks among the arguments of a module, and those that a network wraps."""
    for name, value in vars(arguments).items():
        if (name == "network" or name.endswith("_network")) and _is_spec(value):
            yield value
            yield from _networks(_arguments(value))


def _specs(value: Any) -> Iterator[Namespace]:
    """Yield everything that a value names by its class, at any depth."""
    if _is_spec(value):
        yield value
    parts = vars(value).values() if isinstance(value, Namespace) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _specs(part)


def _built(kind: type[T], spec: Any) -> T | None:
    """Build what a spec names, as the command will; None if there is none.

    Raises:
        UserError: If that is refused.
    """
    if spec is None:
        return None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    parser.add_instantiator(build, object, subclasses=True)
    try:
        it: T = parser.instantiate(Namespace(it=spec))["it"]  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise UserError(in_one_line(error)) from error
    return it
