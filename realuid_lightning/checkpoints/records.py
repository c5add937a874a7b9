"""What a checkpoint or an export says of itself, checked before anything of it is used."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from realuid_lightning.checkpoints.files import EXPORTED, RECORD
from realuid_lightning.errors import UserError
from realuid_lightning.paths import MatchingPath
from realuid_lightning.recorded import is_record

FORMAT = 1
"""Raise when the meaning of a record changes."""

_FIELDS = ("role", "network", "path", "ema")

_DEPTH, _SIZE = 20, 10_000
"""Most levels and most values of a sound record: one that refers to itself, or doubles at each level, has more."""


def record_of(checkpoint: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Return what one of our checkpoints or exports says of itself.

    Args:
        checkpoint: What ``read_checkpoint`` returned.
        source: The file, for the message.

    Returns:
        ``format`` (1), ``role`` (``teacher`` or ``generator``), ``network`` (a record, or None for classes that
        record nothing), ``path`` (a record), ``ema`` (decays), ``sampling_steps``, and ``decoder`` (None, or the
        ``record`` and ``fingerprint`` of the encoder whose latents the samples are).

    Raises:
        UserError: If it is not one of ours, of a later format, or malformed.
    """
    record = checkpoint.get(RECORD)
    if not isinstance(record, dict):
        raise UserError(
            f"{source}: expected a checkpoint of this package, got a foreign one; an official or foreign teacher is "
            "named in model.teacher_ckpt"
        )
    number = record.get("format")
    if type(number) is int and number > FORMAT:
        raise UserError(
            f"{source}: expected a record of format {FORMAT}, got {number}, of a later version; update this package"
        )
    network, path, ema = record.get("network", ""), record.get("path"), record.get("ema")
    steps, decoder = record.get("sampling_steps", 1), record.get("decoder")
    sound = {
        ("format", f"{FORMAT}"): type(number) is int and number == FORMAT,
        ("role", "teacher or generator"): str(record.get("role")) in ("teacher", "generator"),
        ("network", "a class_path with plain init_args, or null"): network is None or _is_plain_record(network),
        ("path", "a class_path with plain init_args"): _is_plain_record(path),
        ("ema", "a list of decays in [0, 1)"): isinstance(ema, list)
        and all(type(decay) in (int, float) and 0 <= decay < 1 for decay in ema),
        ("sampling_steps", f"from 1 to {_SIZE}"): type(steps) is int and 1 <= steps <= _SIZE,
        ("decoder", "record and fingerprint of an encoder, or null"): decoder is None or _is_decoder(decoder),
    }
    _refuse_unless(sound, record, f"{source}: its record is malformed")
    # What has not been checked is left out.
    kept = {name: record[name] for name in _FIELDS}
    return {"format": number, **kept, "sampling_steps": steps, "decoder": decoder}


def _refuse_unless(sound: Mapping[tuple[str, str], bool], holder: Mapping[str, Any], what: str) -> None:
    """Tell all fields that are not sound in one message: ``sound`` by the name of a field and what it must be."""
    faults = [
        f"{name} must be {wanted}, got {_shown(holder, name)}"
        for (name, wanted), is_sound in sound.items()
        if not is_sound
    ]
    if faults:
        raise UserError(f"{what}: {'; '.join(faults)}. Get the file anew from its origin")


def _is_plain_record(value: Any) -> bool:
    return is_record(value) and _room_after(value, _SIZE, _DEPTH) >= 0


def _is_decoder(value: Any) -> bool:
    named = type(value) is dict and value.keys() == {"record", "fingerprint"}
    return named and _is_plain_record(value["record"]) and type(value["fingerprint"]) is str


def _room_after(tree: Any, room: int, depth: int) -> int:
    """Return how many more values fit after those of ``tree``; below 0 if they do not fit, or one is not plain."""
    if type(tree) not in (dict, list, tuple):
        return room - 1 if _is_plain(tree) else -1
    if depth == 0 or (type(tree) is dict and not all(type(key) is str for key in tree)):
        return -1
    room -= 1
    for value in tree.values() if type(tree) is dict else tree:
        if room < 0:
            break
        room = _room_after(value, room, depth - 1)
    return room


def _is_plain(value: Any) -> bool:
    if type(value) is int:
        return value.bit_length() < 64
    return type(value) in (float, bool, type(None)) or (type(value) is str and len(value) < 10_000)


def _shown(record: Mapping[str, Any], name: str) -> str:
    if name not in record:
        return "nothing"
    return repr(record[name])[:80] if _is_plain(record[name]) else type(record[name]).__name__


def state_of(checkpoint: Mapping[str, Any], field: str, source: str | Path) -> dict[str, Any]:
    """Return the state dict that a checkpoint or an export keeps under ``field``.

    Raises:
        UserError: If there is none, or something else.
    """
    state = checkpoint.get(field)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise UserError(f"{source}: expected weights by name under {field}; get the file anew from its origin")
    return state


