"""``import_teacher``: from another project's file to a teacher that describes itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from realuid_lightning.checkpoints import RECORD, load_strictly, write_teacher
from realuid_lightning.checkpoints.bounds import no_larger_than
from realuid_lightning.checkpoints.records import describe
from realuid_lightning.errors import UserError
from realuid_lightning.importing.diffusers import DIFFUSERS
from realuid_lightning.importing.edm import EDMS
from realuid_lightning.importing.kinds import Found, Kind, Origin, Told
from realuid_lightning.importing.stored import entries_of
from realuid_lightning.importing.transformers import DITS, SITS
from realuid_lightning.importing.unets import FLOW_MATCHING, UNETS

KINDS: Sequence[Kind] = (EDMS, UNETS, FLOW_MATCHING, DITS, SITS, DIFFUSERS)
"""Every kind of teacher that is read. Each says which files or folders are its own; one more is a row more."""


class Report(NamedTuple):
    """What became of a file's weights.

    Attributes:
        kind: The kind of teacher.
        chosen: Name of the set of weights in the file.
        mapped: Keys that were read, all of which the network has; it has no others.
        dropped: Keys that no prediction depends on, with the reason.
        assumed: What neither file nor user told.
        network: The network, described.
        path: The path, described.
    """

    kind: str
    chosen: str
    mapped: list[str]
    dropped: dict[str, str]
    assumed: list[str]
    network: str
    path: str

    def lines(self) -> list[str]:
        """Return the report as it is printed."""
        count = len(self.mapped)
        lines = [
            f"network  {self.network}",
            f"path     {self.path}",
            f"weights  {self.chosen}: {count} of {count} mapped, 0 missing, {len(self.dropped)} left over",
        ]
        for reason in dict.fromkeys(self.dropped.values()):
            keys = [key for key, why in self.dropped.items() if why == reason]
            lines.append(f"left     {len(keys)} weights of {reason}: {keys[0]}{', ...' if keys[1:] else ''}")
        return [*lines, *(f"assumed  {each} (the file does not tell)" for each in self.assumed)]


def import_teacher(
    file: str | Path, target: str | Path, *, kind: str | None = None, weights: str | None = None, **options: Any
) -> Report:
    """Write a teacher of another project as one of ours, which ``model.teacher_ckpt`` needs nothing beside.

    The file may be a stranger's: nothing of it is executed or imported (see ``read_pickle``). All its weights have
    their place in the network, and the network lacks none, or nothing is written.

    Args:
        file: What the other project wrote: see ``KINDS`` and ``docs/teachers.md``.
        target: The ``.safetensors`` file to create or replace.
        kind: Name of the kind, for files that may be of several.
        weights: Name of the set of weights in the file; the only one, or the only average, when None.
        **options: What files of this kind do not tell, such as ``image_size``; None stands for what is not given.

    Raises:
        UserError: If the file is missing, broken, of no known kind, or does not fit; with all that is wrong with its
            keys.

    Example:
        >>> import_teacher("edm-cifar10-32x32-cond-vp.pkl", "teacher.safetensors")
        Traceback (most recent call last):
        realuid_lightning.errors.UserError: ...
    """
    if Path(target).suffix != ".safetensors":  # before the file is read
        raise UserError(f"{target}: a teacher is a .safetensors file; choose a name that ends so")
    origin = Origin(Path(file))
    row = _kind_of(origin, kind)
    given = {name: value for name, value in options.items() if value is not None}
    idle = sorted(given.keys() - row.options)
    if idle:
        asked = ", ".join(sorted(row.options)) or "nothing"
        raise UserError(f"{file}: {', '.join(idle)} must be left out: of {row.what}, {asked} can be told")
    told = Told({**given, "weights": weights})
    try:
        found = row.read(origin, told)
        network = _built(found)
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(str(file)) else f"{file}: {text}") from error
    load_strictly(network, found.weights, str(file))
    network.eval()
    about = {"file": Path(file).name, "kind": row.name, "weights": found.chosen, "sha256": origin.sha256()}
    write_teacher(network, found.path, target, about)
    described = describe(network.recorded()), describe(found.path.recorded())  # type: ignore[operator]
    return Report(row.name, found.chosen, list(found.weights), dict(found.dropped), told.assumed, *described)


def _built(found: Found) -> nn.Module:
    """Build the network, first without memory, so that no file asks for more than it fills.

    Raises:
        UserError: If it outgrows the weights, or cannot be built.
    """
    try:
        with torch.device("meta"), no_larger_than(found.weights):
            blank = found.build()
        held = sum(value.nbytes for value in found.weights.values())
        if sum(value.numel() for value in blank.state_dict().values()) > max(2 * held, 1_000_000):
            raise UserError(f"its network outgrows the {len(found.weights)} weights of the file")
        return found.build()
    except UserError:
        raise
    except Exception as error:  # a stranger's arguments may be of any type
        raise UserError(f"its network cannot be built from its arguments ({str(error)[:120]})") from error


def _kind_of(origin: Origin, name: str | None) -> Kind:
    """Return the kind of a file or folder.

    Raises:
        UserError: If it cannot be read, is of none or of several kinds, or is not of the one that is named.
    """
    names = ", ".join(row.name for row in KINDS)
    if name is not None and name not in [row.name for row in KINDS]:
        raise UserError(f"kind must be one of {names}, got {name!r}")
    if not origin.path.is_dir() and RECORD in entries_of(origin.tree):
        raise UserError(f"{origin.path}: is this package's own already; name it in model.teacher_ckpt")
    rows = [row for row in KINDS if row.is_mine(origin)]
    if name is not None:
        rows = [row for row in rows if row.name == name]
    if len(rows) > 1:
        choice = " or ".join(f"--kind {row.name}" for row in rows)
        raise UserError(f"{origin.path}: may be {' or '.join(row.what for row in rows)}: say {choice}")
    if not rows:
        kinds = "; ".join(row.what for row in KINDS if name in (None, row.name))
        there = [] if origin.path.is_dir() else list(map(str, entries_of(origin.tree)))
        keys = ", ".join(key[:40] for key in there[:5]) or "no keys"
        raise UserError(f"{origin.path}: expected {kinds}, got {'a folder' if origin.path.is_dir() else keys}")
    return rows[0]
