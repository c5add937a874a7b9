"""One batch size for all processes: any number of them trains the same recipe."""

from itertools import islice

import pytest
import torch
from helpers import fit
from recording import Recorder, placed

from realuid_lightning.data import Digits, MatchingDataModule, MemorySource
from realuid_lightning.errors import UserError


class Numbers(MemorySource):
    """Sample i is i."""

    shape = (1,)

    def load(self):
        return torch.arange(1000.0)[:, None], None


def data(**options):
    return MatchingDataModule(Numbers(), **options)


def seen(processes, accumulated=1, **options):
    """The numbers in each of four updates, from all processes and passes."""
    updates = [[] for _ in range(4)]
    for rank in range(processes):
        part = placed(data(**options), rank, processes)
        part.trainer.accumulate_grad_batches = accumulated
        for i, batch in enumerate(islice(part.train_dataloader(), 4 * accumulated)):
            updates[i // accumulated] += batch.x1.flatten().tolist()
    return [sorted(update) for update in updates]


def test_processes_and_passes_share_the_same_updates():
    alone = seen(1, global_batch_size=32)
    assert [len(update) for update in alone] == [32] * 4
    for processes, accumulated in ((2, 1), (8, 1), (1, 4), (2, 2), (8, 4)):
        assert seen(processes, accumulated, global_batch_size=32) == alone
    assert seen(2, 2, batch_size=8) == alone  # of one process and pass


@pytest.mark.parametrize(("processes", "accumulated", "size"), [(1, 1, 256), (2, 1, 128), (8, 1, 32), (8, 2, 16)])
def test_a_processs_part_is_known_by_one_name(processes, accumulated, size):
    for options in ({}, {"global_batch_size": 256}):
        part = placed(data(**options), world_size=processes)
        part.trainer.accumulate_grad_batches = accumulated
        part.check("fit")
        assert (part.batch_size, part.global_batch_size) == (size, 256)
    part = placed(data(batch_size=5), world_size=processes)
    part.check("fit")
    assert (part.batch_size, part.global_batch_size) == (5, None)


@pytest.mark.parametrize(
    ("processes", "accumulated", "told"),
    [
        (3, 1, "must be a multiple of 3, for 3 processes, got 100: set it to 99 or 102, or choose"),
        (4, 6, "must be a multiple of 24, for 4 processes and accumulate_grad_batches 6, got 100: set it to 96 or 120"),
        (128, 1, "must be a multiple of 128, for 128 processes, got 100: set it to 128, or choose another number"),
    ],
)
def test_a_size_that_does_not_divide_is_refused_before_data_are_read(processes, accumulated, told):
    class Unread(Numbers):
        def load(self):
            raise AssertionError

    part = placed(MatchingDataModule(Unread(), global_batch_size=100), world_size=processes)
    part.trainer.accumulate_grad_batches = accumulated
    with pytest.raises(UserError, match=f"^MatchingDataModule: global_batch_size {told}"):
        part.setup("fit")
    part.check("validate")  # which has no such batches


def test_one_size_is_given():
    with pytest.raises(UserError, match=r"batch_size \(8, of one process\) and global_batch_size \(16, of all\) are"):
        data(batch_size=8, global_batch_size=16)
    for option in ("batch_size", "global_batch_size"):
        with pytest.raises(UserError, match=f": {option} must be at least 1, got 0"):
            data(**{option: 0})


def test_a_part_that_no_memory_holds_is_told():
    part = placed(data(global_batch_size=2**50), world_size=2)
    with pytest.raises(UserError, match=f"batch_size of each process is {2**49}, and so many samples"):
        part.check("fit")


def test_a_trainer_takes_the_whole_batch(tmp_path):
    whole, passes = Recorder(1), Recorder(1)
    fit(whole, MatchingDataModule(Digits(), global_batch_size=12), tmp_path, 2)
    fit(passes, MatchingDataModule(Digits(), global_batch_size=12), tmp_path, 2, accumulate_grad_batches=3)
    assert [batch.size for batch in (*whole.seen, *passes.seen)] == [12] * 2 + [4] * 6
    assert torch.equal(torch.cat([b.x1 for b in whole.seen]), torch.cat([b.x1 for b in passes.seen]))
