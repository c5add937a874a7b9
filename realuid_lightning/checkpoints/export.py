"""Generators and teachers outside training: loading and exporting them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from realuid_lightning.atomic import write_tensors
from realuid_lightning.checkpoints.bounds import is_dense, no_larger_than
from realuid_lightning.checkpoints.files import RECORD, read_checkpoint
from realuid_lightning.checkpoints.records import FORMAT, describe, record_of
from realuid_lightning.checkpoints.strict import load_strictly
from realuid_lightning.checkpoints.weights import Role, network_weights
from realuid_lightning.data import Encoder
from realuid_lightning.data.encoders import encoder_fingerprint
from realuid_lightning.errors import UserError
from realuid_lightning.networks import Generator
from realuid_lightning.paths import MatchingPath
from realuid_lightning.recorded import Recorded, rebuild
from realuid_lightning.solvers import ManySteps, Solver


def load_generator(
    path: str | Path,
    ema: float | None = None,
    *,
    network: nn.Module | None = None,
    on: MatchingPath | None = None,
    trust: Sequence[str] = (),
    decoder: nn.Module | bool = True,
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
        decoder: What decodes samples of a generator of latents: True for the encoder that the file names, if any; False
            to have latents; or an encoder, where that of the file is not at hand.

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
    return generator_of(path, read_checkpoint(path), ema, network, on, trust, decoder)


def load_teacher(
    path: str | Path,
    ema: float | None = None,
    *,
    steps: int = 50,
    solver: Solver | None = None,
    guidance: float | None = None,
    network: nn.Module | None = None,
    on: MatchingPath | None = None,
    trust: Sequence[str] = (),
    decoder: nn.Module | bool = True,
) -> ManySteps:
    """Load a teacher to be sampled in many steps: ``samples = teacher(z, y)``.

    Args:
        path: Checkpoint of ``TeacherModule``, or a ``.safetensors`` file of a teacher.
        ema: As in ``load_generator``, like ``network``, ``on`` and ``trust``.
        steps: Number of solver steps, at least 1.
        solver: The solver; ``Euler`` when None.
        guidance: Scale of classifier-free guidance, at least 0; None for none.
        network: As there.
        on: As there.
        trust: As there.
        decoder: As there.

    Returns:
        The teacher and its solver, in evaluation mode, on the CPU, without gradients.

    Raises:
        UserError: As there, or if steps, solver and guidance do not go with the teacher.

    Example:
        >>> load_teacher("runs/gone.ckpt", ema=0.999, steps=18)
        Traceback (most recent call last):
        realuid_lightning.errors.UserError: ...
    """
    content = read_checkpoint(path)
    network, on, record = _opened(path, content, "teacher", ema, network, on, trust)
    sampler = ManySteps(network, on, steps, solver, guidance)
    sampler.decoder = _decoder(path, record, trust, decoder)
    return sampler.eval().requires_grad_(False)


def generator_of(
    path: str | Path,
    content: dict[str, Any],
    ema: float | None = None,
    network: nn.Module | None = None,
    on: MatchingPath | None = None,
    trust: Sequence[str] = (),
    decoder: nn.Module | bool = True,
) -> Generator:
    """Return what ``load_generator`` returns, of a file's ``content``, which has been read."""
    network, on, record = _opened(path, content, "generator", ema, network, on, trust)
    generator = Generator(network, on, record["sampling_steps"])
    generator.decoder = _decoder(path, record, trust, decoder)
    return generator.eval().requires_grad_(False)


def _decoder(path: str | Path, record: dict[str, Any], trust: Sequence[str], wanted: nn.Module | bool) -> Any:
    """Return what decodes samples, if anything does; refuse an encoder that is another one by now."""
    if isinstance(wanted, nn.Module):
        return wanted
    if not wanted or record["decoder"] is None:
        return None
    try:
        encoder = rebuild(record["decoder"]["record"], Encoder, trust)  # type: ignore[type-abstract]
        found = encoder_fingerprint(encoder)
    except UserError as error:
        raise UserError(
            f"{path}: its samples are latents, and what decodes them is not at hand: {error}; or "
            "load_generator(..., decoder=) another place's, or False for latents"
        ) from error
    if found != record["decoder"]["fingerprint"]:
        raise UserError(
            f"{path}: its samples are latents of {record['decoder']['fingerprint']}, but "
            f"{describe(record['decoder']['record'])} is {found} by now; load_generator(..., decoder=) the encoder "
            "that it was trained with"
        )
    return encoder


_NOT: dict[Role, str] = {
    "generator": "not a one-step generator; distil it first (realuid fit), or load_teacher it",
    "teacher": "not a teacher; load_generator it",
}


def _opened(
    path: str | Path,
    content: dict[str, Any],
    role: Role,
    ema: float | None,
    network: nn.Module | None,
    on: MatchingPath | None,
    trust: Sequence[str],
) -> tuple[nn.Module, MatchingPath, dict[str, Any]]:
    """Return the filled network, the path and the record of a file's ``content``."""
    record = record_of(content, path)
    if record["role"] != role:
        raise UserError(f"{path}: holds a {record['role']}, {_NOT[role]}")
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
    return network, on, record


def export_generator(
    checkpoint: str | Path,
    target: str | Path,
    ema: float | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    trust: Sequence[str] = (),
) -> None:
    """Write one set of a checkpoint's generator weights, with what rebuilds the network, to a safetensors file.

    Args:
        checkpoint: Checkpoint of ``RealUIDModule``.
        target: The ``.safetensors`` file to create or replace.
        ema: Decay of the average to export; raw weights when None.
        dtype: Type that weights are kept in, such as bfloat16, for a file of half the size; ``load_generator`` gives
            them back in float32.
        trust: Names of modules, packages or classes of yours that may be imported (see ``load_generator``).

    Raises:
        UserError: If the checkpoint does not fit (see ``load_generator``), ``target`` has another suffix, or the
            network's state is more than dense tensors.
    """
    _require_suffix(target)
    generator = generator_of(checkpoint, read_checkpoint(checkpoint), ema, trust=trust)
    generator.network.to(dtype)
    write_generator(generator, target, ema)


def write_generator(generator: Generator, target: str | Path, ema: float | None = None) -> None:
    """Write a generator, with what rebuilds it, to a safetensors file.

    Args:
        generator: The generator. Without a network that is ``Recorded``, ``load_generator`` asks for one.
        target: The ``.safetensors`` file to create or replace.
        ema: Decay of the average that its weights are; None for raw ones.

    Raises:
        UserError: If ``target`` has another suffix, or the network's state is more than dense tensors.
    """
    _require_suffix(target)
    network, state = generator.network, generator.network.state_dict()
    strange = [name for name, value in state.items() if not is_dense(value)]
    if strange:
        raise UserError(f"{target}: a .safetensors file holds dense tensors only, got {', '.join(strange)[:200]}")
    record = {
        "format": FORMAT,
        "role": "generator",
        "network": network.recorded() if isinstance(network, Recorded) else None,
        "path": generator.path.recorded(),
        "ema": [] if ema is None else [ema],
        "sampling_steps": generator.steps,
        "decoder": _decoder_record(generator.decoder),
    }
    write_tensors(state, target, {RECORD: json.dumps(record)})


def _decoder_record(decoder: Any) -> dict[str, Any] | None:
    if not isinstance(decoder, Encoder):
        return None
    return {"record": decoder.recorded(), "fingerprint": encoder_fingerprint(decoder)}


def _require_suffix(target: str | Path) -> None:
    if Path(target).suffix != ".safetensors":
        raise UserError(f"{target}: such an export is a .safetensors file; choose a name that ends so")
