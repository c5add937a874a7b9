"""Figures are read line by line, and compared with their like only."""

import json
import math
import os

import pytest
from rich.console import Console

from realuid_lightning.errors import UserError
from realuid_lightning.reporting import comparisons, read_runs, read_times
from realuid_lightning.reporting.tables import print_comparison, rows

PROTOCOL = {"features": "raw values (64)", "samples": 40, "reference": "aa" * 32, "seed": 0}


def line(step=1, sampler="raw", fid=1.0, seed=0, protocol=None, **more):
    protocol = {**PROTOCOL, "seed": seed, **(protocol or {})}
    return {"step": step, "sampler": sampler, "figures": {"fid": fid}, "protocol": protocol, **more}


def write(folder, *lines, name="figures.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    (folder / name).write_text("\n".join(texts) + "\n")


def compared(*folders):
    return comparisons(read_runs(folders))


def test_figures_of_one_protocol_stand_beside_each_other_and_no_others(tmp_path):
    ends = {"floor": {"fid": 0.1}, "gaussian": {"fid": 0.5}}
    write(tmp_path / "a", line(fid=3.0, **ends), line(2, fid=2.0, **ends), line(protocol={"samples": 41}))
    write(tmp_path / "b", line(fid=4.0, **ends), line(protocol={"reference": "bb" * 32}))
    first, *others = compared(tmp_path)
    assert [(each.run, each.sampler, sorted(each.steps), each.last) for each in first.series] == [
        ("a", "raw", [1, 2], 2),
        ("b", "raw", [1], 1),
    ]
    assert first.series[0].steps[2]["fid"].mean == 2.0
    assert (first.floor["fid"].mean, first.gaussian["fid"].mean) == (0.1, 0.5)
    assert [len(each.series) for each in others] == [1, 1]
    assert [each.title for each in (first, *others)] == [
        "raw values (64), 40 samples, reference aaaaaaaa...",
        "raw values (64), 41 samples",
        "raw values (64), 40 samples, reference bbbbbbbb...",
    ]


def test_seeds_are_one_protocol_and_their_mean_has_a_standard_error(tmp_path):
    lines = [line(fid=9.0), *(line(seed=seed, fid=fid) for seed, fid in enumerate([1.0, 2.0, 6.0]))]
    write(tmp_path, *lines)
    (comparison,) = compared(tmp_path)
    value = comparison.series[0].steps[1]["fid"]  # measured again by seed 0, of which the last counts
    assert value.seeds == 3
    assert value.mean == pytest.approx(3.0)
    assert value.error == pytest.approx(math.sqrt(7 / 3))
    assert str(value) == "3 ± 1.5"
    assert "seed" not in comparison.protocol


def test_the_best_is_told_where_the_sense_of_a_figure_is_known(tmp_path):
    both = {"better": {"fid": "min", "coverage": "max", "odd": "sideways"}}
    for name, fid, coverage in [("a", 2.0, 0.5), ("b", 1.0, 0.4), ("c", math.nan, 0.1)]:
        write(tmp_path / name, {**line(), **both, "figures": {"fid": fid, "coverage": coverage, "odd": 1.0}})
    (comparison,) = compared(tmp_path)
    assert (comparison.best("fid"), comparison.best("coverage")) == (1.0, 0.5)
    assert math.isnan(comparison.best("odd"))
    assert math.isnan(comparison.best("none"))


def test_weights_of_another_run_are_not_credited_to_this_one(tmp_path):
    write(tmp_path / "run", line(), line(checkpoint="other.ckpt"), line(checkpoint="none"))
    (comparison,) = compared(tmp_path)
    assert [each.run for each in comparison.series] == ["run", "run: other.ckpt", "run: untrained"]


def test_likeness_to_the_truth_has_a_protocol_of_its_own(tmp_path):
    write(tmp_path, line())
    row = {"step": 1, "sampler": "raw", "psnr": 20.0, "ssim": 0.5, "samples": 4}
    write(tmp_path, row, name="fidelity.jsonl")
    figures, likeness = compared(tmp_path)
    assert figures.figures == ["fid"]
    assert likeness.figures == ["psnr", "ssim"]
    assert likeness.title == "against the truth, 4 samples"
    assert likeness.best("psnr") == 20.0
    assert not likeness.floor


BROKEN = [
    "{",
    "[1, 2]",
    "3",
    "null",
    '"text"',
    '{"step": 1}',
    json.dumps(line(step="x")),
    json.dumps(line(step=-1)),
    json.dumps(line(step=True)),
    json.dumps(line(step=10**30)),
    json.dumps(line(sampler=3)),
    json.dumps(line(fid="3")),
    json.dumps(line(fid=True)),
    json.dumps(line(fid=[1])),
    json.dumps(line(fid=10**400)),
    json.dumps(line(floor=[3])),
    json.dumps(line(protocol={"seed": "x"})),
    json.dumps({**line(), "protocol": 3}),
    json.dumps({**line(), "protocol": [[1, 2], ["features", "f"]]}),
    json.dumps({**line(), "figures": {}}),
    json.dumps(line(checkpoint=3)),
    "\x00\x00",
    "[" * 100_000,
    '{"step": 1, "sampler": "raw", "figures": {"fid": ' + "9" * 5000 + "}}",
]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_line_costs_itself(tmp_path, broken):
    write(tmp_path, line(fid=3.0), broken, line(2, fid=2.0))
    (run,) = read_runs([tmp_path])
    assert run.broken == 1
    assert [each.step for each in run.measurements] == [1, 2]


def test_odd_files_are_passed_over(tmp_path):
    write(tmp_path / "run", line(), line(fid=None))
    (tmp_path / "run" / "times.jsonl").write_bytes(b"\xff\xfe\n{}")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "figures.jsonl")
    (tmp_path / "folder" / "figures.jsonl").mkdir(parents=True)
    (run,) = read_runs([tmp_path])
    assert run.broken == 0
    assert math.isnan(run.measurements[1].figures["fid"])
    assert read_times(run.folder) == []


