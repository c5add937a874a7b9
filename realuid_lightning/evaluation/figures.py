"""Files of figures in a run folder, a line each, which ``realuid report`` reads."""

import json
from pathlib import Path
from typing import Any

from lightning import Trainer


def record(trainer: Trainer, name: str, figure: dict[str, Any]) -> None:
    """Add a figure to a file of the run folder; process 0 calls it.

    What ``validate`` measures of other weights than the run's own carries where they come from, as ``checkpoint``: the
    path of their file (that which a module begins at, where no checkpoint is named), or ``none`` for weights as they
    were given.

    Args:
        trainer: Its ``default_root_dir`` is the run folder.
        name: Of the file, such as ``figures.jsonl``.
        figure: What to write, of plain values.
    """
    folder = Path(trainer.default_root_dir)
    measured = trainer.ckpt_path or getattr(trainer.lightning_module, "begins_at", None)
    if trainer.state.fn != "fit" and not _made_here(trainer, folder):
        figure = {**figure, "checkpoint": "none" if measured is None else str(measured)}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("ab+") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 1, 0))
        if file.read(1) not in (b"", b"\n"):  # a line that a kill or a full disk has cut off
            file.write(b"\n")
        file.write(f"{json.dumps(figure)}\n".encode())


def _made_here(trainer: Trainer, folder: Path) -> bool:
    """Tell whether the weights that are measured come from the run in this folder."""
    if trainer.ckpt_path is None:
        return trainer.global_step > 0  # trained by this very trainer
    return Path(trainer.ckpt_path).resolve().is_relative_to(folder.resolve())
