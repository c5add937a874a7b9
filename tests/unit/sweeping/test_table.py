import json
import math

import pytest
from PIL import Image

from realuid_lightning.errors import UserError
from realuid_lightning.sweeping import Sweep, draw, parse_factors, tables, write_state

WORDS = "model.alpha=0.9,1", "ratio=0.98,1", "seeds=0-2"


def line(step, sampler, fid, **protocol):
    protocol = {"features": "f", "samples": 9, "seed": 0, **protocol}
    ends = {"floor": {"fid": 0.1}, "gaussian": {"fid": 5.0}, "better": {"fid": "min"}}
    return json.dumps({"step": step, "sampler": sampler, "figures": {"fid": fid}, "protocol": protocol, **ends})


@pytest.fixture
def swept(tmp_path):
    """A folder in which all cells but the last are done; each has measured alpha + seed."""
    tasks = Sweep(tmp_path, ()).tasks(parse_factors(WORDS))
    for task in tasks:
        alpha, seed = float(task.factors["model.alpha"]), int(task.factors["seeds"])
        write_state(tmp_path, task, "begun" if task is tasks[-1] else "done")
        rows = [line(1, "raw", 7.0), line(1, "ema", 8.0), line(2, "raw", 9.0), line(2, "ema", alpha + seed)]
        (tmp_path / task.name / "figures.jsonl").write_text("\n".join(rows))
    return tmp_path, tasks


def test_a_cell_is_the_mean_over_seeds_of_what_is_done(swept):
    (table,) = tables(*swept)
    assert table.names == ("model.alpha", "ratio")
    assert list(table.rows) == [("0.9", "0.98"), ("0.9", "1"), ("1", "0.98"), ("1", "1")]
    first, last = table.rows["0.9", "0.98"], table.rows["1", "1"]
    assert (first.mean, first.error, first.seeds) == pytest.approx((1.9, 1 / math.sqrt(3), 3))
    assert (last.mean, last.seeds) == (1.5, 2)
    assert table.best == ("1", "1")
    assert (table.floor.mean, table.gaussian.mean) == (0.1, 5.0)
    assert {value.mean for value in tables(*swept, "fid", "raw")[0].rows.values()} == {9.0}


def test_protocols_do_not_share_a_table(swept):
    folder, tasks = swept
    for task in tasks[:3]:
        (folder / task.name / "figures.jsonl").write_text(line(2, "ema", 3.0, features="g"))
    usual, other = sorted(tables(folder, tasks, "fid"), key=lambda table: -len(table.rows))
    assert (len(usual.rows), len(other.rows)) == (3, 1)
    assert usual.title != other.title


def test_a_cell_that_has_measured_nothing_hides_no_other(swept):
    folder, tasks = swept
    for task in tasks[:3]:
        (folder / task.name / "figures.jsonl").unlink()
    assert len(tables(folder, tasks, "fid")[0].rows) == 3
    with pytest.raises(UserError, match="no run that is done has a figure: there are none, of no sampler"):
        tables(folder, tasks[:3])


def test_what_is_not_there_is_told(swept):
    folder, tasks = swept
    with pytest.raises(UserError, match="no run that is done has the figure 'coverage': there are fid, of raw, ema"):
        tables(folder, tasks, "coverage")
    with pytest.raises(UserError, match="of 'best'"):
        tables(folder, tasks, "fid", "best")
    with pytest.raises(UserError, match=r"no run in .* is done"):
        tables(folder, tasks[-1:], "fid")


@pytest.mark.parametrize("mean", [math.nan, math.inf, 3.0])
def test_cells_that_have_diverged_are_drawn(swept, tmp_path, mean):
    (table,) = tables(*swept, "fid")
    rows = {cell: value._replace(mean=mean) for cell, value in table.rows.items()}
    draw(table._replace(rows=rows), tmp_path / "fid.png")
    assert (tmp_path / "fid.png").is_file()


def test_two_factors_are_drawn(swept, tmp_path):
    (table,) = tables(*swept, "fid")
    for rows in (table.rows, dict(list(table.rows.items())[:3])):  # whole, and with a hole
        draw(table._replace(rows=rows), tmp_path / "fid.png")
        with Image.open(tmp_path / "fid.png") as picture:
            picture.verify()
            assert min(picture.size) > 200
