"""Files that are there whole or not at all."""

import errno
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside ``target`` that takes its place when the block ends well.

    Until then, and after a kill at any moment, ``target`` is what it was before; from then on it is on the disk, its
    name included. A file that is replaced leaves its rights to the new one. Missing folders are made.

    Args:
        target: The file to create or replace.

    Yields:
        Where to write; the same suffix as ``target``.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # No process number: containers that share a folder may share their numbers, too.
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:16]}{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if target.exists():
            _give_rights(temporary, target.stat().st_mode)
        temporary.replace(target)
        _flush_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _give_rights(file: Path, rights: int) -> None:
    """Set a file's rights where they differ and the file system can: some know none. They matter less than the file."""
    if file.stat().st_mode != rights:
        with suppress(OSError):
            file.chmod(rights)


def _flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be written to, but not listed
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # as some network file systems answer
            raise
    finally:
        os.close(handle)


def write_tensors(tensors: Mapping[str, Tensor], target: str | Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and text to a safetensors file, atomically.

    Args:
        tensors: Tensors by name; those that share memory, such as tied weights, are written under each name.
        target: The file to create or replace.
        metadata: Texts by name, kept in the file's header.

    Raises:
        OSError: If the file cannot be written.
    """
    whole, kept = {}, set()
    for name, tensor in tensors.items():
        dense = tensor.detach().cpu().contiguous()
        place = dense.untyped_storage().data_ptr()
        whole[name] = dense.clone() if place in kept else dense  # tied weights: the format knows no second names
        kept.add(place)
    with replacing(target) as file:
        file.touch()
        rights = file.stat().st_mode  # of any new file: safetensors leaves its own to their owner alone
        try:
            save_file(whole, file, dict(metadata))
        except SafetensorError as error:  # of a full disk, or of a folder that cannot be written to
            raise OSError(errno.EIO, str(error), str(target)) from error
        _give_rights(file, rights)
