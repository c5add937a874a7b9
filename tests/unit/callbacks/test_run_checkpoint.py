import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from realuid_lightning.callbacks import RunCheckpoint
from realuid_lightning.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")


class Counting(LightningModule):
    """Its weight is the number of steps; validation logs the figures that it was given."""

    def __init__(self, figures=()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.figures = list(figures)

    def training_step(self, batch, _):
        return -self.weight * batch.mean()

    def validation_step(self, batch, _):
        del batch
        self.log("figure", self.figures.pop(0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


def fit(folder, module, callback, steps, ckpt_path=None, **options):
    train, validation = DataLoader(torch.ones(100), batch_size=1), DataLoader(torch.ones(1))
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        max_steps=steps,
        callbacks=[callback],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        **{"limit_val_batches": 0, **options},
    )
    trainer.fit(module, train, validation, ckpt_path=ckpt_path)
    return trainer


def saved(folder):
    """Return the step of every checkpoint, by file name."""
    found = {}
    for file in (folder / "checkpoints").iterdir():
        content = torch.load(file)
        assert content["state_dict"]["weight"] == content["global_step"]
        found[file.name] = content["global_step"]
    return found


def best_of(folder, name="last.ckpt"):
    states = torch.load(folder / "checkpoints" / name)["callbacks"]
    return next(state["best_model_path"] for key, state in states.items() if key.startswith("RunCheckpoint"))


@pytest.fixture
def watched(monkeypatch):
    """Note the step at every writing of last.ckpt."""
    steps = []
    save = Trainer.save_checkpoint

    def noting(self, path, *args, **kwargs):
        if str(path).endswith("last.ckpt"):
            steps.append(self.global_step)
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(Trainer, "save_checkpoint", noting)
    return steps


def test_the_final_step_is_saved_without_any_validation(tmp_path):
    fit(tmp_path, Counting(), RunCheckpoint(), 5)
    assert saved(tmp_path) == {"last.ckpt": 5}


def test_every_says_when_the_newest_state_is_written(tmp_path, watched):
    fit(tmp_path, Counting(), RunCheckpoint(every=2), 5)
    assert watched == [2, 4, 5]
    assert saved(tmp_path) == {"last.ckpt": 5}


def test_validation_writes_the_newest_state_without_a_monitor(tmp_path, watched):
    fit(tmp_path, Counting([1.0, 2.0]), RunCheckpoint(), 5, val_check_interval=2, limit_val_batches=1)
    assert watched == [2, 4, 5]
    assert saved(tmp_path) == {"last.ckpt": 5}


@pytest.mark.parametrize("every", [None, 1, 2, 3])
def test_the_best_is_kept_by_the_monitor_whatever_every_is(tmp_path, every):
    callback = RunCheckpoint(monitor="figure", every=every)
    fit(tmp_path, Counting([3.0, 1.0, 2.0]), callback, 7, val_check_interval=2, limit_val_batches=1)
    assert saved(tmp_path) == {"best_step_00000004.ckpt": 4, "last.ckpt": 7}
    assert best_of(tmp_path).endswith("best_step_00000004.ckpt")


def test_last_knows_the_best_right_after_validation(tmp_path):
    callback = RunCheckpoint(monitor="figure", every=2)
    fit(tmp_path, Counting([3.0, 1.0]), callback, 4, val_check_interval=2, limit_val_batches=1)
    assert best_of(tmp_path).endswith("best_step_00000004.ckpt")


@pytest.mark.parametrize(
    ("mode", "keep", "kept"), [("max", 1, {2}), ("min", 2, {4, 6}), ("min", -1, {2, 4, 6}), ("min", 0, set())]
)
def test_mode_and_keep(tmp_path, mode, keep, kept):
    callback = RunCheckpoint(monitor="figure", mode=mode, keep=keep)
    fit(tmp_path, Counting([3.0, 1.0, 2.0]), callback, 6, val_check_interval=2, limit_val_batches=1)
    assert saved(tmp_path) == {f"best_step_{step:08d}.ckpt": step for step in kept} | {"last.ckpt": 6}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_resuming_goes_on_in_the_same_files(tmp_path):
    options = {"val_check_interval": 2, "limit_val_batches": 1}
    fit(tmp_path, Counting([3.0, 1.0]), RunCheckpoint(monitor="figure", every=1), 4, **options)
    last = tmp_path / "checkpoints" / "last.ckpt"
    fit(tmp_path, Counting([2.0]), RunCheckpoint(monitor="figure", every=1), 7, ckpt_path=last, **options)
    assert saved(tmp_path) == {"best_step_00000004.ckpt": 4, "last.ckpt": 7}
    assert best_of(tmp_path).endswith("best_step_00000004.ckpt")


def test_a_used_folder_is_refused(tmp_path):
    fit(tmp_path, Counting(), RunCheckpoint(), 2)
    with pytest.raises(UserError, match=r"--ckpt_path last.*--trainer.default_root_dir"):
        fit(tmp_path, Counting(), RunCheckpoint(), 2)


def test_what_a_killed_write_left_does_not_make_a_folder_used(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.17.ckpt").write_bytes(b"half a checkp")
    fit(tmp_path, Counting(), RunCheckpoint(), 1)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_an_unknown_monitor_is_told_with_the_known_ones_and_costs_nothing(tmp_path):
    with pytest.raises(UserError, match=r"monitor.*fid/raw.*figure"):
        fit(tmp_path, Counting([1.0]), RunCheckpoint(monitor="fid/raw"), 4, val_check_interval=2, limit_val_batches=1)
    assert saved(tmp_path) == {"last.ckpt": 2}


def test_a_trial_run_writes_nothing(tmp_path):
    fit(tmp_path, Counting([1.0]), RunCheckpoint(monitor="figure", every=1), 4, fast_dev_run=True, limit_val_batches=1)
    assert not (tmp_path / "checkpoints").exists()


def test_all_faults_are_told():
    with pytest.raises(UserError) as caught:
        RunCheckpoint(monitor="figure", keep=-2, every=0)
    assert "keep must be" in str(caught.value)
    assert "every must be" in str(caught.value)


def test_the_best_so_far_goes_on_only_for_the_same_metric():
    before = RunCheckpoint(monitor="fid/raw")
    before.dirpath = "runs"
    before.best_model_score = torch.tensor(2.0)
    same, other = RunCheckpoint(monitor="fid/raw"), RunCheckpoint(monitor="loss")
    for callback in (same, other):
        callback.dirpath = "runs"
        assert callback.state_key == before.state_key
        callback.load_state_dict(before.state_dict())
    assert same.best_model_score == 2.0
    assert other.best_model_score is None
