"""How the trainer's checkpoints reach the disk."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from realuid_lightning.atomic import replacing
from realuid_lightning.checkpoints.files import read_checkpoint
from realuid_lightning.checkpoints.weights import record_of


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes whole checkpoints or none, and reads them without executing what they contain."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write beside ``path``, flush to disk, then take its place."""
        del storage_options
        with replacing(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read ``path`` on the CPU; whole files of weights and plain values only.

        Raises:
            UserError: If the file is missing, broken or foreign.
        """
        del map_location, weights_only
        content = read_checkpoint(path)
        record_of(content, path)  # Lightning would fail on a foreign file in words of its own
        return content
