"""What one process does for all of them."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

import torch.distributed as dist

T = TypeVar("T")

PATIENCE = timedelta(days=365)


def by_one(work: Callable[[], T]) -> T:
    """Let process 0 work, however long that takes, and give every process the result, or the error.

    All processes must call this, and what they get must be picklable.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return work()
    # The others wait in a group of their own: that of the training gives up after some minutes.
    group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
    done: list[tuple[T | None, Exception | None]] = [(None, None)]
    if dist.get_rank() == 0:
        try:
            done = [(work(), None)]
        except Exception as raised:
            done = [(None, raised)]
    try:
        dist.broadcast_object_list(done, src=0, group=group)
    finally:
        dist.destroy_process_group(group)
    result, error = done[0]
    if error is not None:
        raise error
    return cast(T, result)


def by_all(work: Callable[[], None]) -> None:
    """Let every process do its part, however long that takes, and wait for all; an error of one is raised by all."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        work()
        return
    group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
    failed: Exception | None = None
    try:
        work()
    except Exception as raised:
        failed = raised
    errors: list[Exception | None] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(errors, failed, group=group)
    finally:
        dist.destroy_process_group(group)
    for error in errors:
        if error is not None:
            raise error
