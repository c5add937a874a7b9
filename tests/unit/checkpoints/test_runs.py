"""Which checkpoint a run goes on from, and what a disk that fails leaves."""

import errno
import os

import pytest
import torch

from realuid_lightning import atomic
from realuid_lightning.checkpoints import RECORD, AtomicCheckpointIO, find_checkpoint
from realuid_lightning.errors import UserError
from realuid_lightning.modules import TeacherModule
from realuid_lightning.networks import MLP


@pytest.fixture
def run(tmp_path):
    """A run folder with last.ckpt (step 30) and the best ones of steps 10 and 20."""
    folder = tmp_path / "checkpoints"
    for name, step in (("last", 30), ("best_step_00000010", 10), ("best_step_00000020", 20)):
        AtomicCheckpointIO().save_checkpoint(checkpoint(step), folder / f"{name}.ckpt")
    return tmp_path


def checkpoint(step):
    scores = {"elsewhere/checkpoints/best_step_00000010.ckpt": 1.0, "best_step_00000020.ckpt": torch.tensor(2.0)}
    best = {"monitor": "figure", "mode": "min", "best_k_models": scores}
    content = {
        "state_dict": {"weight": torch.full((1000,), float(step))},
        "global_step": step,
        RECORD: TeacherModule(MLP([2], width=4, depth=1))._record(),
    }
    return content | {"callbacks": {"RunCheckpoint": best}}


def damage(file, how):
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "by a byte": whole[:-1], "empty": b"", "text": b"hello"}[how])


def test_last_best_and_resume(run):
    assert find_checkpoint(run, "last").name == find_checkpoint(run, "resume").name == "last.ckpt"
    assert find_checkpoint(run, "best") == run / "checkpoints" / "best_step_00000010.ckpt"


@pytest.mark.parametrize("how", ["cut", "by a byte", "empty", "text"])
@pytest.mark.parametrize("which", ["last", "resume"])
def test_the_newest_whole_one_stands_in_for_a_damaged_last(run, which, how):
    damage(run / "checkpoints" / "last.ckpt", how)
    with pytest.warns(UserWarning, match=r"last\.ckpt: expected.*from best_step_00000020\.ckpt \(step 20\)"):
        assert find_checkpoint(run, which).name == "best_step_00000020.ckpt"
    damage(run / "checkpoints" / "best_step_00000020.ckpt", how)
    with pytest.warns(UserWarning, match=r"from best_step_00000010\.ckpt \(step 10\)"):
        assert find_checkpoint(run, which).name == "best_step_00000010.ckpt"


def test_a_last_that_is_gone_is_replaced_too(run):
    (run / "checkpoints" / "last.ckpt").unlink()
    with pytest.warns(UserWarning, match=r"holds no last\.ckpt\. Going on from best_step_00000020"):
        find_checkpoint(run, "last")


@pytest.mark.parametrize("how", ["gone", "cut", "empty"])
def test_the_next_best_stands_in_for_a_best_that_is_gone_or_damaged(run, how):
    for name, words, taken in [
        ("best_step_00000010", r"(best_step_00000010\.ckpt is gone|00000010\.ckpt: expected).*next best", "20.ckpt"),
        ("best_step_00000020", r"best_step_00000010\.ckpt.*Taking last\.ckpt \(step 30\), the newest", "last.ckpt"),
    ]:
        file = run / "checkpoints" / f"{name}.ckpt"
        file.unlink() if how == "gone" else damage(file, how)
        with pytest.warns(UserWarning, match=words):
            assert find_checkpoint(run, "best").name.endswith(taken)


def test_the_best_is_that_of_the_mode_and_a_nan_is_the_worst(run):
    last = run / "checkpoints" / "last.ckpt"
    for mode, scores, best in [("max", (1.0, 2.0), 20), ("max", (3.0, 2.0), 10), ("min", (float("nan"), 2.0), 20)]:
        content = checkpoint(30)
        names = ("best_step_00000010.ckpt", "best_step_00000020.ckpt")
        content["callbacks"]["RunCheckpoint"] = {"mode": mode, "best_k_models": dict(zip(names, scores, strict=True))}
        torch.save(content, last)
        assert find_checkpoint(run, "best").name == f"best_step_{best:08d}.ckpt"


@pytest.mark.parametrize(
    "state",
    [[], {"RunCheckpoint": 3}, {"RunCheckpoint": {"best_k_models": {"../x.ckpt": 1.0, "best_step_1.ckpt": 10**400}}}],
)
def test_a_strangers_state_names_no_best(run, state):
    torch.save({**checkpoint(30), "callbacks": state}, run / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match="monitors nothing"):
        find_checkpoint(run, "best")


@pytest.mark.parametrize("which", ["last", "best", "resume"])
def test_if_none_is_whole_all_damages_are_told(run, which):
    for file in (run / "checkpoints").iterdir():
        damage(file, "cut")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole") as caught:
        find_checkpoint(run, which)
    assert str(caught.value).count("cut off") == 3


@pytest.mark.parametrize("foreign", [{"model": torch.ones(3)}, {"code": os.system}])
def test_a_whole_but_foreign_last_is_refused(run, foreign):
    torch.save(foreign, run / "checkpoints" / "last.ckpt")
    for which in ("last", "resume"):
        with pytest.raises(UserError, match=r"last\.ckpt: expected (a checkpoint of this package|weights and plain)"):
            find_checkpoint(run, which)


def test_without_any_checkpoint_resume_begins_and_last_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.17.ckpt").write_bytes(b"what a killed write left")
    assert find_checkpoint(tmp_path, "resume") is None
    with pytest.raises(UserError, match=r"holds no checkpoints/last\.ckpt"):
        find_checkpoint(tmp_path, "last")


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_is_told_and_costs_nothing(run, monkeypatch, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "fsync":
        monkeypatch.setattr(atomic.os, "fsync", full)
    else:

        def save(_, stream):
            stream.write(b"half")
            try:
                full()
            except OSError:
                raise RuntimeError("[enforce fail at inline_container.cc:671]")  # noqa: B904 - as torch does

        monkeypatch.setattr(torch, "save", save)
    last = run / "checkpoints" / "last.ckpt"
    with pytest.raises(
        UserError, match=r"last\.ckpt: .*: No space left on device \(.* MiB .*; the one before is intact"
    ):
        AtomicCheckpointIO().save_checkpoint(checkpoint(40), last)
    assert len(list(last.parent.iterdir())) == 3
    assert torch.load(last)["global_step"] == 30


def test_what_is_no_fault_of_the_disk_is_not_called_one(tmp_path):
    with pytest.raises((AttributeError, TypeError)) as caught:
        AtomicCheckpointIO().save_checkpoint({"code": lambda: None}, tmp_path / "last.ckpt")
    assert not isinstance(caught.value, UserError)
    assert not list(tmp_path.iterdir())
