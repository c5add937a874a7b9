"""``realuid gaussian``, as a user types it."""

import csv
import json
import re

import pytest
from PIL import Image

from realuid_lightning.cli import gaussian as command


def test_it_draws_both_studies_and_writes_their_tables(realuid, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    for name in ("MEANS", "STDS"):  # a coarser grid for the picture, whose points take a hundredth of a second each
        monkeypatch.setattr(command, name, getattr(command, name)[::3])
    monkeypatch.chdir(tmp_path)
    code, written = realuid("gaussian", "--folder=studies", "--steps=2", "--seed=3")
    assert code == 0, written
    for words in ("Teacher = real", "where the generator ends", "studies: loss.png, teacher.png"):
        assert words in written
    folder = tmp_path / "studies"
    assert sorted(file.name for file in folder.iterdir()) == ["loss.png", "table.csv", "table.json", "teacher.png"]
    for name in ("loss.png", "teacher.png"):
        with Image.open(folder / name) as picture:
            picture.verify()
            assert picture.format == "PNG"
            assert min(picture.size) > 300
        assert (folder / name).stat().st_size < 100_000
    tables = json.loads((folder / "table.json").read_text())
    assert (tables["steps"], tables["seed"]) == (2, 3)
    assert [row["alpha"] for row in tables["losses"]] == [1.0, 0.9, 0.92, 0.98, 0.9, 1.0]
    with (folder / "table.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(tables["teachers"]) == 42
    for row, same in zip(rows, tables["teachers"], strict=True):
        assert {key: str(value) for key, value in same.items()} == row
    first = tables["teachers"][1]  # alpha = beta = 0.9 under the teacher N(1, 1)
    assert (first["exact_mean"], first["exact_std"]) == pytest.approx((1.10743, 0.94679), abs=1e-4)
    assert first["exact_to_real"] > first["teacher_to_real"] == 1.0
    assert all(row["gamma"] == row["alpha"] for row in tables["teachers"][:10])
    corrected = tables["teachers"][12]
    assert [corrected[name] for name in ("alpha", "beta", "gamma")] == [0.5, 4.0, 4.0]
    assert corrected["exact_to_real"] == pytest.approx(0.2635, abs=1e-4)
    assert re.search(r"0\.5 .* 4 .* 4 .* 0\.250, 1\.084", written)
    assert [row["bounded_at_teacher"] for row in rows].count("False") == 1
    assert len(re.findall(r"\d\*", written)) == 1  # the row that is not bounded is marked


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--steps=0", ["steps", "0"]),
        ("--steps=-3", ["steps", "-3"]),
        ("--steps=many", ["steps", "many"]),
        ("--seed=1.5", ["seed", "1.5"]),
        ("--stepz=3", ["--stepz=3"]),
        ("what", ["what"]),
        ("--folder=text/studies", ["text"]),
    ],
)
def test_bad_options_give_one_clear_line(word, expected, realuid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").touch()
    code, written = realuid("gaussian", word)
    assert code == 2
    assert "Traceback" not in written
    line, *hint = written.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in expected)
    assert hint in ([], ["error: see realuid gaussian --help"])
    assert [file.name for file in tmp_path.iterdir()] == ["text"]
