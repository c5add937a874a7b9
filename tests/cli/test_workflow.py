"""From images to a one-step generator, as a user types it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import processes
import pytest
import torch
import yaml
from helpers import figure, measurements
from PIL import Image

from realuid_lightning import load_generator
from realuid_lightning.evaluation.real import RealSide

CONFIGS = Path(__file__).parents[2] / "configs" / "demo"
REALUID = Path(sys.executable).with_name("realuid")
SMALL = ["--model.network.width=32", "--trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def in_demo(demo, monkeypatch):
    monkeypatch.chdir(demo)


def test_fit_leaves_checkpoints_distances_pictures_and_its_config(demo):
    for name, samplers in [("teacher", ["ema_0.999_steps_1", "ema_0.999_steps_50"]), ("distil", ["raw", "ema_0.99"])]:
        run = demo / "runs" / "demo" / name
        assert (run / "checkpoints" / "last.ckpt").is_file()
        rows = measurements(run)
        assert {row["step"] for row in rows} == {2, 4}
        assert all(
            row["figures"]["fid"] > 0 and row["protocol"]["features"] == "digits classifier (64)" for row in rows
        )
        for sampler in samplers:
            assert sampler in {row["sampler"] for row in rows}
            for step in (2, 4):
                assert pixels(run / "samples" / sampler / f"step_{step:08d}.png").ndim == 3
        assert list(run.glob("events.out.tfevents.*"))
        assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 4


def pixels(file):
    with Image.open(file) as image:
        return np.asarray(image)


def test_the_stored_config_makes_the_same_run_again(demo, realuid):
    code, _ = realuid("fit", "--config", "runs/demo/distil/config.yaml", "--trainer.default_root_dir=runs/again")
    assert code == 0
    first, again = (weights(demo / "runs" / run) for run in ("demo/distil", "again"))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(demo, realuid):
    words = ["--config", CONFIGS / "distil.yaml", *SMALL, "--data.batch_size=16", "--data.eval_samples=40"]
    words += [
        "--trainer.val_check_interval=2",
        "--trainer.default_root_dir=runs/resumed",
        "--trainer.log_every_n_steps=1",
    ]
    assert realuid("fit", *words, "--trainer.max_steps=2")[0] == 0
    assert realuid("fit", *words, "--trainer.max_steps=4", "--ckpt_path=last")[0] == 0
    whole, resumed = (weights(demo / "runs" / run) for run in ("demo/distil", "resumed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_measures_what_its_run_measured(demo, realuid, command):
    code, written = realuid(
        *(command, "--config", CONFIGS / "distil.yaml", *SMALL, "--data.eval_samples=40", "--data.batch_size=7"),
        *("--ckpt_path=last",),
    )
    assert code == 0, written
    rows = measurements(demo / "runs" / "demo" / "distil")
    measured = [row["figures"]["fid"] for row in rows if row["sampler"] == "ema_0.99"]
    assert measured[-1] == pytest.approx(measured[1], rel=1e-9)
    assert yaml.safe_load((demo / "runs/demo/distil/config.yaml").read_text())["data"]["init_args"]["batch_size"] == 16


def test_a_checkpoint_needs_no_teacher_file(realuid, tmp_path):
    predict(realuid, "--model.teacher_ckpt=gone.ckpt", f"--writer.folder={tmp_path}", "--data.predict_seeds=5")
    assert [file.name for file in tmp_path.iterdir()] == ["000005.png"]


def predict(realuid, *words):
    code, written = realuid("predict", "--config", CONFIGS / "distil.yaml", *SMALL, "--ckpt_path=last", *words)
    assert code == 0, written


def test_predict_writes_the_same_files_for_any_batch_size(demo, realuid, tmp_path):
    for size in (7, 64):
        predict(realuid, f"--data.batch_size={size}", f"--writer.folder={tmp_path / str(size)}")
    names = sorted(file.name for file in (tmp_path / "7").iterdir())
    assert names == [f"{index:06d}.png" for index in range(64)]
    for name in names:
        assert (tmp_path / "7" / name).read_bytes() == (tmp_path / "64" / name).read_bytes()


def test_predict_seeds_name_the_samples_and_npz_holds_them_in_order(realuid, tmp_path):
    seeds = "--data.predict_seeds=40-42,3"
    predict(realuid, seeds, "--writer.format=npz", f"--writer.folder={tmp_path}")
    predict(realuid, seeds, f"--writer.folder={tmp_path}")
    stored = np.load(tmp_path / "samples.npz")
    assert stored["index"].tolist() == [3, 40, 41, 42]
    for index, image in zip(stored["index"], stored["samples"], strict=True):
        assert (pixels(tmp_path / f"{index:06d}.png") == image[..., 0]).all()


def test_predict_with_chooses_the_weights(realuid, tmp_path):
    for name in ("raw", "ema_0.99"):
        predict(realuid, f"--model.predict_with={name}", "--writer.format=npz", f"--writer.folder={tmp_path / name}")
    raw, average = (np.load(tmp_path / name / "samples.npz")["samples"] for name in ("raw", "ema_0.99"))
    assert (raw != average).any()


def test_export_and_load_generator_give_what_predict_gives(demo, realuid, tmp_path):
    predict(realuid, "--writer.format=npz", f"--writer.folder={tmp_path}", "--data.predict_seeds=0-9")
    checkpoint = demo / "runs" / "demo" / "distil" / "checkpoints" / "last.ckpt"
    code, written = realuid("export", checkpoint, tmp_path / "generator.safetensors", "--ema=0.99")
    assert code == 0, written
    from realuid_lightning.data import LatentDataset

    z = LatentDataset(torch.arange(10), (1, 8, 8)).__getitems__(range(10)).z
    expected = torch.from_numpy(np.load(tmp_path / "samples.npz")["samples"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    for generator in (load_generator(checkpoint, ema=0.99), load_generator(tmp_path / "generator.safetensors")):
        assert not generator.training
        torch.testing.assert_close(generator(z).clamp(-1, 1), expected, rtol=0, atol=1.01 / 255)


def test_report_is_a_table_of_all_runs(realuid, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, written = realuid("report", "runs/demo")
    assert code == 0
    for word in ("teacher", "distil", "ema_0.999_steps_50", "digits classifier (64)", "held-out real data", "Gaussian"):
        assert word in written


def test_configs_compose_and_every_field_can_be_overridden(tmp_path, realuid):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {init_args: {alpha: 0.9, beta: 0.94}}\ntrainer: {max_steps: 3}\n")
    words = ["fit", "-c", CONFIGS / "distil.yaml", "-c", overlay, "--model.beta=0.88", "--print_config"]
    code, written = realuid(*words)
    assert code == 0
    merged = yaml.safe_load(written)
    assert merged["trainer"]["max_steps"] == 3
    assert (merged["model"]["init_args"]["alpha"], merged["model"]["init_args"]["beta"]) == (0.9, 0.88)
    assert merged["model"]["init_args"]["fake_steps"] == 5


def test_defaults_can_be_printed_and_read_back(tmp_path, realuid):
    config = tmp_path / "config.yaml"
    for module, optimizer in (("TeacherModule", "optimizer"), ("RealUIDModule", "fake_optimizer")):
        network = {"class_path": "realuid_lightning.networks.MLP", "init_args": {"shape": [1, 8, 8]}}
        options = {"network": network} | ({"teacher_ckpt": None} if module == "RealUIDModule" else {})
        data = {"class_path": "MatchingDataModule", "init_args": {"source": "Digits", "batch_size": 8}}
        written = {"model": {"class_path": module, "init_args": options}, "data": data}
        for _ in range(2):
            config.write_text(yaml.safe_dump(written))
            code, printed = realuid("fit", "-c", config, "--print_config")
            assert code == 0
            earlier, written = written, yaml.safe_load(printed)
        assert written == earlier
        assert written["model"]["init_args"][optimizer]["init_args"]["lr"] > 0


def test_help_needs_neither_torch_nor_lightning():
    script = "from realuid_lightning.cli import main; main(['--help'])"
    script += "; import sys; print({'torch', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert "realuid fit --config" in done.stdout


def test_the_console_script_runs_as_a_process_of_its_own(demo, realuid):
    """Exit codes, warnings and streams as the shell sees them."""
    words = ["fit", "--config", str(CONFIGS / "teacher.yaml"), *SMALL, "--trainer.max_steps=2", "--data.batch_size=16"]
    words += ["--trainer.val_check_interval=2", "--data.eval_samples=16", "--trainer.default_root_dir=runs/process"]
    done = subprocess.run([REALUID, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr + done.stdout
    assert (demo / "runs" / "process" / "checkpoints" / "last.ckpt").is_file()
    code, written = realuid(*words)  # in this process, which is quicker
    assert code == 2
    assert "--ckpt_path last" in written
    assert "Traceback" not in written


@pytest.mark.parametrize("logger", ["CSVLogger", "false"])
def test_the_run_folder_holds_the_run_whatever_the_logger(demo, realuid, logger):
    run = f"runs/logged-{logger}"
    words = ["--config", CONFIGS / "distil.yaml", *SMALL, "--data.batch_size=16", "--data.eval_samples=16"]
    words += ["--trainer.val_check_interval=1", "--trainer.log_every_n_steps=1", f"--trainer.default_root_dir={run}"]
    words += [f"--trainer.logger={logger}"] + [f"--trainer.logger.save_dir={run}"] * (logger != "false")
    for steps in (1, 2):
        code, written = realuid("fit", *words, f"--trainer.max_steps={steps}", *["--ckpt_path=last"] * (steps > 1))
        assert code == 0, written
    for name in ("checkpoints/last.ckpt", "figures.jsonl", "config.yaml", "samples/raw/step_00000002.png"):
        assert (demo / run / name).is_file()


def test_fast_dev_run_leaves_nothing_behind(demo, realuid):
    words = [
        "--config",
        CONFIGS / "distil.yaml",
        *SMALL,
        "--trainer.default_root_dir=runs/fast",
        "--data.eval_samples=16",
    ]
    code, written = realuid("fit", *words, "--trainer.fast_dev_run=true")
    assert code == 0, written
    assert not list((demo / "runs").glob("fast/checkpoints/*"))


def test_best_is_the_checkpoint_with_the_least_distance(demo, realuid):
    run = demo / "runs" / "monitored"
    words = ["--config", CONFIGS / "distil.yaml", *SMALL, "--data.batch_size=16", "--data.eval_samples=40"]
    words += [f"--trainer.default_root_dir={run}"]
    training = ["--checkpoint.monitor=fid/raw", "--trainer.max_steps=4", "--trainer.val_check_interval=1"]
    assert realuid("fit", *words, *training)[0] == 0
    measured = measurements(run)
    best = min((row for row in measured if row["sampler"] == "raw"), key=lambda row: row["figures"]["fid"])
    assert [file.name for file in (run / "checkpoints").glob("best*")] == [f"best_step_{best['step']:08d}.ckpt"]
    code, written = realuid("validate", *words, "--ckpt_path=best")
    assert code == 0, written
    again = measurements(run)[len(measured) :]
    assert next(row["figures"]["fid"] for row in again if row["sampler"] == "raw") == pytest.approx(
        best["figures"]["fid"], rel=1e-9
    )
    code, written = realuid("validate", *words[:-1], "--trainer.default_root_dir=runs/demo/distil", "--ckpt_path=best")
    assert code == 2
    assert "monitors nothing" in written


def test_a_checkpoint_that_is_measured_again_keeps_its_step(demo, realuid):
    words = ["--config", CONFIGS / "distil.yaml", *SMALL, "--data.eval_samples=40", "--ckpt_path=last"]
    run = demo / "runs" / "demo" / "distil"
    before = len(measurements(run))
    for command in ("validate", "test"):
        assert realuid(command, *words)[0] == 0
    again = measurements(run)[before:]
    assert {row["step"] for row in again} == {4}
    assert not list(run.glob("samples/*/step_00000000.png"))


def test_a_figure_tells_how_many_samples_were_measured(demo, realuid):
    words = ["--config", CONFIGS / "distil.yaml", *SMALL, "--data.eval_samples=40", "--model.eval_batch_size=16"]
    words += ["--trainer.default_root_dir=runs/limited", "--trainer.limit_val_batches=1"]
    assert realuid("validate", *words)[0] == 0
    (row, *_) = measurements(demo / "runs" / "limited")
    assert row["protocol"]["samples"] == 16


def test_several_seeds_are_measured_against_one_reference(demo, realuid, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    asked = []
    monkeypatch.setattr(RealSide, "reference", lambda *args, ask=RealSide.reference: asked.append(0) or ask(*args))
    words = ["--config", CONFIGS / "distil.yaml", *SMALL, "--data.eval_samples=24", "--data.eval_seed=3", "--seeds=3"]
    run, place = demo / "runs" / "seeds", "--trainer.default_root_dir=runs/seeds"
    code, written = realuid("validate", *words, place, "--ckpt_path=runs/demo/distil/checkpoints/last.ckpt")
    assert code == 0, written
    assert len(asked) == 1
    rows = [row for row in measurements(run) if row["sampler"] == "raw"]
    assert [row["protocol"]["seed"] for row in rows] == [3, 4, 5]
    assert len({row["figures"]["fid"] for row in rows}) == 3
    assert {row["floor"]["fid"] for row in rows} == {rows[0]["floor"]["fid"]}
    assert "Mean and standard error over the latents of seeds 3 to 5" in written
    column = [row["figures"]["fid"] for row in rows]
    assert f"{fmean(column):.4g} ± {stdev(column) / 3**0.5:.2g}" in written
    code, written = realuid("validate", *words, place, "--data.eval_seed=4294967295")
    assert code == 2
    assert "below 2^32" in written


def test_progress_and_checkpoints_can_be_switched_off(demo, realuid):
    words = ["--config", CONFIGS / "teacher.yaml", *SMALL, "--data.eval_samples=40", "--trainer.max_steps=1"]
    words += ["--trainer.default_root_dir=runs/bare", "--model.schedule.warmup=0", "--trainer.limit_val_batches=0"]
    off = ["--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"]
    code, written = realuid("fit", *words, *off)
    assert code == 0, written
    assert "Updates" not in written
    assert not (demo / "runs" / "bare" / "checkpoints").exists()


@pytest.mark.parametrize("checkpoints", ["true", "false"])
def test_a_run_folder_that_is_in_use_is_refused(demo, realuid, monkeypatch, checkpoints):
    def held(*_):
        raise BlockingIOError(errno.EAGAIN, "held by another")

    monkeypatch.setattr("realuid_lightning.running.folder_lock.TIMEOUT", 0.0)
    monkeypatch.setattr("realuid_lightning.running.folder_lock.fcntl.lockf", held)
    words = ["--config", CONFIGS / "teacher.yaml", *SMALL, "--trainer.default_root_dir=runs/used"]
    code, written = realuid("fit", *words, f"--trainer.enable_checkpointing={checkpoints}")
    assert code == 2
    assert "runs/used is in use by another process" in written


def test_evaluation_without_a_checkpoint_says_so(realuid, caplog):
    words = ["--config", CONFIGS / "distil.yaml", *SMALL, "--data.predict_seeds=0", "--writer.folder=start"]
    with caplog.at_level("INFO"):
        assert realuid("predict", *words)[0] == 0
    assert "no --ckpt_path" in caplog.text


def test_a_terminated_run_does_not_count_as_a_success(demo):
    words = ["fit", "--config", str(CONFIGS / "distil.yaml"), *SMALL, "--trainer.default_root_dir=runs/ended"]
    words += ["--trainer.max_steps=1000000", "--trainer.val_check_interval=1000000", "--checkpoint.every=1"]
    process = processes.Process(REALUID, words, os.environ | {"OMP_NUM_THREADS": "1"}, demo)
    try:
        while process.poll() is None and not (demo / "runs" / "ended" / "checkpoints" / "last.ckpt").exists():
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()


def test_the_report_survives_a_cut_line_and_tells_the_last_step(tmp_path, realuid):
    rows = [figure(step, fid=step / 10) | {"better": {"fid": "min"}} for step in (4, 8, 4)]
    (tmp_path / "figures.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 12, "samp')
    code, written = realuid("report", tmp_path)
    assert code == 0
    assert " 0.8 " in written
    assert " 0.4 " in written


def test_the_report_names_runs_by_their_place(tmp_path, realuid, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    row = figure(fid=0.00012345)
    for place in ("edm/digits", "vp/digits"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "figures.jsonl").write_text(json.dumps(row))
    code, written = realuid("report", tmp_path)
    assert code == 0
    assert all(word in written for word in ("edm/digits", "vp/digits", "0.0001234"))
    _, written = realuid("report", tmp_path / "vp" / "digits")
    assert "│ digits " in written
