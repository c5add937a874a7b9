"""Weights of a network from any file that holds them: our checkpoints, exports, official files, bare state dicts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from realuid_lightning.checkpoints.files import read_checkpoint
from realuid_lightning.checkpoints.official import is_official, official_weights
from realuid_lightning.errors import UserError
from realuid_lightning.paths import FlowMatchingPath, MatchingPath

RECORD = "realuid_lightning"
"""Key of our own entry in a checkpoint, and in an export's header."""

Role = Literal["teacher", "generator"]


def load_weights(
    file: str | Path, *, role: Role, ema: float | None = None, path: MatchingPath | None = None
) -> dict[str, Tensor]:
    """Return the teacher-shaped network's state dict of a checkpoint.

    Args:
        file: Checkpoint of this package, official ``.pt``, or a bare state dict (``.pt``, ``.safetensors``).
        role: ``teacher`` wants a trained teacher, ``generator`` a distilled generator.
        ema: Decay of the average to take; raw weights when None.
        path: The framework that the weights are for; a checkpoint that was made on another one is refused.

    Raises:
        UserError: If the file is missing, broken, foreign, of another role or framework, or lacks that average.
    """
    content = read_checkpoint(file)
    if is_official(content):
        official: Role = "generator" if "gen" in content else "teacher"
        _require_role(file, official, role)
        if path is not None:
            check_path_record({"path": FlowMatchingPath().recorded()}, path, file)
        return official_weights(content, ema, file)
    if RECORD in content:
        record = content[RECORD]
        _require_role(file, record["role"], role)
        if path is not None:
            check_path_record(record, path, file, but=path.tuning if role == "teacher" else frozenset())
        return network_weights(content, ema, file)
    if content and all(isinstance(value, Tensor) for value in content.values()):
        if ema is not None:
            raise UserError(f"{file}: a bare state dict has no averages, but ema {ema} is asked for; set it to null")
        return content
    keys = ", ".join(map(str, list(content)[:5])) or "no keys"
    raise UserError(
        f"{file}: expected a checkpoint of this package, an official .pt or a state dict, got a file with {keys}"
    )


def record_of(checkpoint: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Return what one of our checkpoints says of itself: role, network, path, averages.

    Raises:
        UserError: If it is not one of ours.
    """
    record = checkpoint.get(RECORD)
    if not isinstance(record, dict):
        raise UserError(
            f"{source}: expected a checkpoint of this package, got a foreign one; an official or foreign teacher is "
            "named in model.teacher_ckpt"
        )
    return record


def check_path_record(
    record: Mapping[str, Any], path: MatchingPath, source: str | Path, but: frozenset[str] = frozenset()
) -> None:
    """Refuse a checkpoint whose networks were trained on another path: its predictions would mean something else.

    Args:
        record: What the checkpoint says of itself.
        path: This run's path.
        source: The file, for the message.
        but: Names of arguments that may differ.

    Raises:
        UserError: With both paths.
    """
    if _without(record["path"], but) != _without(path.recorded(), but):
        raise UserError(
            f"{source}: made on the path {_short(record['path'])}, but this run's is {_short(path.recorded())}; "
            "set model.path to that of the checkpoint"
        )


def average_key(decay: float) -> str:
    """Return the key of an average among a module's weights, which may hold no dot."""
    return str(float(decay)).replace(".", "_")


def network_weights(checkpoint: dict[str, Any], ema: float | None, file: str | Path) -> dict[str, Tensor]:
    """Return the averaged or raw network of one of our checkpoints, under the network's own key names.

    Raises:
        UserError: If there is no such average.
    """
    record, state = checkpoint[RECORD], checkpoint["state_dict"]
    inner = "network." if record["role"] == "generator" else ""
    if ema is None:
        prefix = "generator.network." if record["role"] == "generator" else "network."
    elif ema in record["ema"]:
        prefix = f"ema.copies.{average_key(ema)}.network.{inner}"
    else:
        available = ", ".join(map(str, record["ema"])) or "none"
        raise UserError(f"{file}: no average of decay {ema}; available: {available}, or null for the raw weights")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _require_role(file: str | Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise UserError(f"{file}: expected the checkpoint of a {wanted}, got that of a {found}; check {wanted}_ckpt")


def _without(record: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    kept = {name: value for name, value in record["init_args"].items() if name not in names}
    return {"class_path": record["class_path"], "init_args": kept}


def _short(record: dict[str, Any]) -> str:
    arguments = ", ".join(f"{name}={_value(value)}" for name, value in record["init_args"].items())
    return f"{record['class_path'].rpartition('.')[2]}({arguments})"


def _value(value: Any) -> str:
    return _short(value) if isinstance(value, dict) and "class_path" in value else repr(value)
