# ruff: noqa: PT012 - what a block writes before it fails is the point
import errno
import os
import signal
import stat
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from safetensors import safe_open

from realuid_lightning.atomic import replacing, write_tensors

KILLED = """
import os, signal, sys
from realuid_lightning.atomic import replacing
with replacing(sys.argv[1]) as file:
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def plain(target):
    with replacing(target) as file:
        file.write_text("whole")


def tensors(target):
    write_tensors({"a": torch.ones(1)}, target, {})


def test_a_file_takes_its_place_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "deep" / "file.txt"
    with replacing(target) as file:
        assert file.parent == target.parent
        assert file.suffix == ".txt"
        file.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["file.txt"]


def test_it_replaces_what_was_there(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with replacing(str(target)) as file:
        file.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("write", [plain, tensors])
@pytest.mark.parametrize("rights", [0o600, 0o640, 0o604])
def test_a_file_that_is_replaced_leaves_its_rights(tmp_path, write, rights, monkeypatch):
    """A private export stays private, and is so while it is written."""
    (tmp_path / "file.any").touch()
    (tmp_path / "file.any").chmod(rights)
    seen, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(os.fstat(handle)), fsync(handle)))
    write(tmp_path / "file.any")
    assert stat.S_IMODE(seen[0].st_mode) == 0o600
    assert seen[0].st_size > 0
    assert stat.S_IMODE((tmp_path / "file.any").stat().st_mode) == rights
    assert (tmp_path / "file.any").stat().st_ino == seen[0].st_ino


@pytest.mark.parametrize("rights", [0o640, 0o4755, 0o444])
def test_rights_are_those_of_reading_writing_and_running(tmp_path, rights):
    (tmp_path / "file.txt").touch()
    (tmp_path / "file.txt").chmod(rights)
    plain(tmp_path / "file.txt")
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == rights & 0o777


def test_rights_of_a_group_go_to_no_other_group(tmp_path, monkeypatch):
    (tmp_path / "file.txt").touch()
    (tmp_path / "file.txt").chmod(0o664)
    given, group = [], (tmp_path / "file.txt").stat().st_gid + 1

    def belongs_to_another(target):
        known = list(target.stat())
        known[stat.ST_GID] = group
        return os.stat_result(known)

    monkeypatch.setattr("realuid_lightning.atomic._looked_at", belongs_to_another)
    monkeypatch.setattr(os, "chown", lambda file, user, group: given.append((user, group)))
    plain(tmp_path / "file.txt")
    assert given == [(-1, group)]
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o664

    def refuse(*words):
        raise PermissionError(errno.EPERM, "refused")

    monkeypatch.setattr(os, "chown", refuse)
    plain(tmp_path / "file.txt")
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o604


@pytest.mark.skipif(not hasattr(os, "getxattr"), reason="needs a system that knows access control lists")
def test_what_a_list_grants_to_some_is_not_granted_to_the_group(tmp_path, monkeypatch):
    (tmp_path / "file.txt").touch()
    (tmp_path / "file.txt").chmod(0o660)
    monkeypatch.setattr(os, "getxattr", lambda file, name: name.encode())
    plain(tmp_path / "file.txt")
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o600


def test_a_file_that_vanishes_meanwhile_costs_nothing(tmp_path):
    (tmp_path / "file.txt").touch()
    with replacing(tmp_path / "file.txt") as file:
        file.write_text("whole")
        (tmp_path / "file.txt").unlink()
    assert (tmp_path / "file.txt").read_text() == "whole"


@pytest.mark.parametrize("refused", ["chmod", "utime"])
def test_a_file_is_written_where_its_rights_cannot_be(tmp_path, monkeypatch, refused):
    (tmp_path / "file.txt").touch()
    (tmp_path / "file.txt").chmod(0o600)

    def refuse(*words, **options):
        raise PermissionError(errno.EPERM, "refused")

    monkeypatch.setattr(os, refused, refuse)
    with replacing(tmp_path / "file.txt") as file:
        file.write_text("whole")
    assert (tmp_path / "file.txt").read_text() == "whole"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(error), replacing(target) as file:
        file.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("rights", [0o644, 0o600])
def test_a_write_that_never_was_is_an_error(tmp_path, rights):
    target = tmp_path / "file.txt"
    target.write_text("old")
    target.chmod(rights)
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "old"


def test_a_killed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    run = subprocess.run([sys.executable, "-c", KILLED, str(target)])
    assert run.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert list(tmp_path.glob("[!.]*")) == [target]  # what is left of the new one is hidden


def test_the_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), rename(*names)))
    with replacing(tmp_path / "file.txt") as file:
        file.write_text("whole")
    assert calls == ["fsync", "replace", "fsync"]  # the last one is the folder's, which keeps the name


@pytest.mark.parametrize(("number", "told"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_flushed_is_no_failure_and_a_broken_disk_is(tmp_path, monkeypatch, number, told):
    def flush(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", flush)
    with pytest.raises(OSError, match="error") if told else nullcontext(), replacing(tmp_path / "file.txt") as file:
        file.write_text("whole")
    assert (tmp_path / "file.txt").read_text() == "whole"


def test_processes_of_the_same_number_do_not_meet(tmp_path, monkeypatch):
    """As in two containers that share a folder: process 1 of each."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with replacing(tmp_path / "file.txt") as one, replacing(tmp_path / "file.txt") as other:
        one.write_text("one")
        other.write_text("other")
        assert one != other
    assert (tmp_path / "file.txt").read_text() == "one"


def test_tensors_that_share_memory_are_written_under_each_name(tmp_path):
    weight = torch.arange(6.0).view(2, 3)
    write_tensors({"a": weight, "tied": weight, "row": weight[1], "turned": weight.T}, tmp_path / "f.safetensors", {})
    with safe_open(tmp_path / "f.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("a"), weight)
        assert torch.equal(file.get_tensor("tied"), weight)
        assert torch.equal(file.get_tensor("row"), weight[1])
        assert torch.equal(file.get_tensor("turned"), weight.T)


def test_tensors_and_their_text_come_back(tmp_path):
    tensors = {
        "gradient": torch.ones(2, requires_grad=True),
        "strided": torch.arange(6).view(2, 3).T,
        "half": torch.ones(1, dtype=torch.bfloat16),
        "scalar": torch.tensor(3),
    }
    write_tensors(tensors, tmp_path / "file.safetensors", {"note": "é"})
    with safe_open(tmp_path / "file.safetensors", "pt") as file:
        assert file.metadata() == {"note": "é"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
            assert file.get_tensor(name).dtype == tensor.dtype
    assert os.listdir(tmp_path) == ["file.safetensors"]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_others_may_read_tensors_as_far_as_they_may_read_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_tensors({"a": torch.ones(1)}, tmp_path / "file.safetensors", {})
        (tmp_path / "any").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "file.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_file_system_that_knows_no_rights_is_not_asked_to_change_them(tmp_path, monkeypatch):
    """As vfat, where all files have those of the mount: a change is refused there, and none is needed."""
    monkeypatch.setattr("realuid_lightning.atomic.save_file", lambda tensors, file, metadata: file.write_text("whole"))
    monkeypatch.setattr(os, "chmod", lambda *words, **options: pytest.fail("rights were changed"))
    write_tensors({"a": torch.ones(1)}, tmp_path / "file.safetensors", {})
    assert (tmp_path / "file.safetensors").read_text() == "whole"
