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


def lacking(needed: int) -> str:
    """Return what speaks against ``needed`` bytes, to follow what needs them; nothing if the machine has as many."""
    if needed <= host_memory():
        return ""
    return f"take {needed / 2**30:.1f} GiB, but this machine has {host_memory() / 2**30:.1f} GiB of memory"
