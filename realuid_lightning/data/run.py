"""What a data module asks of its trainer: where this process stands, how far training is, how large batches are."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from realuid_lightning.data.loading import make_loader


class RunDataModule(LightningDataModule):
    """Base of the data module; without a trainer it stands alone, at the beginning of training.

    Args:
        batch_size: Real samples per network update, process and pass, or None.
        global_batch_size: Real samples per network update, over all processes and passes, in its place, or None.
    """

    def __init__(self, batch_size: int | None, global_batch_size: int | None) -> None:
        super().__init__()
        self._batch_size, self.global_batch_size = batch_size, global_batch_size

    @property
    def batch_size(self) -> int:
        """Real samples per process and network update, or per pass where gradients of several are accumulated."""
        if self.global_batch_size is None:
            return self._batch_size or 0
        processes, accumulated = self._division
        return self.global_batch_size // (processes * accumulated)

    @property
    def eval_batch_size(self) -> int:
        """Samples per batch and process in evaluation: as many as the module takes in one forward, if it says so."""
        module = self.trainer.lightning_module if self.trainer else None
        return int(getattr(module, "eval_batch_size", self._batch_size or self.global_batch_size or 1))

    @property
    def _division(self) -> tuple[int, int]:
        """Number of processes, and of passes that make an update."""
        return (self.trainer.world_size, self.trainer.accumulate_grad_batches) if self.trainer else (1, 1)

    @property
    def _place(self) -> tuple[int, int]:
        """Rank of this process, and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _batches_done(self) -> int:
        return self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0

    def _loader(self, dataset: Dataset[Any], workers: int, **batching: Any) -> DataLoader[Any]:
        return make_loader(dataset, workers, self._device, **batching)
