"""How the trainer's checkpoints reach the disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from realuid_lightning.atomic import replacing
from realuid_lightning.checkpoints.files import read_checkpoint
from realuid_lightning.checkpoints.records import check_run
from realuid_lightning.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes whole checkpoints or none, and reads them without executing what they contain."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write beside ``path``, flush to disk, then take its place.

        Raises:
            UserError: If there is no room, or the disk refuses; what was at ``path`` is still there, and nothing else.
        """
        del storage_options
        try:
            with replacing(path) as file, file.open("wb") as stream:
                torch.save(checkpoint, stream)
        except (OSError, RuntimeError) as error:
            # A stream that fails is a RuntimeError in torch's words; what it met is behind it.
            met = next((each for each in _behind(error) if isinstance(each, OSError)), None)
            if met is None:
                raise
            raise UserError(_refused(Path(path), met)) from error

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read ``path`` on the CPU; whole files of weights and plain values only.

        Raises:
            UserError: If the file is missing, broken, foreign, or not the whole state of a run.
        """
        del map_location, weights_only
        content = read_checkpoint(path)
        check_run(content, path)  # Lightning would fail on a foreign file in words of its own
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a file, and never a folder, whatever a checkpoint claims to have written."""
        if not Path(path).is_dir():
            Path(path).unlink(missing_ok=True)


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refused(path: Path, met: OSError) -> str:
    free = next((shutil.disk_usage(folder).free for folder in path.parents if folder.is_dir()), 0)
    former = "the one before is intact" if path.is_file() else "there was none before"
    return (
        f"{path}: the checkpoint could not be written: {met.strerror or met} ({free / 2**20:,.0f} MiB are free there); "
        f"{former}. Make room, or set a smaller --checkpoint.keep, then go on with --ckpt_path resume"
    )
