"""Which checkpoint of a run folder to go on from."""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from realuid_lightning.checkpoints.files import DamagedCheckpointError, read_checkpoint
from realuid_lightning.checkpoints.records import record_of
from realuid_lightning.errors import UserError

Which = Literal["last", "best", "resume"]


def find_checkpoint(run_folder: Path, which: Which) -> Path | None:
    """Return the checkpoint of a run folder that ``--ckpt_path WHICH`` stands for.

    ``last`` is the newest whole one: ``last.ckpt``, or if that is damaged or gone, the newest of the best ones, with a
    warning. ``resume`` is the same, but begins (None) where there is no checkpoint yet. ``best`` is the one with the
    best metric so far.

    Raises:
        UserError: If there is none, or if the newest is whole but not a checkpoint of this package.
    """
    folder = run_folder / "checkpoints"
    # What a killed write leaves begins with a dot. The names of the best ones end in their steps.
    best_ones = sorted((file for file in folder.glob("best*.ckpt")), reverse=True)
    candidates = [file for file in [folder / "last.ckpt", *best_ones] if file.is_file()]
    if not candidates and which == "resume":
        return None
    newest, content = _newest_whole(candidates, run_folder, which)
    if which != "best":
        return newest
    best = content.get("callbacks", {}).get("RunCheckpoint", {}).get("best_model_path")
    if not best:
        raise UserError(
            f"ckpt_path: best, but the run in {run_folder} monitors nothing; set --checkpoint.monitor in fit"
        )
    return folder / Path(best).name  # the folder may have moved since


def _newest_whole(candidates: list[Path], run_folder: Path, which: str) -> tuple[Path, dict[str, Any]]:
    damages: list[str] = []
    for file in candidates:
        try:
            content = read_checkpoint(file, mmap=True)
        except DamagedCheckpointError as error:
            damages.append(str(error))
            continue
        record_of(content, file)
        if file.name != "last.ckpt":
            why = damages[0] if damages else f"{file.parent} holds no last.ckpt"
            rank_zero_warn(
                f"{why}. Going on from {file.name} (step {content.get('global_step')}), the newest whole one"
            )
        return file, content
    if damages:
        raise UserError("\n".join([*damages, f"ckpt_path: {which}, but no checkpoint in {run_folder} is whole"]))
    raise UserError(
        f"ckpt_path: {which}, but {run_folder} holds no checkpoints/last.ckpt; set --trainer.default_root_dir to "
        "the folder of a run, or name a file"
    )
