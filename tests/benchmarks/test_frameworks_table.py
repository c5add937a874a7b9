"""The table of frameworks: a row a sweep, seeds as mean and deviation, and one protocol a table."""

import json
import math
import sys

import pytest
from helpers import benchmark

from realuid_lightning.reporting import comparisons, read_runs

frameworks = benchmark("frameworks")


def measured(folder, step, sampler, coverage, samples=40, **more):
    folder.mkdir(parents=True, exist_ok=True)
    ends = {"floor": {"coverage": 0.97}, "gaussian": {"coverage": 0.5}}
    row = {"step": step, "sampler": sampler, "figures": {"coverage": coverage}, **ends, **more}
    with (folder / "figures.jsonl").open("a") as file:
        file.write(json.dumps({**row, "protocol": {"features": "f", "samples": samples, "seed": 0}}) + "\n")


def test_seeds_are_a_mean_with_its_deviation(tmp_path):
    for seed, coverage in enumerate([0.8, 0.9]):
        measured(tmp_path / "edm" / "teacher" / f"seed={seed}", 3, "ema_0.9_steps_50", 0.95)
        measured(tmp_path / "edm" / "teacher" / f"seed={seed}", 3, "ema_0.9_steps_1", 0.1)
        measured(tmp_path / "edm" / f"seed={seed}", 1, "ema_0.9", 0.2)
        measured(tmp_path / "edm" / f"seed={seed}", 2, "raw", 0.3)
        measured(tmp_path / "edm" / f"seed={seed}", 2, "ema_0.9", coverage)
    measured(tmp_path / "vp" / "seed=0", 2, "ema_0.9", 0.7)
    (compared,) = comparisons(read_runs([tmp_path]))
    head, _, *lines = frameworks.table("coverage", compared).splitlines()
    assert head == "**coverage** (f, 40 samples)"
    assert lines == [
        "|  | seeds | floor | teacher, 50 steps | teacher, 1 step | generator, 1 step | Gaussian |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| `edm` | 2 | 0.97 | 0.95 ± 0 | 0.1 ± 0 | 0.85 ± 0.071 | 0.5 |",
        "| `vp` | 1 | 0.97 |  |  | 0.7 | 0.5 |",
    ]


def test_other_factors_have_rows_and_what_is_not_the_sweeps_has_none(tmp_path, monkeypatch, capsys):
    for cell, coverage in {"alpha=1,seed=0": 0.8, "alpha=1,seed=1": math.nan, "seed=0,alpha=0.9": 0.5}.items():
        measured(tmp_path / "edm" / cell, 2, "raw_steps_odd", coverage)
    measured(tmp_path / "edm" / "alpha=0.9,seed=1", 2, "raw", 0.1)
    (tmp_path / "edm" / "alpha=0.9,seed=1" / "sweep.json").write_text('{"state": "begun"}')
    measured(tmp_path / "edm" / "alpha=1,seed=0", 2, "raw", 0.1, checkpoint="none")
    measured(tmp_path / "edm" / "teacher", 3, "raw_steps_50", 0.9)
    monkeypatch.setattr(sys, "argv", ["frameworks.py", str(tmp_path), "--figures", "coverage"])
    frameworks.main()
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")] == [
        "| `edm` | 1 | 0.97 | 0.9 |  | 0.5 |",
        "| `edm/alpha=0.9` | 1 | 0.97 |  | 0.5 | 0.5 |",
        "| `edm/alpha=1` | 2 | 0.97 |  | nan | 0.5 |",
    ]


def test_a_folder_without_runs_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["frameworks.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no figures"):
        frameworks.main()


def test_protocols_have_tables_of_their_own(tmp_path, capsys, monkeypatch):
    measured(tmp_path / "a" / "seed=0", 2, "raw", 0.7)
    measured(tmp_path / "b" / "seed=0", 2, "raw", 0.6, samples=50)
    monkeypatch.setattr(sys, "argv", ["frameworks.py", str(tmp_path), "--figures", "coverage", "fid"])
    frameworks.main()
    tables = capsys.readouterr().out.split("\n\n**")
    assert [("`a`" in table, "`b`" in table) for table in tables] == [(True, False), (False, True)]
