"""Teachers outside training: writing them with all that a distillation needs to know, and loading them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn

from realuid_lightning.atomic import write_tensors
from realuid_lightning.checkpoints.bounds import is_dense, no_larger_than
from realuid_lightning.checkpoints.files import RECORD, read_checkpoint
from realuid_lightning.checkpoints.records import FORMAT, record_of
from realuid_lightning.checkpoints.strict import load_strictly
from realuid_lightning.checkpoints.weights import network_weights
from realuid_lightning.errors import UserError
from realuid_lightning.paths import MatchingPath
from realuid_lightning.recorded import Recorded, rebuild


class Teacher(NamedTuple):
    """A trained network, and the framework that it was trained on.

    Attributes:
        network: The network, in evaluation mode, on the CPU, without gradients.
        path: What its time, input and output mean.
    """

    network: nn.Module
    path: MatchingPath


def write_teacher(network: nn.Module, path: MatchingPath, target: str | Path, origin: Mapping[str, str]) -> None:
    """Write a teacher to a safetensors file that describes itself: ``model.teacher_ckpt`` needs nothing beside it.

    Args:
        network: The network, a ``Recorded`` one.
        path: The framework, with the parameterisation of the network.
        target: The ``.safetensors`` file to create or replace.
        origin: Where the weights come from, for who reads the header.

    Raises:
        UserError: If ``target`` has another suffix, or the network cannot be described.
    """
    if Path(target).suffix != ".safetensors":
        raise UserError(f"{target}: a teacher is a .safetensors file; choose a name that ends so")
    if not isinstance(network, Recorded):
        raise UserError(f"{type(network).__name__} must derive from Recorded, for the file describes the network")
    record = {"format": FORMAT, "role": "teacher", "network": network.recorded(), "path": path.recorded(), "ema": []}
    write_tensors(network.state_dict(), target, {RECORD: json.dumps({**record, "origin": dict(origin)})})


def read_teacher(file: str | Path, ema: float | None = None, *, trust: Sequence[str] = ()) -> Teacher:
    """Read a teacher: its network with its weights, and its path. ``load_teacher`` also samples it.

    The file may be a stranger's (see ``load_generator``).

    Args:
        file: What ``realuid import`` has written, or a checkpoint of ``TeacherModule``.
        ema: Decay of the average to take from a checkpoint; raw weights when None.
        trust: Names of modules, packages or classes of yours that may be imported, such as ``["arc_path"]``.

    Raises:
        UserError: If the file is missing, broken, foreign, of another role, lacks that average, or names a class that
            is unknown here and not trusted.

    Example:
        >>> read_teacher("runs/gone.safetensors")
        Traceback (most recent call last):
        realuid_lightning.errors.UserError: ...
    """
    content = read_checkpoint(file)
    record = _teacher_record(content, file)
    weights = network_weights(content, ema, file)
    with no_larger_than(weights):
        teacher = _rebuilt(record, file, trust, torch.device("cpu"))
    load_strictly(teacher.network, weights, str(file))
    return teacher


def describe_teacher(file: str | Path) -> Teacher:
    """Return what ``read_teacher`` does, but for the weights, which have no memory and are not read.

    Raises:
        UserError: Likewise.
    """
    content, count, size = _without_weights(Path(file))
    record = _teacher_record(content, file)
    with no_larger_than(dict.fromkeys(map(str, range(count))), size):
        return _rebuilt(record, file, (), torch.device("meta"))


def _teacher_record(content: Mapping[str, Any], file: str | Path) -> dict[str, Any]:
    record = record_of(content, file)
    if record["role"] != "teacher":
        raise UserError(f"{file}: expected a teacher, got a {record['role']}; load_generator loads those")
    if record["network"] is None:
        raise UserError(f"{file}: its network class does not record its arguments; set network, as in training")
    return record


def _rebuilt(record: Mapping[str, Any], file: str | Path, trust: Sequence[str], device: torch.device) -> Teacher:
    try:
        with device:
            network = rebuild(record["network"], nn.Module, trust)
        path = rebuild(record["path"], MatchingPath, trust)  # type: ignore[type-abstract]
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    return Teacher(network.eval().requires_grad_(False), path)


def _without_weights(file: Path) -> tuple[dict[str, Any], int, int]:
    """Return what a file holds beside its weights, how many these are, and how large the file is."""
    if file.suffix != ".safetensors" or not file.is_file():
        content = read_checkpoint(file, mmap=True)
        state = content.get("state_dict")
        count = sum(map(is_dense, state.values())) if isinstance(state, dict) else 0
        return content, count, file.stat().st_size
    try:
        with safe_open(file, framework="pt") as opened:
            header, count = (opened.metadata() or {}).get(RECORD), len(opened.keys())
        return ({} if header is None else {RECORD: json.loads(header)}), count, file.stat().st_size
    except Exception:
        return read_checkpoint(file), 0, 0
