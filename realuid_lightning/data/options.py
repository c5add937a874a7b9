"""Which options of a ``MatchingDataModule`` go together, with each other and with a trainer; nothing is read."""

import math
from collections.abc import Iterator
from typing import Any

from lightning.pytorch.callbacks import Timer

from realuid_lightning.data.checks import shape_of
from realuid_lightning.data.memory import host_memory, lacking
from realuid_lightning.data.source import Source
from realuid_lightning.data.stream import MOST_INDICES, parse_indices
from realuid_lightning.errors import UserError


def shape_faults(*sources: Source | None) -> Iterator[str]:
    """Yield which sources have no shape; one that is given several times is looked at once."""
    for source in dict.fromkeys(sources):
        try:
            if source is not None:
                shape_of(source)
        except UserError as error:
            yield str(error)


def source_faults(
    source: Source,
    reference: Source,
    held_out: Source | None,
    origin: Source | None,
    eval_origin: Source | None,
    on_device: bool,
) -> Iterator[str]:
    """Yield which sources, all of which have a shape, do not go together.

    Args:
        source: Where real samples for training come from.
        reference: What evaluation compares with.
        held_out: Real samples that are compared with it.
        origin: Where source ends for training come from.
        eval_origin: Where those of evaluation come from.
        on_device: Whether samples for training are to be held on a device.
    """
    others = {"reference": reference, "held_out": held_out, "origin": origin}
    others["eval_origin"] = None if eval_origin is origin else eval_origin
    for option, other in others.items():
        shape = source.original.shape if option in ("reference", "held_out") else source.shape
        if other is not None and other.shape != shape:
            yield f"{option} must have samples of shape {shape} as source, got {other.shape}"
    for option, held in {"source": source, "origin": origin}.items() if on_device else ():
        if held is not None and not held.in_memory:
            advice = "set its in_memory: true if it has that option, or on_device: false"
            yield f"on_device: true needs {option} held in memory, but {type(held).__name__} is not: {advice}"
    if origin is None and eval_origin is not None:
        yield "eval_origin needs origin, the source ends of training: set both or neither"


def evaluation_faults(eval_samples: int, eval_labels: str, eval_seed: int, predict_seeds: str) -> Iterator[str]:
    """Yield what is wrong with the options of evaluation and prediction."""
    if not 1 <= eval_samples <= MOST_INDICES:
        yield f"eval_samples must be 1 to {MOST_INDICES}, got {eval_samples}"
    if eval_labels not in ("balanced", "sampled"):
        yield f"eval_labels must be balanced or sampled, got {eval_labels!r}"
    if not 0 <= eval_seed < 2**32:
        yield f"eval_seed must be in [0, {2**32 - 1}], got {eval_seed}"
    try:
        parse_indices(predict_seeds)
    except UserError as error:
        yield f"predict_seeds: {error}"


def batch_faults(batch_size: int | None, global_batch_size: int | None) -> Iterator[str]:
    """Yield what is wrong with the two sizes of a training batch."""
    if batch_size is not None and global_batch_size is not None:
        yield (
            f"batch_size ({batch_size}, of one process) and global_batch_size ({global_batch_size}, of all) are both "
            "set: set one of them to null"
        )
    for option, size in (("batch_size", batch_size), ("global_batch_size", global_batch_size)):
        if size is not None and size < 1:
            yield f"{option} must be at least 1, got {size}"


def room_faults(option: str, size: int, shape: tuple[int, ...]) -> Iterator[str]:
    """Yield why memory has no room for ``size`` samples of ``shape``."""
    each = 4 * math.prod(shape) + 8  # as floats, and a position
    lack = lacking(size * each)
    if lack:
        many = f"{option} is {size}, and so many samples of shape {shape} {lack}"
        yield f"{many}: {int(host_memory() // each)} would fill it"


def division_faults(global_batch_size: int, processes: int, accumulated: int) -> Iterator[str]:
    """Yield why ``global_batch_size`` cannot be shared out evenly.

    Args:
        global_batch_size: Samples in an update of a network.
        processes: Number of processes.
        accumulated: Batches of each process whose gradients make an update.
    """
    parts = processes * accumulated
    if global_batch_size % parts:
        below = global_batch_size // parts * parts
        sizes = " or ".join(str(size) for size in (below, below + parts) if size)
        passes = f" and accumulate_grad_batches {accumulated}" if accumulated > 1 else ""
        yield (
            f"global_batch_size must be a multiple of {parts}, for {processes} processes{passes}, got "
            f"{global_batch_size}: set it to {sizes}, or choose another number of devices"
        )


def end_faults(trainer: Any) -> Iterator[str]:
    """Yield why a trainer waits for the end of an epoch, or wants batches again: the stream of data has neither."""
    if trainer.overfit_batches:
        yield (
            "trainer.overfit_batches must be 0, for the stream of training data goes on where Lightning would have "
            f"its batches again, got {trainer.overfit_batches}: overfit a source of few samples instead"
        )
    if trainer.max_steps != -1 or trainer.max_epochs in (None, -1):
        return
    timed = any(isinstance(callback, Timer) for callback in trainer.callbacks)
    if trainer.limit_train_batches == 1.0 and not timed:
        yield (
            "trainer: the stream of training data has no end, so max_epochs would never be reached: set max_steps "
            "or max_time (max_epochs: -1 trains until it is stopped)"
        )


def class_faults(source: Source, eval_origin: Source | None) -> Iterator[str]:
    """Yield why the class labels of evaluation are unknown to the source of training."""
    classes, others = source.num_classes, None if eval_origin is None else eval_origin.num_classes
    if classes is not None and others is not None and others > classes:
        yield (
            f"eval_origin, which labels the samples, may have at most the {classes} classes of source, got {others}: "
            "set labels: false, or choose another eval_origin"
        )


def pair_faults(source: Source, origin: Source | None, paired: bool) -> Iterator[str]:
    """Yield why sample i of ``origin`` cannot belong to sample i of ``source``; both have been set up."""
    if origin is not None and paired and len(origin) != len(source):
        yield (
            f"origin must have as many samples as source ({len(source)}), whose sample i belongs to its sample i, got "
            f"{len(origin)}: set paired: false if they do not belong together"
        )
