"""Curves come from what TensorBoard and a CSVLogger leave in a run folder."""

import math

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from realuid_lightning.reporting.scalars import binned, read_scalars


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_what_a_logger_was_told_is_read_back(tmp_path, kind):
    for _ in range(2):  # a run, and its resume two steps before its end, in a folder of its own
        start = 0 if not list(tmp_path.rglob("version_*")) else 3
        logger = kind(tmp_path)
        for step in range(start, 5):
            logger.log_metrics({"train/loss": step + start, "fid/raw": 0.5}, step)
        logger.save()
        logger.finalize("success")
    found = read_scalars(tmp_path)
    assert found["train/loss"] == {0: 0.0, 1: 1.0, 2: 2.0, 3: 6.0, 4: 7.0}
    assert list(found["fid/raw"]) == [0, 1, 2, 3, 4]


def test_logs_of_a_run_below_belong_to_that_one(tmp_path):
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):
        (folder / "figures.jsonl").touch()
        (folder / "metrics.csv").write_text(f"step,of\n1,{len(folder.name)}\n")
    assert read_scalars(tmp_path)["of"] == {1: len(tmp_path.name)}
    assert read_scalars(tmp_path / "below")["of"] == {1: 5}


def test_damaged_logs_give_what_is_sound(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    for step in range(100):
        logger.log_metrics({"loss": 1.0}, step)
    logger.finalize("success")
    (events,) = tmp_path.glob("events*")
    events.write_bytes(events.read_bytes()[:-700])
    assert 10 < len(read_scalars(tmp_path)["loss"]) < 100
    (tmp_path / "events.out.tfevents.9").write_bytes(b"no events" * 100)
    (tmp_path / "metrics.csv").write_bytes(b"step,a,b\n1,2,x\nx,3,4\n\xff\n2,inf,\n3,1,1,1,1\n\0")
    found = read_scalars(tmp_path)
    assert found["a"] == {1: 2.0, 2: math.inf, 3: 1.0}
    assert found["b"] == {3: 1.0}
    (tmp_path / "metrics.csv").write_text('step,c\n1,1.7e308\n2,3\n3,"' + "9" * 200_000)
    assert read_scalars(tmp_path)["c"] == {1: math.inf, 2: 3.0}


def test_a_folder_without_logs_has_none(tmp_path):
    assert read_scalars(tmp_path) == {}


def test_bins_hold_all_finite_values():
    found = binned({step: float(step) if step % 10 else math.nan for step in range(1000)}, most=50)
    assert len(found) == 50
    assert [(each.low, each.high) for each in found[:2]] == [(1, 19), (21, 39)]
    assert found[0].mean == pytest.approx(10)
    assert found[-1].step == 989.5
    (empty,) = binned({1: math.inf})
    assert math.isnan(empty.mean)
