import pytest
import torch
from helpers import Counting, trainer
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from realuid_lightning.checkpoints import AtomicCheckpointIO
from realuid_lightning.errors import UserError
from realuid_lightning.running import RunCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")


class Logging(Counting):
    """Validation logs the figures that it was given."""

    def __init__(self, figures=()):
        super().__init__()
        self.figures = list(figures)

    def validation_step(self, batch, _):
        del batch
        self.log("figure", self.figures.pop(0))


def fit(folder, module, callback, steps, ckpt_path=None, **options):
    train, validation = DataLoader(torch.ones(100), batch_size=1), DataLoader(torch.ones(1))
    options = {"max_steps": steps, "limit_val_batches": 0, "check_val_every_n_epoch": None, **options}
    run = trainer(folder, callbacks=[callback], **options)
    run.fit(module, train, validation, ckpt_path=ckpt_path)
    return run


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
    fit(tmp_path, Logging(), RunCheckpoint(), 5)
    assert saved(tmp_path) == {"last.ckpt": 5}


def test_every_says_when_the_newest_state_is_written(tmp_path, watched):
    fit(tmp_path, Logging(), RunCheckpoint(every=2), 5)
    assert watched == [2, 4, 5]
    assert saved(tmp_path) == {"last.ckpt": 5}


def test_validation_writes_the_newest_state_without_a_monitor(tmp_path, watched):
    fit(tmp_path, Logging([1.0, 2.0]), RunCheckpoint(), 5, val_check_interval=2, limit_val_batches=1)
    assert watched == [2, 4, 5]
    assert saved(tmp_path) == {"last.ckpt": 5}


@pytest.mark.parametrize("every", [None, 1, 2, 3])
def test_the_best_is_kept_by_the_monitor_whatever_every_is(tmp_path, every):
    callback = RunCheckpoint(monitor="figure", every=every)
    fit(tmp_path, Logging([3.0, 1.0, 2.0]), callback, 7, val_check_interval=2, limit_val_batches=1)
    assert saved(tmp_path) == {"best_step_00000004.ckpt": 4, "last.ckpt": 7}
    assert best_of(tmp_path).endswith("best_step_00000004.ckpt")


def test_last_knows_the_best_right_after_validation(tmp_path):
    callback = RunCheckpoint(monitor="figure", every=2)
    fit(tmp_path, Logging([3.0, 1.0]), callback, 4, val_check_interval=2, limit_val_batches=1)
    assert best_of(tmp_path).endswith("best_step_00000004.ckpt")


@pytest.mark.parametrize(
    ("mode", "keep", "kept"), [("max", 1, {2}), ("min", 2, {4, 6}), ("min", -1, {2, 4, 6}), ("min", 0, set())]
)
def test_mode_and_keep(tmp_path, mode, keep, kept):
    callback = RunCheckpoint(monitor="figure", mode=mode, keep=keep)
    fit(tmp_path, Logging([3.0, 1.0, 2.0]), callback, 6, val_check_interval=2, limit_val_batches=1)
    assert saved(tmp_path) == {f"best_step_{step:08d}.ckpt": step for step in kept} | {"last.ckpt": 6}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_resuming_goes_on_in_the_same_files(tmp_path):
    options = {"val_check_interval": 2, "limit_val_batches": 1}
    fit(tmp_path, Logging([3.0, 1.0]), RunCheckpoint(monitor="figure", every=1), 4, **options)
    last = tmp_path / "checkpoints" / "last.ckpt"
    fit(tmp_path, Logging([2.0]), RunCheckpoint(monitor="figure", every=1), 7, ckpt_path=last, **options)
    assert saved(tmp_path) == {"best_step_00000004.ckpt": 4, "last.ckpt": 7}
    assert best_of(tmp_path).endswith("best_step_00000004.ckpt")


def test_a_used_folder_is_refused(tmp_path):
    fit(tmp_path, Logging(), RunCheckpoint(), 2)
    with pytest.raises(UserError, match=r"--ckpt_path last.*--trainer.default_root_dir"):
        fit(tmp_path, Logging(), RunCheckpoint(), 2)


