"""Diagnostics: known gaps, spreads and distances; nothing is left behind, and training is not changed."""

import helpers
import pytest
import torch
from helpers import mlp
from torch import nn

from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation.diagnostics import (
    Diagnostics,
    average_distances,
    nearest_distance,
    relative_gap,
)
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.objectives import GAN, Game


def fit(module, folder, steps=2, **options):
    diagnostics = Diagnostics(count=32)
    data = helpers.rebatched(MatchingDataModule(Digits(), batch_size=8, eval_samples=40), 16)
    options = {"callbacks": [diagnostics], "limit_val_batches": None, "log_every_n_steps": 1, **options}
    options |= {"val_check_interval": steps, "check_val_every_n_epoch": None}
    return helpers.fit(module, data, folder, steps, **options), diagnostics


@pytest.mark.parametrize(
    "options", [{}, {"gamma": 0.5}, {"gan": GAN()}, {"fake_steps": 3}], ids=["defaults", "gamma", "gan", "fake_steps"]
)
def test_the_gap_is_that_of_the_generators_batch(options, tmp_path, monkeypatch):
    asked = []
    for who, real in (("teacher", Game.teacher), ("fake", Game.fake)):

        def watch(self, point, who=who, real=real):
            prediction = real(self, point)
            asked.append((who == "teacher", prediction.detach()))
            return prediction

        monkeypatch.setattr(Game, who, watch)
    module = RealUIDModule(mlp(), None, alpha=0.9, beta=0.94, **{"fake_steps": 1, **options})
    trainer, diagnostics = fit(module, tmp_path, limit_val_batches=0)
    (of_teacher, teacher), (of_fake, fake) = asked[-2:]
    assert (of_teacher, of_fake) == (True, False)
    expected = (teacher - fake).square().sum() / teacher.square().sum()
    assert expected > 0
    torch.testing.assert_close(trainer.callback_metrics["diagnostics/teacher_fake_gap"], expected)
    assert not module.teacher._forward_hooks
    assert not module.fake._forward_hooks
    assert diagnostics._teacher is None


def test_only_logged_steps_are_listened_to(tmp_path):
    module = RealUIDModule(mlp(), None, fake_steps=1)
    heard = []
    module.teacher.register_forward_hook(lambda *_: heard.append(len(module.teacher._forward_hooks)))
    fit(module, tmp_path, steps=4, log_every_n_steps=2, limit_val_batches=0)
    assert heard == [1, 2, 1, 2]


def test_training_is_the_same_with_and_without(tmp_path):
    states = []
    for callbacks in ({}, {"callbacks": []}):
        module = RealUIDModule(mlp(), None, fake_steps=1)
        fit(module, tmp_path, steps=3, **callbacks)
        states.append(module.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["distillation", "teacher"])
def test_validation_logs_spread_neighbours_and_averages(kind, tmp_path):
    if kind == "teacher":
        module = TeacherModule(mlp(), ema=[0.5], sampling_steps=[1, 2])
    else:
        module = RealUIDModule(mlp(), None, fake_steps=1, ema=[0.5])
    trainer, _ = fit(module, tmp_path)
    figures = trainer.callback_metrics
    for name in module.evaluated():
        assert 0 < figures[f"diagnostics/spread/{name}"] < 100
        assert 0 < figures[f"diagnostics/nearest/{name}"] < 100
    assert ("diagnostics/teacher_fake_gap" in figures) == (kind == "distillation")
    followed = module.network if kind == "teacher" else module.generator
    mine, raw = (
        nn.utils.parameters_to_vector(part.parameters()).detach() for part in (module.ema[0.5].network, followed)
    )
    expected = (mine - raw).norm() / raw.norm()
    torch.testing.assert_close(figures["diagnostics/distance/ema_0.5"], expected)


def test_real_samples_have_the_spread_of_real_samples():
    diagnostics = Diagnostics()
    diagnostics._real = torch.randn(64, 5)
    figures = diagnostics._compared(diagnostics._real, torch.device("cpu"))
    assert figures[0] == figures[1] > 0
    assert figures[2] == figures[3] > 0


def test_collapse_shows():
    diagnostics = Diagnostics()
    diagnostics._real = torch.randn(64, 5)
    one, real_spread, near, _ = diagnostics._compared(torch.ones(64, 5), torch.device("cpu"))
    assert one == near == 0 < real_spread
    two = diagnostics._real[:2].repeat(32, 1)  # two modes, far apart: spread alone would not tell
    wide, _, near, _ = diagnostics._compared(two, torch.device("cpu"))
    assert wide > 0 == near


def test_a_process_without_samples_adds_nothing():
    assert not Diagnostics()._compared(None, torch.device("cpu")).any()


def test_functions_of_tensors():
    assert relative_gap(torch.full((2, 3), 2.0), torch.full((2, 3), 1.0)) == 0.25
    assert nearest_distance(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(4 / 3)
    module = RealUIDModule(mlp(), None, ema=[0.9])
    assert average_distances(module) == {"ema_0.9": 0}


def test_too_few_to_compare_are_refused():
    with pytest.raises(UserError, match="count must be at least 2, got 1"):
        Diagnostics(count=1)
