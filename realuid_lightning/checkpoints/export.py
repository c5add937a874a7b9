"""One-step generators outside training: exporting and loading them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from realuid_lightning.atomic import write_tensors
from realuid_lightning.checkpoints.bounds import is_dense, no_larger_than
from realuid_lightning.checkpoints.files import RECORD, read_checkpoint
from realuid_lightning.checkpoints.records import record_of
from realuid_lightning.checkpoints.strict import load_strictly
from realuid_lightning.checkpoints.weights import network_weights
from realuid_lightning.errors import UserError
from realuid_lightning.networks import Generator
from realuid_lightning.paths import MatchingPath
from realuid_lightning.recorded import rebuild


def load_generator(
    path: str | Path,
    ema: float | None = None,
    *,
    network: nn.Module | None = None,
    on: MatchingPath | None = None,
    trust: Sequence[str] = (),
) -> Generator:
    """Load a one-step generator for use: ``samples = generator(z, y)``.

    The file may be a stranger's: nothing is imported or built for it but classes of this package, classes that are
    defined or imported already, and what ``trust`` names; all of them must derive from ``Recorded``.

    Args:
        path: Checkpoint of ``RealUIDModule``, or a ``.safetensors`` file of ``export_generator``.
        ema: Decay of the average to take from a checkpoint; raw weights when None. An export holds one set of weights.
        network: A network to fill, for classes that do not derive from ``Recorded``; rebuilt from the file when None.
        on: The framework, likewise.
        trust: Names of modules, packages or classes of yours that may be imported, such as ``["arc_path"]``.

    Returns:
        The generator in evaluation mode, on the CPU, without gradients.

    Raises:
        UserError: If the file is missing, broken, foreign, of another role, lacks that average, or names a class that
            is unknown here and not trusted.

    Example:
        >>> load_generator("runs/gone.ckpt")
        Traceback (most recent call last):
        realuid_lightning.errors.UserError: ...
    """
    return _generator(path, read_checkpoint(path), ema, network, on, trust)


def _generator(
    path: str | Path,
    content: dict[str, Any],
    ema: float | None,
    network: nn.Module | None,
    on: MatchingPath | None,
    trust: Sequence[str],
) -> Generator:
    """Build the generator of a file's ``content``."""
    record = record_of(content, path)
    if record["role"] != "generator":
        raise UserError(f"{path}: holds a {record['role']}, not a one-step generator; distil it first (realuid fit)")
    if isinstance(trust, str):
        raise UserError(f"trust must be a list of names, got the text {trust!r}; say trust=[{trust!r}]")
    weights = network_weights(content, ema, path)
    if network is None and record["network"] is None:
        raise UserError(f"{path}: its network class does not record its arguments; pass network=, built as in training")
    try:
        if network is None:
            with no_larger_than(weights):
                network = rebuild(record["network"], nn.Module, trust)
        on = on or rebuild(record["path"], MatchingPath, trust)  # type: ignore[type-abstract]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    load_strictly(network, weights, str(path))
    generator = Generator(network, on, record["sampling_steps"])
    return generator.eval().requires_grad_(False)


def export_generator(
    checkpoint: str | Path, target: str | Path, ema: float | None = None, *, trust: Sequence[str] = ()
) -> None:
    """Write one set of a checkpoint's generator weights, with what rebuilds the network, to a safetensors file.

    Args:
        checkpoint: Checkpoint of ``RealUIDModule``.
        target: The ``.safetensors`` file to create or replace.
        ema: Decay of the average to export; raw weights when None.
        trust: Names of modules, packages or classes of yours that may be imported (see ``load_generator``).

    Raises:
        UserError: If the checkpoint does not fit (see ``load_generator``), ``target`` has another suffix, or the
            network's state is more than dense tensors.
    """
    if Path(target).suffix != ".safetensors":
        raise UserError(f"{target}: an export is a .safetensors file; choose a name that ends so")
    content = read_checkpoint(checkpoint)
    generator = _generator(checkpoint, content, ema, None, None, trust)
    record = {**record_of(content, checkpoint), "ema": [] if ema is None else [ema]}
    state = generator.network.state_dict()
    strange = [name for name, value in state.items() if not is_dense(value)]
    if strange:
        raise UserError(f"{target}: a .safetensors file holds dense tensors only, got {', '.join(strange)[:200]}")
    write_tensors(state, target, {RECORD: json.dumps(record)})