def test_what_a_killed_write_left_does_not_make_a_folder_used(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.17.ckpt").write_bytes(b"half a checkp")
    fit(tmp_path, Logging(), RunCheckpoint(), 1)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_an_unknown_monitor_is_told_with_the_known_ones_and_costs_nothing(tmp_path):
    with pytest.raises(UserError, match=r"monitor.*fid/raw.*figure"):
        fit(tmp_path, Logging([1.0]), RunCheckpoint(monitor="fid/raw"), 4, val_check_interval=2, limit_val_batches=1)
    assert saved(tmp_path) == {"last.ckpt": 2}


def test_a_trial_run_writes_nothing(tmp_path):
    fit(tmp_path, Logging([1.0]), RunCheckpoint(monitor="figure", every=1), 4, fast_dev_run=True, limit_val_batches=1)
    assert not (tmp_path / "checkpoints").exists()


def test_all_faults_are_told():
    with pytest.raises(UserError) as caught:
        RunCheckpoint(monitor="figure", keep=-2, every=0)
    assert "keep must be" in str(caught.value)
    assert "every must be" in str(caught.value)


def test_the_best_so_far_goes_on_only_for_the_same_metric_and_mode(tmp_path):
    (tmp_path / "best_step_00000002.ckpt").touch()
    before = RunCheckpoint(monitor="fid/raw")
    before.best_k_models = {str(tmp_path / "best_step_00000002.ckpt"): torch.tensor(2.0)}
    for options, kept in [({"monitor": "fid/raw"}, 2.0), ({"monitor": "loss"}, None), ({"mode": "max"}, None)]:
        callback = RunCheckpoint(**{"monitor": "fid/raw", **options})
        callback.dirpath = str(tmp_path)
        assert callback.state_key == before.state_key
        callback.load_state_dict(before.state_dict())
        assert callback.best_model_score == kept


VALIDATED = {"val_check_interval": 2, "limit_val_batches": 1}


@pytest.fixture
def chosen(tmp_path):
    """A run whose best checkpoint is that of step 2."""
    fit(tmp_path / "run", Logging([1.0, 3.0]), RunCheckpoint(monitor="figure"), 5, **VALIDATED)
    assert set(saved(tmp_path / "run")) == {"best_step_00000002.ckpt", "last.ckpt"}
    return tmp_path / "run"


def resume(folder, figures, checkpoint=None, **options):
    last = checkpoint or folder / "checkpoints" / "last.ckpt"
    callback = RunCheckpoint(**{"monitor": "figure", **options})
    fit(folder, Logging(figures), callback, 5 + 2 * len(figures), ckpt_path=last, **VALIDATED)
    return callback


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("how", ["moved", "spelled otherwise", "by a link", "as it was saved before"])
def test_the_best_is_remembered_wherever_the_run_folder_is(chosen, monkeypatch, how):
    monkeypatch.chdir(chosen.parent)
    folder = chosen.relative_to(chosen.parent)  # it was absolute
    if how == "moved":
        folder = chosen.rename(chosen.with_name("elsewhere"))
    elif how == "by a link":
        (folder := chosen.with_name("link")).symlink_to(chosen)
    elif how == "as it was saved before":  # with whole paths, of another machine
        content = torch.load(chosen / "checkpoints" / "last.ckpt")
        place = "/home/me/run/checkpoints/best_step_00000002.ckpt"
        state = {"best_k_models": {place: torch.tensor(1.0)}, "best_model_path": place, "best_model_score": 1.0}
        content["callbacks"]["RunCheckpoint"] = {**state, "monitor": "figure", "dirpath": "/home/me/run/checkpoints"}
        torch.save(content, chosen / "checkpoints" / "last.ckpt")
    callback = resume(folder, [2.0])
    assert set(saved(folder)) == {"best_step_00000002.ckpt", "last.ckpt"}  # 2.0 is worse than 1.0
    assert callback.best_model_score == 1.0
    assert resume(folder, [0.5, 0.7]).best_model_score == 0.5
    assert set(saved(folder)) == {"best_step_00000008.ckpt", "last.ckpt"}  # and the former best is deleted


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_run_that_begins_elsewhere_from_a_checkpoint_has_no_best_yet(chosen, tmp_path):
    resume(tmp_path / "fork", [2.0], chosen / "checkpoints" / "last.ckpt")
    assert set(saved(tmp_path / "fork")) == {"best_step_00000006.ckpt", "last.ckpt"}
    assert set(saved(chosen)) == {"best_step_00000002.ckpt", "last.ckpt"}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(
    "place",
    [
        *("{victim}", "{run}/checkpoints/../../victim", "../../victim", "/etc/passwd", "..", "", "."),
        *("{run}/checkpoints/sub", "best_step_00000001.ckpt", "{victim}/best_step_00000001.ckpt", 7),
    ],
)
def test_a_strangers_checkpoint_deletes_nothing(chosen, tmp_path, place):
    """Its state names what is to make room for the first better model: folders outside, and folders within."""
    victim = tmp_path / "victim"
    for folder in (victim, chosen / "checkpoints" / "sub", chosen / "checkpoints" / "best_step_00000001.ckpt"):
        folder.mkdir()
        (folder / "precious").touch()
    (victim / "best_step_00000001.ckpt").touch()
    place = place.format(victim=victim, run=chosen) if isinstance(place, str) else place
    content = torch.load(chosen / "checkpoints" / "last.ckpt")
    content["callbacks"]["RunCheckpoint"] = {
        "monitor": "figure",
        "dirpath": str(chosen / "checkpoints"),
        "best_k_models": {place: torch.tensor(9.0)},
        **dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), place),
        **dict.fromkeys(("best_model_score", "kth_value", "current_score"), torch.tensor(9.0)),
    }
    torch.save(content, chosen / "checkpoints" / "last.ckpt")
    before = {file for file in tmp_path.rglob("*") if "00000006" not in file.name}
    resume(chosen, [0.5])
    assert before - set(tmp_path.rglob("*")) == set()
    assert torch.load(chosen / "checkpoints" / "last.ckpt")["global_step"] == 7


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("state", [{}, {"monitor": "figure"}, {"monitor": "figure", "best_k_models": [1]}])
def test_a_state_that_lacks_fields_is_no_failure(chosen, state):
    content = torch.load(chosen / "checkpoints" / "last.ckpt")
    content["callbacks"]["RunCheckpoint"] = state
    torch.save(content, chosen / "checkpoints" / "last.ckpt")
    assert resume(chosen, [0.5]).best_model_score == 0.5


def test_checkpoints_are_deleted_as_files_only(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name in ("folder", "file", "gone"):
        AtomicCheckpointIO().remove_checkpoint(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]
