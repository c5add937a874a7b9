"""Weights of a network from any file that holds them: our checkpoints, exports, official files, bare state dicts."""

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from realuid_lightning.checkpoints.adapters import merged
from realuid_lightning.checkpoints.files import EXPORTED, RECORD, read_checkpoint
from realuid_lightning.checkpoints.official import is_official, official_weights
from realuid_lightning.checkpoints.records import check_decoder_record, check_path_record, record_of, state_of
from realuid_lightning.data import Source
from realuid_lightning.errors import UserError
from realuid_lightning.networks.ema import average_key
from realuid_lightning.paths import FlowMatchingPath, MatchingPath

Role = Literal["teacher", "generator"]


def load_weights(
    file: str | Path,
    *,
    role: Role,
    ema: float | None = None,
    path: MatchingPath | None = None,
    source: Source | None = None,
) -> dict[str, Any]:
    """Return the teacher-shaped network's state dict of a checkpoint.

    Args:
        file: Checkpoint or export of this package, official ``.pt``, or a bare state dict (``.pt``, ``.safetensors``).
        role: ``teacher`` wants a trained teacher, ``generator`` a distilled generator.
        ema: Decay of the average to take; raw weights when None.
        path: The framework that the weights are for; a checkpoint that was made on another one is refused.
        source: The data of this run; a checkpoint that was made on latents of another encoder than theirs is refused.

    Raises:
        UserError: If the file is missing, broken, foreign, of another role or framework, or lacks that average.
    """
    content = read_checkpoint(file)
    but: frozenset[str] = frozenset()
    if path is not None:  # a path that names an argument of training alone need not name it twice
        but = path.training.union(path.tuning if role == "teacher" else ())
    if is_official(content):
        official: Role = "generator" if "gen" in content else "teacher"
        _require_role(file, official, role)
        if path is not None:
            check_path_record({"path": FlowMatchingPath().recorded()}, path, file, but)
        return official_weights(content, ema, file)
    if RECORD in content:
        record = record_of(content, file)
        _require_role(file, record["role"], role)
        if path is not None:
            check_path_record(record, path, file, but)
        if source is not None:
            check_decoder_record(record, source.decoder, file)
        return network_weights(content, ema, file)
    if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        if ema is not None:
            raise UserError(f"{file}: a bare state dict has no averages, but ema {ema} is asked for; set it to null")
        return content
    keys = ", ".join(map(str, list(content)[:5])) or "no keys"
    raise UserError(
        f"{file}: expected a checkpoint of this package, an official .pt or a state dict, got a file with {keys}"
    )


def network_weights(content: dict[str, Any], ema: float | None, file: str | Path) -> dict[str, Any]:
    """Return the averaged or raw network of one of our checkpoints or exports, under the network's own key names.

    Adapters of a LoRA generator are added to the weights that they adapt.

    Raises:
        UserError: If there is no such average, or the weights are missing.
    """
    if EXPORTED in content:
        if ema is not None:
            raise UserError(f"{file}: an export holds one set of weights; leave ema out, got {ema}")
        return state_of(content, EXPORTED, file)
    record, state = record_of(content, file), state_of(content, "state_dict", file)
    inner = "network." if record["role"] == "generator" else ""
    if ema is None:
        prefix = "generator.network." if record["role"] == "generator" else "network."
    elif ema in record["ema"]:
        prefix = f"ema.copies.{average_key(ema)}.network.{inner}"
    else:
        available = ", ".join(map(str, record["ema"])) or "none"
        raise UserError(f"{file}: no average of decay {ema}; available: {available}, or null for the raw weights")
    return merged({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})


def _require_role(file: str | Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise UserError(f"{file}: expected the checkpoint of a {wanted}, got that of a {found}; check {wanted}_ckpt")
