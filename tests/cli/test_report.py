"""``realuid report``: figures are compared with their like only, and one broken line costs one line."""

import json
import os

import pytest
import yaml
from helpers import figure

DEMO = ["--model.network.width=32", "--trainer.enable_model_summary=false", "--data.eval_samples=40"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")


def row(distance, step=1, **changes):
    named = {key: changes.pop(key) for key in ("sampler", "checkpoint") if key in changes}
    return figure(step, protocol=changes, fid=distance, **named)


def write(folder, *lines, name="figures.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / name).write_text("\n".join(texts) + "\n")


def cells(written):
    """The rows of the tables, as lists of cells."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in written.splitlines() if line[:1] == "│"]


def test_only_figures_of_one_protocol_share_a_table(tmp_path, realuid):
    write(tmp_path, row(7.0, reference="A"), row(8.0, 2, reference="A"), row(0.1, reference="A", features="g"))
    _, written = realuid("report", tmp_path)
    assert [line[2:4] for line in cells(written)] == [["2", "8"], ["1", "0.1"]]
    assert "f, 4 samples" in written
    assert "g, 4 samples" in written
    assert written.count("sampler") == 2


def test_likeness_to_the_truth_has_a_table_and_a_best_step(tmp_path, realuid):
    likeness = [
        {"sampler": "raw", "step": step, "psnr": psnr, "ssim": 0.5, "samples": 4}
        for step, psnr in enumerate([float("nan"), 9, 8.5])
    ]
    write(tmp_path / "pairs", *likeness, name="fidelity.jsonl")
    _, written = realuid("report", tmp_path / "pairs")
    assert cells(written) == [["pairs", "raw", "2", "8.5", "0.5"], ["pairs", "raw", "1, best", "9", "0.5"]]


def test_the_page_goes_into_the_first_folder_or_where_it_is_asked_for(tmp_path, realuid, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        write(tmp_path / name, row(1.0))
    code, written = realuid("report", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert f"{tmp_path}/a/report.html: written" in written
    assert "<!DOCTYPE html>" in (tmp_path / "a" / "report.html").read_text()
    assert realuid("report", tmp_path / "b", "--html=~/pages/b.html")[0] == 0
    assert (tmp_path / "pages" / "b.html").is_file()
    assert not (tmp_path / "b" / "report.html").exists()
    assert realuid("report", tmp_path / "b", f"--html={tmp_path}") == (
        2,
        f"error: report: --html must name a file, but {tmp_path} is a folder\n",
    )
    code, written = realuid("report", tmp_path / "b", f"--html={tmp_path}/b/figures.jsonl/x.html")
    assert code == 2
    assert "error: " in written


def test_weights_of_another_run_are_not_credited_to_this_one(demo, tmp_path, realuid, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored = yaml.safe_load((demo / "runs/demo/distil/config.yaml").read_text())
    stored["model"]["init_args"]["teacher_ckpt"] = None
    stored["model"]["init_args"]["teacher_ema"] = None
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    write(tmp_path / "run", row(5.0, 4, features="raw values (64)", samples=40))
    foreign = demo / "runs/demo/distil/checkpoints/last.ckpt"
    words = ["validate", "--config=config.yaml", "--trainer.default_root_dir=run", "--model.evaluate=[raw]"]
    assert realuid(*words, f"--ckpt_path={foreign}")[0] == 0
    assert realuid(*words)[0] == 0
    places = [
        line.get("checkpoint") for line in map(json.loads, (tmp_path / "run/figures.jsonl").read_text().splitlines())
    ]
    assert places == [None, str(foreign), "none"]
    _, written = realuid("report", "run")
    runs = [line[0] for line in cells(written) if line[1]]  # without the bounds
    assert runs == ["run", f"run: {foreign}", "run: untrained"]
    assert cells(written)[0][3] == "5"


def test_a_run_measured_again_is_credited(demo, tmp_path, realuid, monkeypatch):
    monkeypatch.chdir(demo)
    before = (demo / "runs/demo/distil/figures.jsonl").read_text()
    words = ["validate", "--config=runs/demo/distil/config.yaml", "--model.evaluate=[raw]"]
    for place in ("runs/demo/distil/checkpoints/last.ckpt", str(demo / "runs/demo/distil/checkpoints/last.ckpt")):
        assert realuid(*words, f"--ckpt_path={place}")[0] == 0
    added = (demo / "runs/demo/distil/figures.jsonl").read_text().removeprefix(before).splitlines()
    assert len(added) == 2
    assert all("checkpoint" not in json.loads(line) for line in added)


def test_a_broken_line_costs_no_other_line(tmp_path, realuid):
    write(tmp_path / "run", row(3.0), "{", row(2.0, 2))
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "figures.jsonl").write_bytes(b"\xff\xfe\n" + json.dumps(row(1.0)).encode())
    code, written = realuid("report", tmp_path)
    assert code == 0, written
    assert written.count("1 broken line left out") == 2
    assert [each[2:4] for each in sorted(cells(written))] == [["1", "1"], ["2", "2"]]


def test_nothing_but_broken_lines(tmp_path, realuid):
    write(tmp_path, "{")
    code, written = realuid("report", tmp_path)
    assert code == 2
    assert "error: report: " in written
    assert "no complete line" in written


def test_a_line_after_one_that_was_cut_off_is_kept(demo, realuid, monkeypatch, tmp_path):
    monkeypatch.chdir(demo)
    folder = tmp_path / "run"
    write(folder, row(3.0))
    with (folder / "figures.jsonl").open("a") as file:
        file.write('{"step": 2, "samp')  # a kill
    words = ["--config=runs/demo/distil/config.yaml", f"--trainer.default_root_dir={folder}"]
    assert realuid("fit", *words, "--trainer.max_steps=2")[0] == 0
    lines = (folder / "figures.jsonl").read_text().splitlines()
    assert lines[1] == '{"step": 2, "samp'
    assert [json.loads(line)["sampler"] for line in lines[2:]] == ["raw", "ema_0.9", "ema_0.99"]


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_it_explains_itself(realuid, word):
    code, written = realuid("report", word)
    assert code == 0
    assert "folders of runs" in written


@pytest.mark.parametrize(
    "words", [[], *([command] for command in ("fit", "plan", "predict", "export", "report", "gaussian"))]
)
def test_every_command_tells_the_version(realuid, words):
    code, written = realuid(*words, "--version")
    assert code == 0
    assert written.startswith("realuid 0.")


def test_the_home_folder_is_found_after_an_equals_sign(demo, realuid, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(demo)
    words = ["--config=runs/demo/distil/config.yaml", "--trainer.default_root_dir=~/run", "--trainer.max_steps=2"]
    assert realuid("fit", *words)[0] == 0
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
    assert not (demo / "~").exists()
    predict = [
        "predict",
        "--config=~/run/config.yaml",
        "--ckpt_path=~/run/checkpoints/last.ckpt",
        "--writer.folder=~/samples",
    ]
    assert realuid(*predict, "--data.predict_seeds=0-3")[0] == 0
    assert len(list((tmp_path / "samples").iterdir())) == 4
    assert realuid("export", "~/run/checkpoints/last.ckpt", "~/generator.safetensors")[0] == 0
    assert (tmp_path / "generator.safetensors").is_file()
    assert realuid("report", "~/run")[0] == 0


def test_odd_names_and_odd_files_cost_no_more_than_their_line(tmp_path, realuid):
    """Brackets are no markup, a pipe and a folder are no history, and a line may be nested without an end."""
    write(tmp_path / "run[1]", row(2.0, sampler="raw[/]", features="[bold"), "[" * 100_000)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "figures.jsonl")
    (tmp_path / "folder" / "figures.jsonl").mkdir(parents=True)
    code, written = realuid("report", tmp_path)
    assert code == 0, written
    assert "1 broken line left out" in written
    assert cells(written) == [["run[1]", "raw[/]", "1", "2"]]
    assert "[bold, 4 samples" in written
