"""One process in one folder at a time."""

import errno
import fcntl
import os
import socket
import time
import warnings
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from realuid_lightning.errors import UserError

TIMEOUT = 10.0
"""Seconds to wait for a holder that is just ending: a killed one lets go when its memory is freed."""

REMOTE_TIMEOUT = 120.0
"""Seconds to wait for one on another host: if that has died, the file server waits for it (NFSv4: for 90 s)."""

_HELD = (errno.EACCES, errno.EAGAIN)


class FolderLock:
    """A lock on a folder: the file ``.lock`` in it, which names its holder.

    It is the kernel's (POSIX record locks): it holds across nodes and containers that share the folder, and is gone
    with its process, however that ends. So there is nothing to clear away after a kill, and no process number that
    could be mistaken for another's. A process can take its own lock again.

    Args:
        folder: The folder; made when the lock is taken, if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / ".lock"
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock, and wait for a holder that is ending.

        Raises:
            UserError: If another process holds it, with that process' number and host; or if the folder is not ours to
                write into.
        """
        began = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while not self._try():
                holder = self._holder()
                remote = " on " in holder and f" on {socket.gethostname()} " not in holder
                if time.monotonic() - began > (REMOTE_TIMEOUT if remote else TIMEOUT):
                    raise UserError(
                        f"{self.folder} is in use by {holder}. Wait until that has ended, or choose another "
                        "folder with --trainer.default_root_dir"
                    )
                time.sleep(0.1)
        except OSError as error:
            place = error.filename or self._file
            raise UserError(f"{place}: {error.strerror}; check the path and permissions") from error

    def release(self) -> None:
        """Let go of the lock, if it is held."""
        if self._handle is not None:
            with suppress(OSError):  # a folder that can no longer be written to ends no run
                if _is(self._handle, self._file):
                    self._file.unlink()
            os.close(self._handle)
            self._handle = None

    def _try(self) -> bool:
        """Take the lock if it is free."""
        # Not through a link, which a folder of somebody else's may hold: what it leads to would be emptied.
        handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in _HELD:  # the file system knows no locks
                warnings.warn(
                    f"{self._file}: no lock is held ({error.strerror}); see that no other run uses the folder",
                    stacklevel=2,
                )
            return error.errno not in _HELD
        if not _is(handle, self._file):  # its holder has removed it in between
            os.close(handle)
            return False
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
        self._handle = handle
        return True

    def _holder(self) -> str:
        try:
            return self._file.read_text(errors="replace")[:200].strip() or "another process"
        except OSError:  # it is just leaving
            return "another process"


def _is(handle: int, file: Path) -> bool:
    """Say whether an open file is the one of this name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False
