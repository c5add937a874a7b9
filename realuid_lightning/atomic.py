"""Files that are there whole or not at all."""

import errno
import os
import stat
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
    name included. A file that is replaced leaves its rights to the new one, as far as that can be; where not
    everyone may read the old one, the new one is its owner's alone until then. Missing folders are made.

    Args:
        target: The file to create or replace.

    Yields:
        Where to write; the same suffix as ``target``.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # No process number: containers that share a folder may share their numbers, too.
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:16]}{target.suffix}")
    old, begun = _looked_at(target), None
    try:
        if old is not None and old.st_mode & 0o044 != 0o044:
            begun = _begin_privately(temporary)
        yield temporary
        with temporary.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime_ns == begun:
                raise FileNotFoundError(errno.ENOENT, "nothing was written", str(temporary))
            os.fsync(file.fileno())
        if old is not None:
            _inherit(temporary, old, target)
        temporary.replace(target)
        _flush_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _begin_privately(file: Path) -> int | None:
    """Make an empty file that its owner alone may read; return its time, which writing changes, where it can be set."""
    file.touch(mode=0o600, exist_ok=False)
    with suppress(OSError):
        os.utime(file, (0, 0))
        return file.stat().st_mtime_ns
    return None


def _looked_at(target: Path) -> os.stat_result | None:
    """Return what the system tells of a file; None where there is none, or it may not be asked."""
    with suppress(OSError):
        return target.stat()
    return None


def _inherit(file: Path, old: os.stat_result, target: Path) -> None:
    """Give a file the group and rights of the one that it replaces; to no group that they were not meant for."""
    rights = old.st_mode & 0o777
    if not _same_group(file, old.st_gid) or _has_list(target):
        rights &= ~0o070
    _give_rights(file, rights)


def _same_group(file: Path, group: int) -> bool:
    """Whether a file belongs to a group, or has been given to it."""
    with suppress(OSError):
        if file.stat().st_gid != group:
            os.chown(file, -1, group)
        return True
    return False


def _has_list(target: Path) -> bool:
    """Whether a file has an access control list, which its rights stand for where those of the group should be."""
    with suppress(OSError, AttributeError):  # where the file system, or the system, knows none
        return bool(os.getxattr(target, "system.posix_acl_access"))
    return False


def _give_rights(file: Path, rights: int) -> None:
    """Set a file's rights where they differ and the file system can: some know none. They matter less than the file."""
    with suppress(OSError):
        if stat.S_IMODE(file.stat().st_mode) != rights:
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
        rights = stat.S_IMODE(file.stat().st_mode)  # of any new file: safetensors leaves its own to their owner alone
        try:
            save_file(whole, file, dict(metadata))
        except SafetensorError as error:  # of a full disk, or of a folder that cannot be written to
            raise OSError(errno.EIO, str(error), str(target)) from error
        _give_rights(file, rights)
