"""One-step generators outside training: exporting and loading them."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from realuid_lightning.atomic import write_tensors
from realuid_lightning.checkpoints.files import read_checkpoint
from realuid_lightning.checkpoints.strict import load_strictly
from realuid_lightning.checkpoints.weights import RECORD, network_weights, record_of
from realuid_lightning.errors import UserError
from realuid_lightning.networks import OneStepGenerator
from realuid_lightning.paths import MatchingPath
from realuid_lightning.recorded import rebuild


def load_generator(
    path: str | Path, ema: float | None = None, *, network: nn.Module | None = None, on: MatchingPath | None = None
) -> OneStepGenerator:
    """Load a one-step generator for use: ``samples = generator(z, y)``.

    Args:
        path: Checkpoint of ``RealUIDModule``, or a ``.safetensors`` file of ``export_generator``.
        ema: Decay of the average to take from a checkpoint; raw weights when None. An export holds one set of weights.
        network: A network to fill, for classes that do not derive from ``Recorded``; rebuilt from the file when None.
        on: The framework, likewise.

    Returns:
        The generator in evaluation mode, on the CPU, without gradients.

    Raises:
        UserError: If the file is missing, broken, foreign, of another role, or lacks that average.
    """
    return _generator(path, read_checkpoint(path), ema, network, on)


def _generator(
    path: str | Path, content: dict[str, Any], ema: float | None, network: nn.Module | None, on: MatchingPath | None
) -> OneStepGenerator:
    """Build the generator of a file's ``content``."""
    exported = Path(path).suffix == ".safetensors"
    record = record_of(_exported_header(path) if exported else content, path)
    if record["role"] != "generator":
        raise UserError(f"{path}: holds a {record['role']}, not a one-step generator; distil it first (realuid fit)")
    if exported and ema is not None:
        raise UserError(f"{path}: an export holds one set of weights; leave ema out, got {ema}")
    if network is None:
        if record["network"] is None:
            raise UserError(
                f"{path}: its network class does not record its arguments; pass network=, built as in training"
            )
        network = rebuild(record["network"], nn.Module)
    load_strictly(network, content if exported else network_weights(content, ema, path), str(path))
    on = on or rebuild(record["path"], MatchingPath)  # type: ignore[type-abstract]
    generator = OneStepGenerator(network, on, record.get("sampling_steps", 1))
    return generator.eval().requires_grad_(False)


def export_generator(checkpoint: str | Path, target: str | Path, ema: float | None = None) -> None:
    """Write one set of a checkpoint's generator weights, with what rebuilds the network, to a safetensors file.

    Args:
        checkpoint: Checkpoint of ``RealUIDModule``.
        target: The ``.safetensors`` file to create or replace.
        ema: Decay of the average to export; raw weights when None.

    Raises:
        UserError: If the checkpoint does not fit (see ``load_generator``), or ``target`` has another suffix.
    """
    if Path(target).suffix != ".safetensors":
        raise UserError(f"{target}: an export is a .safetensors file; choose a name that ends so")
    content = read_checkpoint(checkpoint)
    generator = _generator(checkpoint, content, ema, None, None)
    record = {**record_of(content, checkpoint), "ema": [] if ema is None else [ema]}
    write_tensors(generator.network.state_dict(), target, {RECORD: json.dumps(record)})


def _exported_header(path: str | Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return {key: json.loads(text) for key, text in (file.metadata() or {}).items() if key == RECORD}
