"""Two runs do not meet in one folder; a dead one is in nobody's way."""

import os
import signal
import socket
import time
from contextlib import contextmanager

import helpers
import processes
import pytest
import torch
from helpers import Counting
from lightning import Trainer
from torch.utils.data import DataLoader

from realuid_lightning.errors import UserError
from realuid_lightning.running import RunCheckpoint, RunLock, folder_lock
from realuid_lightning.running.folder_lock import FolderLock

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")

HOLDER = """
import sys, time
from pathlib import Path
from realuid_lightning.running.folder_lock import FolderLock
held, told = FolderLock(Path(sys.argv[1])), Path(sys.argv[2])
held.acquire()
told.touch()
time.sleep(600)
"""


@contextmanager
def another_process(folder, beside):
    """Let another process hold the lock of ``folder``; what it is told and tells lies ``beside``."""
    script, held = beside / "holder.py", beside / "held"
    script.write_text(HOLDER)
    process = processes.Process(script, [folder, held], os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        while not held.exists():
            assert process.poll() is None
            time.sleep(0.01)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


class Predicting(Counting):
    def predict_step(self, batch, _):
        return batch


def fit(folder, callback=None, **options):
    helpers.fit(Counting(), DataLoader(torch.ones(4)), folder, callbacks=[callback or RunCheckpoint()], **options)


def test_a_second_run_is_refused_with_the_first_one_s_host_and_process(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(folder_lock, "TIMEOUT", 0.0)
    with another_process(tmp_path, tmp_path_factory.mktemp("holder")) as first:
        with pytest.raises(UserError) as caught:
            fit(tmp_path)
        assert f"{tmp_path} is in use by process {first.pid} on {socket.gethostname()} since 2" in str(caught.value)
        assert "--trainer.default_root_dir" in str(caught.value)
        assert not (tmp_path / "checkpoints").exists()
        monkeypatch.setattr(folder_lock, "TIMEOUT", 60.0)
        first.send_signal(signal.SIGKILL)  # and the next one waits for its end
        fit(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoints"]


def test_a_dead_holder_s_file_is_taken_over(tmp_path):
    (tmp_path / ".lock").write_text(f"process {os.getpid()} on another-host since 2020-01-01\n")
    held = FolderLock(tmp_path)
    held.acquire()
    assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on {socket.gethostname()} since ")
    held.release()
    held.release()
    assert not list(tmp_path.iterdir())


def test_a_process_may_run_again_after_a_failure(tmp_path):
    """As in a notebook, whose process lives on."""

    class Failing(RunCheckpoint):
        def on_train_start(self, *_):
            raise RuntimeError("fails")

    with pytest.raises(RuntimeError, match="fails"):
        fit(tmp_path, Failing())
    assert not (tmp_path / ".lock").exists()
    fit(tmp_path)


def test_what_writes_no_run_takes_no_lock(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(folder_lock, "TIMEOUT", 0.0)
    with another_process(tmp_path, tmp_path_factory.mktemp("holder")):
        fit(tmp_path, fast_dev_run=True)
        trainer = helpers.trainer(tmp_path, callbacks=[RunCheckpoint()])
        trainer.predict(Predicting(), DataLoader(torch.ones(1)), return_predictions=False)


def test_of_many_processes_only_the_first_holds_it_and_all_are_told(tmp_path, monkeypatch):
    trainer = helpers.trainer(tmp_path)
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    monkeypatch.setattr(trainer.strategy, "broadcast", lambda failure: failure or "what process 0 met")
    with pytest.raises(UserError, match="what process 0 met"):
        RunLock().setup(trainer, Counting(), "fit")
    assert not list(tmp_path.iterdir())


def test_a_holder_that_leaves_at_the_same_moment_is_no_holder(tmp_path, monkeypatch):
    """The file that was locked is no longer the one of this name: its holder had removed it."""
    one = FolderLock(tmp_path)
    takes = iter([True, False])
    lockf = folder_lock.fcntl.lockf

    def removed_before(handle, how):
        if next(takes, False):
            (tmp_path / ".lock").unlink()
        lockf(handle, how)

    monkeypatch.setattr(folder_lock.fcntl, "lockf", removed_before)
    one.acquire()
    assert (tmp_path / ".lock").exists()
    one.release()


def test_a_file_system_without_locks_costs_a_warning(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(folder_lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "lockf", fail)
    with pytest.warns(UserWarning, match="no lock is held"):
        FolderLock(tmp_path).acquire()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run: Not a directory"):
        FolderLock(tmp_path / "file" / "run").acquire()


def test_a_lock_that_is_a_link_empties_nothing(tmp_path):
    """As in a run folder that somebody else has packed."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".lock").symlink_to("precious")
    with pytest.raises(UserError, match=r"\.lock: Too many levels of symbolic links"):
        FolderLock(tmp_path).acquire()
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_folder_that_can_no_more_be_written_to_ends_no_run(tmp_path, monkeypatch):
    held = FolderLock(tmp_path)
    held.acquire()

    def fail(*_, **__):
        raise PermissionError(folder_lock.errno.EROFS, "Read-only file system")

    monkeypatch.setattr(type(tmp_path), "unlink", fail)
    held.release()
    held.release()


def test_a_holder_on_another_host_is_waited_for_as_long_as_its_server_waits_for_it(tmp_path, monkeypatch):
    """A job that SLURM starts anew elsewhere after its node has died."""
    tries = iter([False] * 6)
    monkeypatch.setattr(folder_lock, "TIMEOUT", 0.0)
    monkeypatch.setattr(FolderLock, "_try", lambda _: next(tries, True))
    (tmp_path / ".lock").write_text("process 7 on another-host since 2020-01-01\n")
    FolderLock(tmp_path).acquire()
    tries = iter([False] * 6)
    monkeypatch.setattr(folder_lock, "REMOTE_TIMEOUT", 0.0)
    with pytest.raises(UserError, match="in use by process 7 on another-host"):
        FolderLock(tmp_path).acquire()
