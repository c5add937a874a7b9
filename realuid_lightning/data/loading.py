"""Loaders whose data sets make batches themselves, and what Lightning need not say about them."""

import atexit
import os
import warnings
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any
from weakref import WeakSet

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch.utils.data import DataLoader, Dataset

from realuid_lightning.lightning_internals import end_workers, workers_of
from realuid_lightning.signals import ignore_stop_signals

_begun: WeakSet[Iterator[Any]] = WeakSet()
_workers: WeakSet[BaseProcess] = WeakSet()


class _Loader(DataLoader[Any]):
    """Notes what it begins: iterators can outlive their loader, and processes their iterator, if it was in a cycle."""

    def __iter__(self) -> Any:
        iterator = super().__iter__()
        if self.num_workers:
            _begun.add(iterator)
            _workers.update(workers_of(iterator))
        return iterator


def make_loader(dataset: Dataset[Any], workers: int, device: torch.device, **batching: Any) -> DataLoader[Any]:
    """Return a loader that leaves the global generator alone.

    Args:
        dataset: Gives batches by ``__getitems__``.
        workers: Loader processes; they live as long as the loader does.
        device: Where batches go; those for a GPU are pinned.
        batching: ``batch_size`` and ``sampler``.
    """
    return _Loader(
        dataset,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        collate_fn=_unchanged,
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator(),  # iterators draw a seed when they begin: not from the global generator
        **batching,
    )


@atexit.register
def _end_all_workers() -> None:
    """End the processes of loaders that outlive the program: Python would send SIGTERM, which they ignore, and wait."""
    for iterator in _begun:
        end_workers(iterator)
    for worker in _workers:
        if worker.is_alive():
            worker.kill()


def _forget() -> None:
    """Leave them to the program that has begun them: one that is forked from it would end them before."""
    _begun.clear()
    _workers.clear()


os.register_at_fork(after_in_child=_forget)


def filter_warnings(training_in_memory: bool, evaluation_in_memory: bool) -> None:
    """Filter advice that does not fit: more workers for data in memory, and epochs on resuming."""
    loaders = ["val_dataloader", "test_dataloader", "predict_dataloader"] if evaluation_in_memory else []
    loaders += ["train_dataloader"] if training_in_memory else []
    message = f"The '({'|'.join(loaders)})' does not have many workers"
    warnings.filterwarnings("ignore", message, category=PossibleUserWarning)
    # The training stream has no epochs, and goes on where it was.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")


def _unchanged(batch: Any) -> Any:
    return batch
