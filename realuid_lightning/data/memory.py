"""How much memory there is."""

import os
from pathlib import Path


def host_memory() -> float:
    """Return the memory of this machine, or of its container if that has less, in bytes; infinite where unknown."""
    try:
        installed = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        installed = float("inf")
    try:
        return min(installed, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return installed