def test_nothing_of_a_line_steers_the_terminal_or_cannot_be_written(tmp_path, capsys):
    odd = "\ud800\x1b[2J\n"
    told = line(sampler=odd, protocol={"features": odd, odd: [odd]})
    write(tmp_path / "run\x1b[1m", {**told, "figures": {odd: 1.0}})
    (comparison,) = compared(tmp_path)
    print_comparison(Console(width=200), comparison)
    assert "\x1b" not in (shown := capsys.readouterr().out)
    assert "run?[1m" in shown
    assert "??[2J?" in shown


def test_numbers_too_great_to_add_count_as_infinite(tmp_path):
    lines = [line(fid=1.7e308, floor={"fid": -1.7e308}, protocol={"seed": seed}) for seed in range(3)]
    write(tmp_path, *lines)
    write(tmp_path, {"step": 1, "bins": [1e308, -1e308], "gap": [1, 2]}, name="times.jsonl")
    (comparison,) = compared(tmp_path)
    assert math.isnan(comparison.floor["fid"].mean)
    assert read_times(tmp_path) == []


def test_runs_have_names_of_their_own(tmp_path):
    for place in ("x/run", "y/run", "z"):
        write(tmp_path / place, line())
    folders = [tmp_path / "x", tmp_path / "y", tmp_path / "z", tmp_path / "x" / "run"]
    names = [run.name for run in read_runs(folders)]
    assert names == [str(tmp_path / "x/run"), str(tmp_path / "y/run"), "z"]


def test_a_folder_without_figures_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no figures\.jsonl"):
        read_runs([tmp_path])


def test_diagnostics_by_time_come_with_middles_or_with_edges(tmp_path):
    rows = [
        {"step": 2, "bins": [0.25, 0.75], "gap": [1.0, None]},
        {"step": 1, "bins": [0.0, 0.5, 1.0], "gap": [3, 4]},
        {"step": 2, "bins": [0.25, 0.75], "gap": [5.0, 6.0]},
        {"step": 3, "bins": [0.25], "gap": [5.0, 6.0, 7.0]},
    ]
    write(tmp_path, *rows, name="times.jsonl")
    first, second = read_times(tmp_path)
    assert (first.step, first.bins, first.values) == (1, [0.25, 0.75], {"gap": [3.0, 4.0]})
    assert (second.step, second.values) == (2, {"gap": [5.0, 6.0]})


def test_the_best_step_stands_below_the_last_one_where_it_is_another(tmp_path):
    fids = {1: math.nan, 2: 3.0, 3: math.inf, 4: 2.5, 5: 2.75}
    write(tmp_path / "run", *(line(step, fid=fid, better={"fid": "min"}) for step, fid in fids.items()))
    write(tmp_path / "lost", line(fid=math.nan, better={"fid": "min"}))
    write(tmp_path / "even", line(fid=2.0, better={"fid": "min"}), line(2, fid=2.0))
    (comparison,) = compared(tmp_path)
    found = sorted((row.run, row.step, str(row.values["fid"])) for row in rows(comparison))
    assert found == [("even", "2", "2"), ("lost", "1", "nan"), ("run", "4, best", "2.5"), ("run", "5", "2.75")]


def test_a_table_with_more_figures_than_a_line_holds_goes_on_below(tmp_path, capsys):
    figures = {f"figure_{number}": 0.12345 for number in range(12)}
    write(tmp_path, {**line(), "figures": figures, "floor": {"figure_0": 1}})
    (comparison,) = compared(tmp_path)
    print_comparison(Console(width=80), comparison)
    written = capsys.readouterr().out
    assert all(f"figure_{number} " in written for number in range(12))
    assert max(map(len, written.splitlines())) <= 80
    assert written.count("│ raw ") == written.count("held-out real data") > 3
