"""The pictures that a run has drawn of its samples, and how they get into a page."""

import base64
import re
import struct
from pathlib import Path
from typing import NamedTuple

from realuid_lightning.reporting.reading import thinned

MOST = 40
"""Pictures of a sampler on a page; from more, as many are taken evenly."""

LARGEST = 4 * 2**20
"""Bytes of a picture; larger ones are left out."""

BUDGET = 32 * 2**20
"""Bytes of all pictures of a page, roughly: where they are large, fewer are shown."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"

Pictures = dict[str, dict[int, Path]]
"""Files by step, by the name of the sampler."""


class Picture(NamedTuple):
    """A picture as a page holds it.

    Attributes:
        uri: Its ``data:`` address.
        width: In pixels.
        height: In pixels.
    """

    uri: str
    width: int
    height: int


def find_pictures(folder: Path) -> Pictures:
    """Return the grids of samples in a run folder, in the order of steps; ``source`` and ``truth`` last."""
    found: Pictures = {}
    for file in sorted(folder.glob("samples/*/step_*.png")):
        step = re.fullmatch(r"step_(\d{1,15})\.png", file.name)
        if step and file.is_file() and file.stat().st_size <= LARGEST:
            found.setdefault(file.parent.name, {})[int(step[1])] = file
    order = sorted(found, key=lambda name: (name in ("source", "truth"), name))
    return {name: dict(sorted(found[name].items())) for name in order}


def chosen_steps(pictures: Pictures, budget: int) -> list[int]:
    """Return the steps of which a page shows pictures: evenly, the last among them, within a budget of bytes."""
    steps = sorted({step for files in pictures.values() for step in files})
    sizes = [file.stat().st_size for files in pictures.values() for file in files.values()]
    if not steps:
        return []
    affordable = budget * len(steps) // max(sum(sizes), 1)
    return thinned(steps, max(1, min(MOST, affordable)))


def read_picture(file: Path) -> Picture | None:
    """Return a PNG file as a page holds it; None for a file that is none, or cannot be read."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if not content.startswith(SIGNATURE) or len(content) < 24:
        return None
    width, height = struct.unpack(">II", content[16:24])
    return Picture(f"data:image/png;base64,{base64.b64encode(content).decode()}", width, height)
