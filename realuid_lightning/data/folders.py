"""Where folders are: as users write them, and where this package keeps what it can compute again."""

import os
from pathlib import Path


def folder_at(path: str | Path) -> Path:
    """Return a folder as a shell would find it: ``~`` and ``~user`` are homes, where there are any."""
    return Path(os.path.expanduser(path))


def user_cache() -> Path:
    """Return ``$XDG_CACHE_HOME/realuid_lightning``, or ``~/.cache/realuid_lightning``."""
    return folder_at(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "realuid_lightning"
