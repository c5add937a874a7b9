"""Where a generator stands, in words."""

import json

import pytest

from realuid_lightning.reporting import comparisons, read_runs, standings

BETTER = {"fid": "min", "coverage": "max", "odd": "min"}
FLOOR, GAUSSIAN = {"fid": 1.0, "coverage": 0.9}, {"fid": 10.0, "coverage": 0.1}


def write(folder, figures, config, better=BETTER, floor=FLOOR):
    folder.mkdir(parents=True)
    rows = [
        {
            **{"step": 1, "sampler": name, "figures": each, "better": better, "floor": floor, "gaussian": GAUSSIAN},
            "protocol": {"features": "f"},
        }
        for name, each in figures.items()
    ]
    (folder / "figures.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "config.yaml").write_text(json.dumps(config))


def told(folder, fid, coverage, **options):
    write(
        folder / "teacher",
        {"one": {"fid": 50.0, "coverage": 0.0}, "many": {"fid": 3.0, "coverage": 0.8}},
        {},
        **options,
    )
    config = {"model": {"init_args": {"teacher_ckpt": "teacher/checkpoints/last.ckpt"}}}
    write(folder / "student", {"raw": {"fid": fid, "coverage": coverage, "odd": 1.0}}, config, **options)
    runs = read_runs([folder])
    return standings(runs, comparisons(runs))


NOTE = " (in brackets its distance from real data, that of its teacher being 1)"


@pytest.mark.parametrize(
    ("fid", "coverage", "words"),
    [
        (1.0, 0.95, "as good as real data in fid, coverage"),
        (2.0, 0.85, f"between real data and its teacher in fid (0.5), coverage (0.5){NOTE}"),
        (5.0, 0.5, f"between its teacher and a Gaussian in fid (2), coverage (4){NOTE}"),
        (20.0, 0.05, f"worse than a Gaussian in fid (9.5), coverage (8.5){NOTE}"),
        (0.5, 0.05, f"as good as real data in fid; worse than a Gaussian in coverage (8.5){NOTE}"),
        (float("nan"), 0.95, "as good as real data in coverage; worse than a Gaussian in fid"),
    ],
)
def test_every_figure_has_its_place(tmp_path, fid, coverage, words):
    assert told(tmp_path, fid, coverage) == [f"student, raw, by f: {words}."]


@pytest.mark.parametrize("name", ["n" * 300, "\0", "\ud800", 3])
def test_a_teacher_whose_place_cannot_be_looked_at_is_none(tmp_path, name):
    config = {"model": {"init_args": {"teacher_ckpt": f"{name}/checkpoints/last.ckpt"}}}
    write(tmp_path / "run", {"raw": {"fid": 1.0}}, config)
    runs = read_runs([tmp_path])
    assert standings(runs, comparisons(runs)) == []


def test_nothing_is_said_where_sense_or_bounds_are_not_known(tmp_path):
    assert not told(tmp_path / "a", 2.0, 0.5, better={})
    assert not told(tmp_path / "b", 2.0, 0.5, floor={})


def test_a_figure_that_a_gaussian_satisfies_tells_nothing(tmp_path):
    (sentence,) = told(tmp_path, 2.0, 0.95, floor={"fid": 11.0, "coverage": 0.9})
    assert sentence == "student, raw, by f: as good as real data in coverage."