def _are_moments(value: Any) -> bool:
    return _are_dicts(value) and all(
        isinstance(item.get("state"), dict)
        and _are_dicts(item.get("param_groups"))
        and all(isinstance(group.get("params"), list) for group in item["param_groups"])
        for item in value
    )


def _are_schedules(value: Any) -> bool:
    # A ChainedScheduler leaves the count to its parts.
    return _are_dicts(value) and all(
        type(item.get("last_epoch")) is int or (_are_schedules(item.get("_schedulers")) and item["_schedulers"])
        for item in value
    )


def _are_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_guard(value: Any) -> bool:
    return isinstance(value, dict) and type(value.get("skipped")) is int and _are_counts(value.get("in_a_row"))


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(type(item) is int for item in value.values())


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_LOOPS = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc|\.dev|\.post)\d+)?(\+[\w.]+)?")
_OTHERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "optimizer_states": ("a list of dictionaries with state and param_groups", _are_moments),
    "lr_schedulers": ("a list of dictionaries whose last_epoch is an integer", _are_schedules),
    "optimizers": ("a list of names", _are_names),
    "callbacks": (
        "a dictionary of dictionaries",
        lambda value: isinstance(value, dict) and _are_dicts([*value.values()]),
    ),
    "guard": ("a dictionary with skipped, an integer, and in_a_row, integers by name", _is_guard),
    "batch": ("a dictionary of integers", _are_counts),
    "aim": (
        "a dictionary of words",
        lambda value: isinstance(value, dict) and all(isinstance(item, str) for item in value.values()),
    ),
}


def check_run(checkpoint: Mapping[str, Any], source: str | Path) -> None:
    """Refuse what is not the whole state of a run, which training can go on from.

    Raises:
        UserError: If it is foreign, malformed, an export, or lacks what a trainer has saved.
    """
    record_of(checkpoint, source)
    if EXPORTED in checkpoint:
        raise UserError(
            f"{source}: expected the checkpoint of a run, got an export, which holds one network's weights; name the "
            ".ckpt that it was made from, or load_generator it"
        )
    state_of(checkpoint, "state_dict", source)
    loops, version = checkpoint.get("loops"), checkpoint.get("pytorch-lightning_version")
    sound = {
        ("global_step", "an integer"): type(checkpoint.get("global_step")) is int,
        ("epoch", "an integer"): type(checkpoint.get("epoch")) is int,
        ("loops", f"a dictionary with {', '.join(_LOOPS)}"): isinstance(loops, dict)
        and all(isinstance(loops.get(name), dict) for name in _LOOPS),
        ("pytorch-lightning_version", "a version"): isinstance(version, str) and bool(_VERSION.fullmatch(version)),
    }
    # Lightning leaves the others out where it saves weights alone.
    sound |= {(name, kind): name not in checkpoint or test(checkpoint[name]) for name, (kind, test) in _OTHERS.items()}
    _refuse_unless(sound, checkpoint, f"{source}: the state of its run is malformed")


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
            f"{source}: made on the path {describe(record['path'])[:400]}, but this run's is "
            f"{describe(path.recorded())[:400]}; "
            "set model.path to that of the checkpoint"
        )


def check_decoder_record(record: Mapping[str, Any], decoder: Mapping[str, Any] | None, source: str | Path) -> None:
    """Refuse a checkpoint of networks that know other latents than the data give.

    Args:
        record: What the checkpoint says of itself; one that names no encoder is let pass.
        decoder: The same of the data, ``Source.decoder``.
        source: The file, for the message.

    Raises:
        UserError: With both encoders.
    """
    made = record["decoder"]
    if made is not None and made["fingerprint"] != (decoder or {}).get("fingerprint"):
        here = "none" if decoder is None else f"{describe(decoder['record'])}, {decoder['fingerprint']}"
        raise UserError(
            f"{source}: made on latents of {describe(made['record'])[:400]}, {made['fingerprint']}, but the encoder of "
            f"data.source is {here}; name the same one in its Latents"
        )


def _without(record: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    kept = {name: _listed(value) for name, value in record["init_args"].items() if name not in names}
    return {"class_path": record["class_path"], "init_args": kept}


def _listed(tree: Any) -> Any:
    """Return lists in place of tuples: the header of an export knows no tuples."""
    if isinstance(tree, dict):
        return {name: _listed(value) for name, value in tree.items()}
    return [_listed(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def describe(value: Any) -> str:
    """Return a record in one line, such as ``MLP(shape=[2], width=8)``; any other value as Python writes it."""
    if not is_record(value):
        return repr(value)
    arguments = ", ".join(f"{name}={describe(each)}" for name, each in value["init_args"].items())
    return f"{value['class_path'].rpartition('.')[2]}({arguments})"
