"""What a run ran on, and how long it took, is kept beside it."""

import json
import sys

import pytest
from helpers import fit, mlp, points, trainer
from lightning import Callback

from realuid_lightning.modules import TeacherModule
from realuid_lightning.reporting.costs import cost
from realuid_lightning.running import FitRecord, RunCheckpoint


def train(folder, steps, **options):
    module = TeacherModule(mlp((3,)), evaluate=["raw_steps_50"])
    return fit(module, points(eval_samples=4), folder, steps, callbacks=[FitRecord(), RunCheckpoint()], **options)


def entries(folder):
    return json.loads((folder / "fits.json").read_text())


def test_every_fit_of_a_run_has_an_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/realuid", "fit", "--logger.api_key", "sesame", "--steps=2"])
    train(tmp_path, 2, limit_val_batches=1, val_check_interval=1, check_val_every_n_epoch=None)
    train(tmp_path, 3, ckpt=str(tmp_path / "checkpoints" / "last.ckpt"))
    first, second = entries(tmp_path)
    assert [first["from_step"], first["to_step"], second["from_step"], second["to_step"]] == [0, 2, 2, 3]
    assert first["command"] == ["realuid", "fit", "--logger.api_key", "(hidden)", "--steps=2"]
    assert first["validation_seconds"] > 0 == second["validation_seconds"]
    assert first["training_seconds"] > 0
    assert first["peak_memory"] is None
    assert "torch" in first["versions"]
    assert "cores" in first["devices"]
    told = cost([first, second])
    assert told["steps"] == "3"
    assert told["command"] == "realuid fit --logger.api_key '(hidden)' --steps=2"
    assert {"time of a step", "training", "validation", "python", "realuid_lightning"} <= set(told)


class Failing(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            raise RuntimeError("the end")


def test_a_run_that_fails_tells_how_far_it_came(tmp_path):
    run = trainer(tmp_path, callbacks=[FitRecord(), Failing()], max_steps=5, limit_val_batches=0)
    with pytest.raises(RuntimeError, match="the end"):
        run.fit(TeacherModule(mlp((3,))), points())
    (entry,) = entries(tmp_path)
    assert (entry["from_step"], entry["to_step"]) == (0, 2)


@pytest.mark.parametrize("content", ["{", "3", "[3, null]"])
def test_a_damaged_record_is_begun_anew(tmp_path, content):
    (tmp_path / "fits.json").write_text(content)
    train(tmp_path, 1)
    assert len(entries(tmp_path)) == 1


def test_nothing_is_recorded_of_a_trial_run(tmp_path):
    train(tmp_path, 1, fast_dev_run=True)
    assert not (tmp_path / "fits.json").exists()


def test_costs_leave_out_what_is_not_known():
    assert cost([]) == {}
    assert cost([{"to_step": "x", "training_seconds": -1, "peak_memory": 3 * 2**30, "versions": []}]) == {
        "peak memory of a device": "3.00 GiB"
    }
