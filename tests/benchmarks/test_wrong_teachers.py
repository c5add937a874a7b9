"""The study of wrong teachers: what it would run and leaves alone, its tables; and the comparison of two methods."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import benchmark

from realuid_lightning.data import Digits, Toy2D

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

flawed = benchmark("parts/flawed")
with pytest.MonkeyPatch.context() as patch:  # whose name on the path would bring the folder's others along
    patch.setitem(sys.modules, "frameworks", benchmark("frameworks"))
    patch.setitem(sys.modules, "parts.pages", benchmark("parts/pages"))
    study, convergence = benchmark("wrong_teachers"), benchmark("convergence")


def measured(folder, value, figure="mmd_0.2", done=True, step=10, sampler="ema_0.99"):
    folder.mkdir(parents=True, exist_ok=True)
    row = {"step": step, "sampler": sampler, "figures": {figure: value}}
    with (folder / "figures.jsonl").open("a") as file:
        file.write(json.dumps(row | {"floor": {figure: 1e-4}, "gaussian": {figure: 0.03}}) + "\n")
    if done:
        (folder / "done").touch()


def test_a_table_has_a_row_a_method_and_counts_what_is_done_alone(tmp_path):
    for seed, value in enumerate([0.001, 0.003]):
        measured(tmp_path / "moons" / "blurred" / "UID" / f"seed={seed}", value)
    measured(tmp_path / "moons" / "blurred" / "UID" / "seed=2", 1.0, done=False)
    measured(tmp_path / "moons" / "few" / "teacher" / "seed=0", 0.02, sampler="ema_0.99_steps_50")
    measured(tmp_path / "moons" / "few" / "teacher" / "seed=0", 1.0, sampler="raw_steps_50")
    title, head, _, *lines = study.table(tmp_path, "moons", "mmd_0.2")
    assert title.startswith("**moons, mmd_0.2 x 10000**: floor 1, Gaussian 300")
    assert [head, *lines] == ["| | blurred | few |", "| teacher |  | 200 |", "| UID | 20 ± 14 (2) |  |"]
    assert list(study.table(tmp_path, "digits", "fid")) == []


@pytest.mark.parametrize("data", study.STUDIES)
def test_every_run_is_a_command_that_the_planner_takes(data, tmp_path, monkeypatch, capsys):
    """One of each teacher and of each method; options that hold for no run would be told here."""
    from realuid_lightning.cli import main

    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS / "parts")])
    flaws = list(study.STUDIES[data].flaws)
    runs = [study.teacher(tmp_path, data, flaw, 0) for flaw in flaws]
    small = [study.student(tmp_path, data, flaws[-1], method, 0) for method in study.METHODS]
    monkeypatch.setattr(sys, "argv", ["realuid"])
    for run in [*runs, *small, study.tuned(tmp_path, data, flaws[-1], 0)]:
        assert main(["fit", *run.words.split(), "--print_config"]) == 0
    assert capsys.readouterr().out.count("class_path: flawed.") == sum("flawed." in run.words for run in runs)


def test_what_is_done_is_left_alone_and_what_fails_is_told(tmp_path, monkeypatch):
    called = []

    def run(command, stdout, **_):
        called.append(command)
        return subprocess.CompletedProcess(command, len(called) - 1)

    monkeypatch.setattr(subprocess, "run", run)
    first, second = (study.Run(tmp_path / name, f"--config {name}") for name in ("a", "b"))
    assert first().endswith("a: done")
    assert first() == ""
    assert "failed" in second()
    assert second() != ""
    assert [command[3:] for command in called] == [
        ["fit", "--config", name, "--ckpt_path", "resume"] for name in ("a", "b", "b")
    ]


def test_places_may_have_blanks_and_no_run_begins_at_one_that_is_not_done(tmp_path, monkeypatch):
    called = []

    def run(command, **_):
        called.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    folder = tmp_path / "two words"
    student = study.student(folder, "moons", "none", "UID of a tuned teacher", 0)
    tuned, teacher = (make(folder, "moons", "none", 0) for make in (study.tuned, study.teacher))
    assert [begun.after for begun in (student, tuned, teacher)] == [tuned.folder, teacher.folder, None]
    assert student() == f"{student.folder}: left out, for {tuned.folder} is not done"
    assert [each().endswith(": done") for each in (teacher, tuned, student)] == [True] * 3
    assert f"{tuned.folder}/checkpoints/last.ckpt" in called[2]
    assert all(str(each.folder) in words for each, words in zip((teacher, tuned, student), called, strict=True))


def test_tables_pass_over_lines_that_are_cut_off_and_folders_that_are_none_of_theirs(tmp_path, monkeypatch, capsys):
    cell = tmp_path / "moons" / "none" / "UID"
    measured(cell / "seed=0", 0.002)
    measured(cell / "a copy", 1.0)
    measured(cell / "seed=0" / "older", 1.0)
    measured(cell / "seed=1", 1.0, figure="another")
    with (cell / "seed=0" / "figures.jsonl").open("a") as file:
        file.write('{"step": 20, "sampler": "ema')
    lines = list(study.table(tmp_path, "moons", "mmd_0.2"))
    assert lines[0].startswith("**moons, mmd_0.2 x 10000**: floor 1,")
    assert lines[-1] == "| UID | 20 |"
    monkeypatch.setattr(sys, "argv", ["wrong_teachers", str(tmp_path / "none"), "--show"])
    with pytest.raises(SystemExit, match="none has no figures of moons or digits"):
        study.main()
    assert capsys.readouterr().out == ""


def test_what_is_kept_makes_the_same_tables_on_a_page(tmp_path, monkeypatch, capsys):
    """Of the data that are asked for; other tables of the page stay."""
    for data, figure in (("digits", "fid"), ("moons", "mmd_0.2")):
        measured(tmp_path / "runs" / data / "few" / "UID" / "seed=0", 0.5, figure)
        measured(tmp_path / "runs" / data / "few" / "UID" / "seed=1", 9.0, figure, done=False)
    page, kept = tmp_path / "page.md", tmp_path / "kept"
    text = "before\n<!-- {0}: made by make results -->\n\n{1}\n\n<!-- {0}: end -->\nbetween\n"
    page.write_text(text.format("moons", "old") + text.format("digits", "old"))

    def run(folder, *words):
        monkeypatch.setattr(sys, "argv", ["wrong_teachers", str(folder), "--data", "digits", "--show", *words])
        study.main()
        return capsys.readouterr().out

    printed = run(tmp_path / "runs", "--keep", str(kept)).strip()
    assert "| UID | 0.5 |" in printed
    assert sorted(str(file.relative_to(kept)) for file in kept.rglob("*") if file.is_file()) == [
        "digits/few/UID/seed=0/done",
        "digits/few/UID/seed=0/figures.jsonl",
    ]
    run(kept, "--page", str(page))
    assert page.read_text() == text.format("moons", "old") + text.format("digits", printed)
    page.write_text("no marks")
    with pytest.raises(SystemExit, match=r"error: .*page.md must have the lines"):
        run(kept, "--page", str(page))


def test_the_page_says_what_is_kept():
    docs = BENCHMARKS.parent / "docs"
    assert study.tables_of(docs / "wrong_teachers", "digits") in (docs / "wrong_teachers.md").read_text()


def test_flaws_are_what_they_say():
    whole = [source.load() for source in (Toy2D("moons", 20000), Digits())]
    moons, digits = flawed.BlurredMoons().load()[0], flawed.BlurredDigits().load()[0]
    assert (moons - whole[0][0]).std() == pytest.approx(0.15, rel=0.02)
    assert digits.float().var(0).sum() < 0.6 * whole[1][0].float().var(0).sum()
    assert digits.float().mean() == pytest.approx(float(whole[1][0].float().mean()), abs=2)
    for made, (_, y), rare in zip((flawed.BiasedMoons(), flawed.BiasedDigits()), whole, (1, 5), strict=True):
        kept, share = made.load()[1], float((y >= rare).float().mean())
        assert float((kept >= rare).float().mean()) == pytest.approx(share / 5 / (share / 5 + 1 - share), abs=0.02)
    assert len(flawed.FewDigits().load()[0]) == 180
    assert not torch.equal(moons, whole[0][0])


def test_a_ratio_of_updates_is_found_on_the_lines_between_measurements(tmp_path, capsys, monkeypatch):
    """Distances that fall as exp(-step / scale), of which one falls twice as fast."""
    for name, scale in (("slow", 200), ("fast", 100)):
        for seed in (0, 1):
            for step in range(0, 1001, 100):
                value = (1 + seed) * math.exp(-step / scale)
                measured(tmp_path / name / f"seed={seed}", value, "fid", step=step)
    words = ["convergence", str(tmp_path / "slow"), str(tmp_path / "fast"), "--cost", "2"]
    monkeypatch.setattr(sys, "argv", words)
    convergence.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| updates | fid, slow | fast |"
    assert lines[3].startswith("| 100 | 0.91 ± 0.43 | 0.552 ± 0.26 |")
    found = [
        [float(cell.split(" ±")[0]) for cell in line.split(" | ")[1:3]] for line in lines if line.endswith("| 2 |")
    ]
    assert found == [[2, 1]] * 4


def test_a_target_that_is_not_reached_counts_for_none():
    assert convergence.crossing([(0, 4.0), (10, 2.0)], 1.0) is None
    assert convergence.crossing([(0, 4.0), (10, 1.0)], 2.0) == pytest.approx(5)
    assert convergence.crossing([(0, 4.0), (10, -1.0)], 0.5) == 10


def test_a_comparison_passes_over_what_it_cannot_use(tmp_path, capsys, monkeypatch):
    """A line that is cut off, distances that are no numbers or below 0, runs without figures or the other's steps."""
    for name, steps in (("first", (0, 100, 150, 200)), ("second", (0, 100, 200))):
        for step in steps:
            measured(tmp_path / name / "seed=0", 4.0 * 0.5 ** (step / 100), "kid", step=step)
            measured(tmp_path / name / "seed=0", 9.0, "kid", step=step, sampler="raw")
        measured(tmp_path / name / "seed=0", -0.1, "kid", step=300)
        measured(tmp_path / name / "seed=0", math.nan, "kid", step=400)
        with (tmp_path / name / "seed=0" / "figures.jsonl").open("a") as file:
            file.write('{"step": 500, "sam')
        (tmp_path / name / "seed=1").mkdir()
    measured(tmp_path / "second" / "seed=1", 1.0, "kid")
    words = ["convergence", str(tmp_path / "first"), str(tmp_path / "second"), "--figure"]
    monkeypatch.setattr(sys, "argv", [*words, "kid"])
    convergence.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| 0", "| 100", "| 200", "| 300"]
    assert [line.split(" | ")[1] for line in lines[7:] if line.endswith("| 1 |")] == ["1"] * 4
    monkeypatch.setattr(sys, "argv", [*words, "fid"])
    with pytest.raises(SystemExit, match="no seed has measured fid"):
        convergence.main()


def test_the_picture_is_of_the_seed_that_is_named(tmp_path, monkeypatch):
    """Teachers and generators are read from the folders of their flaws and methods, and drawn."""
    import realuid_lightning

    opened = []

    def load(file, ema):
        opened.append(file.relative_to(tmp_path / "moons").parts)
        assert ema == 0.99
        return lambda z: z

    monkeypatch.setattr(realuid_lightning, "load_teacher", load)
    monkeypatch.setattr(realuid_lightning, "load_generator", load)
    study.draw(tmp_path, 2, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 1000
    assert opened[0] == ("blurred", "teacher", "seed=2", "checkpoints", "last.ckpt")
    assert opened[-1] == ("early", "Corrected,_rho_1", "seed=2", "checkpoints", "last.ckpt")
    assert len(opened) == 20
