"""A run from Python is that of the command line: the same files, the same numbers, as safe."""

import signal
import sys
from pathlib import Path

import pytest
import torch
from helpers import Counting, measurements, same, trainer
from lightning import Callback, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import Adam

from realuid_lightning import MatchingDataModule, TeacherModule, default_callbacks
from realuid_lightning.checkpoints import AtomicCheckpointIO
from realuid_lightning.cli import main
from realuid_lightning.data import Digits
from realuid_lightning.metrics import FID, PRDC, ClassifierFeatures, RawFeatures
from realuid_lightning.networks import MLP
from realuid_lightning.optimizers import LinearDecay
from realuid_lightning.running import Stopped

TEACHER = Path(__file__).parents[2] / "configs" / "demo" / "teacher.yaml"
WORDS = ["--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.enable_model_summary=false"]
WORDS += ["--model.network.width=32", "--data.batch_size=16", "--data.eval_samples=40"]
EVERY = {"val_check_interval": 2, "check_val_every_n_epoch": None}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The folder of a run by the command line."""
    folder = tmp_path_factory.mktemp("told") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
        patch.setattr(
            sys, "argv", ["realuid", "fit", f"--config={TEACHER}", *WORDS, f"--trainer.default_root_dir={folder}"]
        )
        assert main() == 0
    return folder


def fit(folder, *callbacks, steps=4, ckpt=None):
    """The same run by Python."""
    seed_everything(0, verbose=False)
    module = TeacherModule(
        MLP([1, 8, 8], width=32, depth=3),
        optimizer=lambda parameters: Adam(parameters, lr=1e-3, fused=True),
        schedule=lambda optimizer: LinearDecay(optimizer, steps=3000, warmup=100),
        evaluate=["ema_0.999_steps_1", "ema_0.999_steps_50"],
        eval_batch_size=256,
    )
    callbacks = [*default_callbacks(ClassifierFeatures("digits"), [FID(), PRDC()], progress=False), *callbacks]
    logger = TensorBoardLogger(folder, name="", version="")
    run = trainer(folder, max_steps=steps, callbacks=callbacks, logger=logger, log_every_n_steps=50, **EVERY)
    halves = {"reference": Digits("even"), "held_out": Digits("odd")}
    run.fit(module, MatchingDataModule(Digits(), batch_size=16, eval_samples=40, **halves), ckpt_path=ckpt)
    return run


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same(folder, other):
    one, two = last(folder), last(other)
    assert same(one["state_dict"], two["state_dict"])
    moments = [content["optimizer_states"][0]["state"] for content in (one, two)]
    torch.testing.assert_close(*moments, rtol=0, atol=0)
    assert measurements(folder) == measurements(other)


@pytest.fixture
def run_folder(tmp_path):
    """A folder of its own: the cache of the tests lies beside it."""
    return tmp_path / "run"


def files(folder):
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {str(file) for file in found if not file.name.startswith("events.")} - {"hparams.yaml"}


def test_it_leaves_the_files_of_the_command_line(told, run_folder):
    run = fit(run_folder)
    assert type(run.strategy.checkpoint_io) is AtomicCheckpointIO
    assert files(run_folder) == files(told) - {"config.yaml"}
    assert len(list(run_folder.glob("events.*"))) == len(list(told.glob("events.*"))) == 1
    assert_same(run_folder, told)


class Stop(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            signal.raise_signal(signal.SIGTERM)


def test_stopped_by_a_signal_it_goes_on_from_the_last_checkpoint(told, run_folder):
    with pytest.raises(Stopped) as left:
        fit(run_folder, Stop())
    assert left.value.code == 128 + signal.SIGTERM
    assert last(run_folder)["global_step"] == 3
    fit(run_folder, ckpt="last")
    assert_same(run_folder, told)


def test_last_is_the_newest_whole_checkpoint_and_none_is_a_beginning(run_folder):
    with pytest.warns(UserWarning, match="there is no last checkpoint available"):
        fit(run_folder, steps=2, ckpt="last")
    folder = run_folder / "checkpoints"
    (folder / "last.ckpt").rename(folder / "best_step_00000002.ckpt")
    (folder / "last.ckpt").write_bytes(b"cut off")
    with pytest.warns(UserWarning, match="Going on from best_step_00000002.ckpt"):
        fit(run_folder, steps=4, ckpt="last")
    assert last(run_folder)["global_step"] == 4


def test_every_option_reaches_its_callback():
    features = RawFeatures([2])
    made = default_callbacks(features, grid=9, monitor="fid/raw", mode="max", every=7)
    of = {type(callback).__name__: callback for callback in made}
    assert of["MetricsCallback"].features is features
    assert of["SampleGrid"].count == 9
    saver = of["RunCheckpoint"]
    assert (saver.monitor, saver.mode, saver.every) == ("fid/raw", "max", 7)
    rest = {type(callback).__name__ for callback in default_callbacks(features, progress=False)}
    assert of.keys() - rest == {"MatchingProgressBar"}


def test_a_plugin_of_the_users_own_is_kept(tmp_path):
    class Own(AtomicCheckpointIO):
        pass

    run = trainer(tmp_path, callbacks=default_callbacks(RawFeatures([2]), progress=False), plugins=[Own()])
    for callback in run.callbacks:
        if type(callback).__name__ == "AtomicCheckpoints":
            callback.setup(run, Counting(), "fit")
    assert type(run.strategy.checkpoint_io) is Own
