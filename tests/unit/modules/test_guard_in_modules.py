"""The guard inside the modules: a poisoned update leaves weights and optimizer states as they were."""

import copy

import pytest
import torch
from helpers import fit, mlp
from torch import nn

from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.running import RunCheckpoint


def poison(module, loss, steps):
    """Make the named loss NaN in some steps."""
    real = getattr(module, loss)
    setattr(module, loss, lambda batch: real(batch) * (float("nan") if module.global_step in steps else 1.0))
    return module


def run(module, folder, steps, ckpt=None, **options):
    options = {"log_every_n_steps": 1, "callbacks": [RunCheckpoint()], **options}
    return fit(module, MatchingDataModule(Digits(), batch_size=8), folder, steps, ckpt, **options)


def state(module, trainer, index):
    state = trainer.optimizers[index].state_dict()
    return copy.deepcopy([module.state_dict(), state["state"]])


@pytest.mark.parametrize("loss", ["fake_loss", "generator_loss"])
def test_distillation(loss, tmp_path):
    kinds = {"fake_loss": ("fake", 0), "generator_loss": ("generator", 1)}
    name, index = kinds[loss]
    options = {"fake_steps": 1, "ema": [0.5]}
    states = []
    for steps, poisoned in ((1, ()), (2, (1,))):
        module = poison(RealUIDModule(mlp(), None, **options), loss, poisoned)
        trainer = run(module, tmp_path / f"{steps}", steps)
        assert trainer.global_step == steps
        states.append(state(module, trainer, index))
    weights = [{key: value for key, value in one[0].items() if key.startswith(name)} for one in states]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    torch.testing.assert_close(states[0][1], states[1][1], rtol=0, atol=0)
    assert all(torch.isfinite(value).all() for value in states[1][0].values())
    assert trainer.callback_metrics["guard/skipped"] == 1


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, lambda p: torch.optim.AdamW(p, fused=True)])
def test_teacher(optimizer, tmp_path):
    states = []
    for steps, poisoned in ((2, ()), (3, (2,))):
        module = TeacherModule(mlp(), optimizer=optimizer, ema=[0.5])
        trainer = run(poison(module, "matching_loss", poisoned), tmp_path / f"{steps}", steps)
        assert trainer.global_step == steps
        module.ema = nn.Identity()  # the averages go on
        states.append(state(module, trainer, 0))
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert trainer.callback_metrics["guard/skipped"] == 1


@pytest.mark.parametrize("kind", ["teacher", "realuid"])
def test_a_lost_run_ends_and_resumes(kind, tmp_path):
    def made(poisoned):
        if kind == "teacher":
            return poison(TeacherModule(mlp(), max_skips=2), "matching_loss", poisoned)
        return poison(RealUIDModule(mlp(), None, fake_steps=1, max_skips=2), "generator_loss", poisoned)

    with pytest.raises(UserError, match="more than max_skips 2") as caught:
        run(made(range(2, 100)), tmp_path, 10)
    assert "step 5" in str(caught.value)
    again = made(())
    trainer = run(again, tmp_path, 7, tmp_path / "checkpoints" / "last.ckpt")
    assert trainer.global_step == 7
    assert again.guard.skipped == 3
    assert all(torch.isfinite(value).all() for value in again.state_dict().values())


def test_a_run_that_is_lost_at_its_last_steps_does_not_end_as_a_success(tmp_path):
    module = poison(TeacherModule(mlp(), max_skips=2), "matching_loss", range(100))
    with pytest.raises(UserError, match="10 updates of network in a row, more than max_skips 2"):
        run(module, tmp_path, 10, log_every_n_steps=50)
