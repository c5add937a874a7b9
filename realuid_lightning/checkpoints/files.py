"""Reading checkpoint files without running anything that they contain."""

import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from realuid_lightning.errors import UserError

RECORD = "realuid_lightning"
"""Key of our own entry in a checkpoint, and in an export's header."""

EXPORTED = "exported"
"""Key under which the content of an export holds its weights."""


class DamagedCheckpointError(UserError):
    """A file that is empty, cut off, unreadable or of another format: not the checkpoint that it may have been."""


def read_checkpoint(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; pickled code in it is refused, never run.

    Args:
        path: A ``.safetensors`` file, or anything that ``torch.save`` wrote (``.pt``, ``.ckpt``).
        mmap: Leave the tensors of what ``torch.save`` wrote on the disk until they are used: to look at the rest, or to
            see that the file is whole, in milliseconds.

    Returns:
        The content: whatever dictionary was saved; tensors by name for ``.safetensors``, or for an export of ours,
        which its header tells, ``{RECORD: header, EXPORTED: tensors by name}``.

    Raises:
        DamagedCheckpointError: If the file is empty, cut off, unreadable or of another format.
        UserError: If the file is missing, or holds more than weights and plain values.
    """
    if not str(path) or "://" in str(path):
        raise UserError(
            f"expected the path of a checkpoint file, got {str(path) or 'nothing'}; download it, and name the file"
        )
    path = Path(path)
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "there is no such file"
        raise UserError(f"{path}: expected a checkpoint file, but {found}; check the path")
    if path.stat().st_size == 0:
        raise DamagedCheckpointError(f"{path}: expected a checkpoint, but the file is empty; copy or download it again")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path, mmap)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a checkpoint that is a dictionary, got {type(content).__name__}; "
            "save state_dict() rather than the object itself"
        )
    return content


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            header = (file.metadata() or {}).get(RECORD)
    except Exception as error:  # of its own, of torch, of the operating system
        raise DamagedCheckpointError(
            f"{path}: expected a safetensors file, but it is cut off or of another format ({_line(error)}); "
            "copy or download it again"
        ) from error
    if header is None:
        return tensors
    try:
        return {RECORD: json.loads(header), EXPORTED: tensors}
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(
            f"{path}: expected JSON under {RECORD} in its header, but it is broken ({_line(error)}); export it anew"
        ) from error


def _load_torch(path: Path, mmap: bool) -> Any:
    try:
        refuse_packed(path)
        with warnings.catch_warnings():  # foreign pickles draw a warning about their protocol before they are refused
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        # The one fault that torch tells apart only in words: a sound pickle that asks for a class or function.
        if any(word in str(error).lower() for word in ("unsupported global", "unsupported class")):
            raise UserError(
                f"{path}: expected weights and plain values only, but the file holds pickled objects that could run "
                "code when loaded; save state dicts and plain values, and load only files from people you trust"
            ) from error
        raise DamagedCheckpointError(_damaged(path, error)) from error
    except Exception as error:  # whatever a broken or evil pickle makes a reader raise
        raise DamagedCheckpointError(_damaged(path, error)) from error


def refuse_packed(path: Path) -> None:
    """Refuse an archive that would grow when it is read, from megabytes to terabytes: torch packs nothing.

    Raises:
        ValueError: If it would.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            whole = sum(entry.file_size for entry in archive.infolist())
        if whole > path.stat().st_size:
            raise ValueError(f"it holds {whole} bytes in {path.stat().st_size}, as torch.save packs none")


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"{path}: expected a checkpoint written by torch.save, but it is cut off or of another format "
        f"({_line(error)}); copy or download it again"
    )


def _line(error: Exception) -> str:
    """Return the first line of an error's message, or its name if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]
