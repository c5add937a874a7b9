"""TeacherModule: the loss, what an update touches, and what evaluation samples."""

from functools import partial
from itertools import combinations

import pytest
import torch
from helpers import draws, fit, mlp

from realuid_lightning.data import Batch, Digits, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.modules import LinearDecay, TeacherModule
from realuid_lightning.solvers import Euler, Heun


def data():
    return MatchingDataModule(Digits(), batch_size=8, eval_samples=8)


def latents():
    return Batch(z=draws().z)


def test_the_loss_is_the_squared_error_of_the_velocity():
    module, batch = TeacherModule(mlp()), draws()
    t = batch.t.view(-1, 1, 1, 1)
    error = module.network(batch.t, (1 - t) * batch.x0 + t * batch.x1) - (batch.x1 - batch.x0)
    torch.testing.assert_close(module.matching_loss(batch), error.square().sum((1, 2, 3)).mean())


def test_an_update_is_the_optimizers_and_the_average_follows(tmp_path):
    module = TeacherModule(mlp(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3), ema=[0.75])
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    fit(module, data(), tmp_path, 1)
    for name, after in module.network.state_dict().items():
        assert not torch.equal(after, before[name])
        average = module.ema[0.75].network.state_dict()[name]
        torch.testing.assert_close(average, 0.75 * before[name] + 0.25 * after)


def test_gradient_accumulation_counts_updates_once(tmp_path):
    """Four batches, two updates: steps, schedule and averages count updates."""
    module = TeacherModule(
        mlp(), schedule=lambda optimizer: LinearDecay(optimizer, 4), ema=[0.5], optimizer=torch.optim.SGD
    )
    calls, draws = [], []
    follow, loss = module.ema.update, module.matching_loss
    module.ema.update = lambda of: (calls.append(1), follow(of))
    module.matching_loss = lambda batch: (draws.append(batch), loss(batch))[1]
    run = fit(module, data(), tmp_path, accumulate_grad_batches=2)
    for left, right in combinations(draws, 2):  # no batch repeats another's draws or samples
        assert not torch.equal(left.x0, right.x0)
        assert not torch.equal(left.x1, right.x1)
    assert run.global_step == 2
    assert len(calls) == 2
    assert module.lr_schedulers().get_last_lr()[0] == pytest.approx(1e-3 * 0.5)


def test_samplers_are_every_average_at_every_number_of_steps():
    module = TeacherModule(mlp(), ema=[0.9, 0.5], sampling_steps=[1, 3], solver=Heun())
    assert list(module.samplers()) == [
        f"{weights}_steps_{steps}" for weights in ("raw", "ema_0.9", "ema_0.5") for steps in (1, 3)
    ]
    batch = latents()
    got = module.samplers()["raw_steps_3"](batch)
    assert torch.equal(got, Heun().sample(module.path, module.network, batch.z, None, 3))
    assert not torch.equal(got, Euler().sample(module.path, module.network, batch.z, None, 3))


def test_all_that_is_asked_is_measured_and_nothing_else():
    module = TeacherModule(mlp(), sampling_steps=[1, 2], evaluate=["raw_steps_2"])
    assert list(module.validation_step(latents(), 0)) == ["raw_steps_2"]


def test_predict_uses_the_named_sampler_or_the_last():
    batch = latents()
    module = TeacherModule(mlp(), sampling_steps=[1, 2])
    module.ema[0.999].network.out[-1].weight.data.zero_()
    last = module.samplers()["ema_0.999_steps_2"](batch)
    assert torch.equal(module.predict_step(batch, 0), last)
    module.predict_with = "raw_steps_1"
    assert torch.equal(module.predict_step(batch, 0), module.samplers()["raw_steps_1"](batch))


def test_all_faults_at_once():
    for options, words in [
        ({"ema": [1.0, -0.1], "eval_batch_size": 0}, ["got 1.0", "got -0.1", "eval_batch_size"]),
        ({"sampling_steps": [0, -2]}, ["got 0", "got -2"]),
        ({"sampling_steps": []}, ["at least one"]),
    ]:
        with pytest.raises(UserError) as told:
            TeacherModule(mlp(), **options)
        assert all(word in str(told.value) for word in words)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, accumulated):
    def fresh():
        return TeacherModule(mlp(dropout=0.1), schedule=lambda optimizer: LinearDecay(optimizer, 8, warmup=2))

    whole = fresh()
    fit(whole, data(), tmp_path, 6, accumulate_grad_batches=accumulated)
    run = fit(fresh(), data(), tmp_path, 3, accumulate_grad_batches=accumulated)
    run.save_checkpoint(tmp_path / "half.ckpt")
    resumed = fresh()
    fit(resumed, data(), tmp_path, 6, tmp_path / "half.ckpt", accumulate_grad_batches=accumulated)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize(("algorithm", "limit"), [("norm", 1e-4), ("value", 1e-6)])
def test_fused_optimizers_are_clipped_in_bf16(tmp_path, algorithm, limit):
    class Watched(TeacherModule):
        def configure_gradient_clipping(self, *args, **options):
            super().configure_gradient_clipping(*args, **options)
            self.found = [weight.grad.clone() for weight in self.network.parameters()]

    module = Watched(mlp(), optimizer=partial(torch.optim.Adam, fused=True))
    clipping = {"gradient_clip_val": limit, "gradient_clip_algorithm": algorithm}
    fit(module, data(), tmp_path, 1, precision="bf16-mixed", **clipping)
    largest = max(gradient.abs().max() for gradient in module.found)
    norm = largest if algorithm == "value" else torch.nn.utils.get_total_norm(module.found)
    assert norm == pytest.approx(limit, rel=1e-2)
