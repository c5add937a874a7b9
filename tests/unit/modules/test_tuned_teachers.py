"""TeacherModule that begins at a teacher's file: exactly there, averages too, strictly, and never again on resuming."""

from functools import partial

import pytest
import torch
from helpers import checkpoint, fit, mlp, same, shaken, trainer, weights

from realuid_lightning.checkpoints import write_teacher
from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.paths import DiffusionPath, FlowMatchingPath, LogitNormal
from realuid_lightning.planning import Rehearsal


def data():
    return MatchingDataModule(Digits(), batch_size=8, eval_samples=8)


@pytest.fixture
def trained(tmp_path):
    """A teacher whose average differs from the raw weights, and its file."""
    module = TeacherModule(mlp(), ema=[0.5])
    shaken(module.network)
    torch.save(checkpoint(module), tmp_path / "teacher.ckpt")
    return module, str(tmp_path / "teacher.ckpt")


def tuned(file, **options):
    return TeacherModule(mlp(seed=9), teacher_ckpt=file, **options)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_network_and_averages_begin_at_the_weights_of_the_file(trained, tmp_path, ema):
    teacher, file = trained
    still = partial(torch.optim.SGD, lr=0.0)
    made = tuned(file, teacher_ema=ema, ema=[0.9, 0.99], optimizer=still)
    fit(made, data(), tmp_path, 1)
    expected = weights(teacher.network if ema is None else teacher.ema[ema].network)
    for network in (made.network, made.ema[0.9].network, made.ema[0.99].network):
        assert same(weights(network), expected)


def test_the_first_update_is_that_of_the_same_weights_without_a_file(trained, tmp_path):
    teacher, file = trained
    left, right = tuned(file), TeacherModule(teacher.network)
    for module in (left, right):
        fit(module, data(), tmp_path, 1)
    assert same(weights(left), weights(right))


def test_imported_teachers_and_bare_weights_serve(trained, tmp_path):
    teacher, _ = trained
    write_teacher(teacher.network, FlowMatchingPath(), tmp_path / "teacher.safetensors", {})
    torch.save(teacher.network.state_dict(), tmp_path / "bare.pt")
    for name in ("teacher.safetensors", "bare.pt"):
        made = tuned(str(tmp_path / name))
        made.start()
        assert same(weights(made.network), weights(teacher.network))


def test_evaluation_measures_the_teacher_of_the_file(trained, tmp_path):
    teacher, file = trained
    made = tuned(file, sampling_steps=[1])
    trainer(tmp_path).validate(made, data(), verbose=False)
    assert same(weights(made.network), weights(teacher.network))


def test_a_resumed_run_equals_an_uninterrupted_one_and_needs_no_file(trained, tmp_path):
    _, file = trained
    whole, half, resumed = (tuned(file, ema=[0.5]) for _ in range(3))
    fit(whole, data(), tmp_path, 4)
    fit(half, data(), tmp_path, 2).save_checkpoint(tmp_path / "half.ckpt")
    (tmp_path / "teacher.ckpt").unlink()
    fit(resumed, data(), tmp_path, 4, tmp_path / "half.ckpt")
    assert same(weights(whole), weights(resumed))


def test_a_plan_reads_no_file(tmp_path):
    assert Rehearsal(tuned("gone.ckpt"), data(), trainer(tmp_path)).passes


def test_training_times_may_be_others_than_those_of_the_file(trained):
    tuned(trained[1], path=FlowMatchingPath(times=LogitNormal())).start()


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("gone.ckpt", {}, "no such file"),
        ("teacher.ckpt", {"network": mlp(width=8)}, "teacher_ckpt .*do not fit MLP, nothing was loaded"),
        ("teacher.ckpt", {"path": DiffusionPath()}, "made on the path FlowMatchingPath"),
        ("teacher.ckpt", {"teacher_ema": 0.9}, r"no average of decay 0\.9; available: 0\.5"),
        ("generator.ckpt", {}, "expected the checkpoint of a teacher, got that of a generator; check teacher_ckpt"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(trained, tmp_path, file, options, words):
    torch.save(checkpoint(RealUIDModule(mlp(), teacher_ckpt=None)), tmp_path / "generator.ckpt")
    made = TeacherModule(**{"network": mlp(), "teacher_ckpt": str(tmp_path / file)} | options)
    before = weights(made)
    with pytest.raises(UserError, match=words):
        fit(made, data(), tmp_path, 1)
    assert same(weights(made), before)


def test_an_average_of_no_file_is_refused():
    with pytest.raises(UserError, match="teacher_ema is set, but teacher_ckpt is null"):
        TeacherModule(mlp(), teacher_ema=0.5)
