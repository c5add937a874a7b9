"""Loggers named in a config, and nothing else, get figures, pictures and the config's options, without secrets."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import measurements
from PIL import Image

from realuid_lightning.reporting.scalars import read_scalars

DEMO = Path(__file__).parents[2] / "configs" / "demo" / "teacher.yaml"
SMALL = {
    "trainer": {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1, "enable_model_summary": False},
    "model": {"init_args": {"network": {"class_path": "MLP", "init_args": {"width": 16}}}},
    "data": {"init_args": {"batch_size": 8, "eval_samples": 10}},
}


def fit(realuid, folder, *loggers):
    """Train two steps, and return the figures that were measured last."""
    trainer = {**SMALL["trainer"], "default_root_dir": str(folder), "logger": list(loggers)}
    (folder.parent / "small.yaml").write_text(yaml.safe_dump({**SMALL, "trainer": trainer}))
    code, written = realuid("fit", "--config", DEMO, "--config", folder.parent / "small.yaml")
    assert code == 0, written
    return {f"{name}/{row['sampler']}": value for row in measurements(folder) for name, value in row["figures"].items()}


def logger(name, folder, **options):
    return {"class_path": f"lightning.pytorch.loggers.{name}", "init_args": {"save_dir": str(folder), **options}}


def test_tensorboard_and_csv(realuid, tmp_path):
    run = tmp_path / "run"
    figures = fit(realuid, run, logger("TensorBoardLogger", run / "board"), logger("CSVLogger", run / "table"))
    logged = read_scalars(run / "board")
    (table,) = run.rglob("metrics.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for name, value in figures.items():
        assert list(logged[name].values()) == [pytest.approx(value, rel=1e-6)]
        assert [float(row[name]) for row in rows if row[name]] == [pytest.approx(value, rel=1e-6)]
    assert "train/loss" in logged
    (options,) = (run / "table").rglob("hparams.yaml")
    assert yaml.unsafe_load(options.read_text())["data"]["init_args"]["batch_size"] == 8
    (events,) = run.rglob("events*")
    content = events.read_bytes()  # its records hold names and pictures as they are
    assert b"data/init_args/batch_size" in content
    assert all(f"samples/{name}".encode() in content for name in ("ema_0.999_steps_1", "ema_0.999_steps_50"))


def test_weights_and_biases_offline(realuid, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    run, notes = tmp_path / "run", "https://me:sesame@example.org"
    loggers = logger("WandbLogger", tmp_path, offline=True, notes=notes), logger("CSVLogger", run)
    figures = fit(realuid, run, *loggers)
    wandb.teardown()  # as at the end of the process
    (record,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = record.read_bytes()  # its records hold names and JSON values as they are
    numbers = [float(number) for number in re.findall(rb"-?\d+(?:\.\d+)?(?:e-?\d+)?", content)]
    for name, value in figures.items():
        assert name.encode() in content
        assert any(number == pytest.approx(value, rel=1e-5) for number in numbers), name
    assert b'"batch_size":8' in content
    drawn = sorted((tmp_path / "wandb").glob("offline-run-*/files/media/images/samples/*.png"))
    stored = sorted(run.glob("samples/*/*.png"))
    assert len(drawn) == len(stored) == 2
    pixels = [{np.asarray(Image.open(file)).tobytes() for file in files} for files in (drawn, stored)]
    assert pixels[0] == pixels[1]
    (options,) = run.rglob("hparams.yaml")
    assert notes in (run / "config.yaml").read_text()
    assert "https://(hidden)@example.org" in options.read_text()
