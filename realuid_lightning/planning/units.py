"""Bytes as people write them."""

import math
import re

from realuid_lightning.errors import UserError

_POWERS = {prefix: power for power, prefix in enumerate("kmgt", 1)}


def parse_size(text: str) -> int:
    """Return the bytes of a text such as ``24GiB``, ``24 GB``, ``24G`` (which is GiB) or ``25769803776``.

    Raises:
        UserError: If it is no size above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?b?))?b?", text.strip().lower())
    size = 0
    if match is not None:
        number, prefix, unit = match.groups()
        base = 1000 if unit == "b" else 1024
        size = math.floor(float(number) * base ** _POWERS.get(prefix or "", 0))
    if size <= 0:
        raise UserError(f"device_memory: expected a size such as 24GiB, 80GB or 512MiB, got {text!r}")
    return size


def show(size: float) -> str:
    """Return bytes in the binary unit that suits them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"
