import io
import traceback

import helpers
import pytest
import rich
import torch
from helpers import mlp
from lightning import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.running import MatchingProgressBar


class Watched(MatchingProgressBar):
    """Notes what is shown after each step."""

    def __init__(self, **options):
        super().__init__(**options)
        self.shown, self.reads = [], []

    def on_train_batch_end(self, trainer, *args):
        super().on_train_batch_end(trainer, *args)
        task = self.train_progress_bar
        self.shown.append((task.description, task.completed, task.total))

    def get_metrics(self, trainer, pl_module):
        items = super().get_metrics(trainer, pl_module)
        self.reads.append((trainer.global_step, items))
        return items


def fit(folder, module, bar, steps=6, ckpt_path=None, **options):
    options = {"callbacks": [bar], "enable_progress_bar": True, "log_every_n_steps": 2, **options}
    data = MatchingDataModule(Digits(), batch_size=4, eval_samples=8)
    return helpers.fit(module, data, folder, steps, ckpt_path, **options)


def student():
    return RealUIDModule(mlp(width=8), teacher_ckpt=None, fake_steps=1)


def test_the_bar_counts_generator_updates_up_to_the_last_step(tmp_path):
    bar = Watched()
    fit(tmp_path, student(), bar)
    assert bar.shown == [("Generator updates", step, 6) for step in range(1, 7)]


def test_the_bar_of_a_teacher_counts_updates(tmp_path):
    bar = Watched()
    fit(tmp_path, TeacherModule(mlp(width=8)), bar, steps=2)
    assert bar.shown == [("Updates", 1, 2), ("Updates", 2, 2)]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_resumed_bar_goes_on_where_the_first_one_stopped(tmp_path):
    trainer = fit(tmp_path, student(), Watched(), steps=3)
    trainer.save_checkpoint(tmp_path / "step.ckpt")
    bar = Watched()
    fit(tmp_path, student(), bar, steps=5, ckpt_path=tmp_path / "step.ckpt")
    assert bar.shown == [("Generator updates", 4, 5), ("Generator updates", 5, 5)]


def test_losses_are_shown_under_short_names_and_read_at_the_log_interval_only(tmp_path):
    bar = Watched()
    fit(tmp_path, student(), bar)
    assert {step for step, _ in bar.reads} == {2, 4, 6}
    assert set(bar.reads[-1][1]) == {"generator_loss", "fake_loss"}


class Reads(TorchDispatchMode):
    """Notes every value that is read from a tensor; on a GPU each would wait for all that is queued."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.found.append("".join(traceback.format_stack(limit=6)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("module", [student, lambda: TeacherModule(mlp(width=8))], ids=["student", "teacher"])
def test_steps_between_two_log_intervals_read_nothing(module, tmp_path):
    reads = Reads()

    class Watching(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 2:
                reads.__enter__()
            if trainer.global_step == 5:
                reads.__exit__(None, None, None)

    fit(tmp_path, module(), None, callbacks=[Watched(), Watching()], log_every_n_steps=50)
    assert reads.found == []


def test_nothing_is_read_when_nothing_is_logged(tmp_path):
    bar = Watched()
    fit(tmp_path, student(), bar, log_every_n_steps=0)
    assert bar.reads == []


def test_figures_are_shown_right_after_validation(tmp_path):
    class Measuring(RealUIDModule):
        def on_validation_epoch_end(self):
            self.log("fid/raw", 3.0, prog_bar=True)

    bar, module = Watched(), Measuring(mlp(width=8), teacher_ckpt=None, fake_steps=1)
    fit(tmp_path, module, bar, 3, limit_val_batches=1, val_check_interval=3, check_val_every_n_epoch=None)
    assert bar.reads[-1][0] == 3
    assert bar.reads[-1][1]["fid/raw"] == 3.0


def test_without_a_last_step_the_total_is_open(tmp_path):
    class Stopping(Watched):
        def on_train_batch_end(self, trainer, *args):
            super().on_train_batch_end(trainer, *args)
            trainer.should_stop = trainer.global_step == 2

    bar = Stopping()
    fit(tmp_path, student(), bar, steps=-1, max_epochs=-1)
    assert bar.shown == [("Generator updates", step, float("inf")) for step in (1, 2)]


def test_it_draws_what_a_person_reads(tmp_path):
    screen = io.StringIO()
    bar = MatchingProgressBar()
    bar._console_kwargs = {"file": screen, "force_terminal": True, "width": 150}
    try:
        fit(tmp_path, student(), bar)
    finally:
        rich.reconfigure()
    for words in ("Generator updates", "6/6", "generator_loss", "fake_loss"):
        assert words in screen.getvalue()


def test_it_can_be_switched_off(tmp_path):
    bar = MatchingProgressBar(refresh_rate=0)
    fit(tmp_path, student(), bar)
    assert bar.progress is None
