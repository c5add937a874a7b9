"""Resuming: what the config says holds, what the checkpoint has learnt stays, every difference is told."""

import copy
import logging

import helpers
import pytest
import torch
from helpers import mlp, points
from lightning import Callback, seed_everything
from torch import nn

from realuid_lightning.errors import UserError
from realuid_lightning.modules import LinearDecay, RealUIDModule, TeacherModule, Warmup
from realuid_lightning.modules.resuming import match_memory_format
from realuid_lightning.objectives import Corrected, Mixture, RealUID, SiD
from realuid_lightning.paths import FlowMatchingPath, LogitNormal, NoiseWeight, Uniform
from realuid_lightning.running import RunCheckpoint


def network():
    return mlp([3], width=8)


def adam(lr=1e-2, kind=torch.optim.Adam, **options):
    return lambda weights: kind(weights, lr=lr, **options)


def warmup(steps):
    return lambda optimizer: Warmup(optimizer, steps)


def teacher(**options):
    return TeacherModule(network(), sampling_steps=[1], **({"ema": [0.9], "optimizer": adam()} | options))


def distillation(**options):
    base = {f"{name}_optimizer": adam() for name in ("fake", "generator")}
    base |= {f"{name}_schedule": warmup(3) for name in ("fake", "generator")}
    return RealUIDModule(network(), None, **({"fake_steps": 2, "ema": [0.9], **base} | options))


def fit(model, folder, steps, ckpt=None, **options):
    return helpers.fit(model, points(eval_samples=4), folder, steps, ckpt, **options)


@pytest.fixture
def saved(tmp_path):
    def save(model, steps=4, **options):
        file = tmp_path / "before.ckpt"
        fit(model, tmp_path, steps, **options).save_checkpoint(file)
        return file

    return save


def rates(trainer):
    return [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("resuming with")]


@pytest.fixture
def caplog(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def test_the_learning_rate_of_the_config_holds_and_moments_and_counts_go_on(tmp_path, saved, caplog):
    file = saved(distillation())
    lower = {"fake_optimizer": adam(1e-4, betas=(0.5, 0.9), weight_decay=0.1)}
    model = distillation(**lower)
    begun = {}

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            begun.update(copy.deepcopy(trainer.optimizers[0].state_dict()))

    trainer = fit(model, tmp_path, 5, file, callbacks=[Look()])
    before = torch.load(file, weights_only=True)["optimizer_states"][0]["state"]
    for number, state in before.items():
        for name, value in state.items():
            assert torch.equal(begun["state"][number][name], value)
    group = trainer.optimizers[0].param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.5, 0.9), 0.1)
    assert rates(trainer)[1] == 1e-2
    (message,) = told(caplog)
    for part in ("fake learning rate 0.01 -> 0.0001", "fake betas [0.9, 0.999] -> [0.5, 0.9]", "fake weight_decay 0"):
        assert part in message
    assert "generator" not in message


@pytest.mark.parametrize(
    "schedule",
    [
        warmup(100),
        lambda optimizer: LinearDecay(optimizer, 50, 10),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30),
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5),
    ],
    ids=["warmup", "decay", "cosine", "steps"],
)
def test_another_schedule_goes_on_at_the_update_that_was_reached(schedule, tmp_path, saved, caplog):
    file = saved(distillation(), steps=4)
    trainer = fit(distillation(fake_schedule=schedule), tmp_path, 5, file)
    optimizer = adam()([nn.Parameter(torch.zeros(1))])
    expected = schedule(optimizer)
    for _ in range(10):  # two fake updates a step
        optimizer.step()
        expected.step()
    assert rates(trainer)[0] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    (message,) = told(caplog)
    assert "at this update" in message
    assert "learning rate 0.01 -> " in message


def chained(optimizer):
    parts = torch.optim.lr_scheduler
    return parts.ChainedScheduler([parts.LinearLR(optimizer, total_iters=5), parts.ExponentialLR(optimizer, 0.9)])


class OnPlateau(TeacherModule):
    """Lowers its rate where the loss does not fall, as a user's own module may."""

    def configure_optimizers(self):
        optimizer = self.optimizer(self.network.parameters())
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": "train/loss", "interval": "step"},
        }


@pytest.mark.parametrize(
    "make",
    [
        lambda: distillation(fake_schedule=chained),
        lambda: OnPlateau(network(), sampling_steps=[1], ema=[0.9], optimizer=adam()),
    ],
    ids=["chained", "plateau"],
)
def test_schedules_that_keep_their_count_or_their_rate_elsewhere_resume_bit_for_bit(make, tmp_path, saved, caplog):
    whole, resumed = make(), make()
    expected = rates(fit(whole, tmp_path, 7))
    assert rates(fit(resumed, tmp_path, 7, saved(make()))) == expected
    assert expected[0] < 0.01
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize(
    "make", [lambda **o: teacher(schedule=o["schedule"]), lambda **o: distillation(fake_schedule=o["schedule"])]
)
def test_a_schedule_that_waits_for_metrics_is_refused(make):
    with pytest.raises(UserError, match="schedule: ReduceLROnPlateau waits for metrics, which updates do not have"):
        make(schedule=torch.optim.lr_scheduler.ReduceLROnPlateau)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda state: state.pop("optimizer_states"), "expected the states of 2 optimizers.*got 0 and 2"),
        (lambda state: state.pop("lr_schedulers"), "expected the states of 2 optimizers.*got 2 and 0"),
        (lambda state: state["optimizer_states"][0].update(param_groups=[]), "18 weights, got none"),
        (lambda state: state["optimizer_states"][0].pop("state"), "optimizer_states must be a list of dictionaries"),
        (lambda state: state["guard"].pop("skipped"), "guard must be a dictionary with skipped"),
    ],
)
def test_a_state_that_lacks_a_part_is_one_message_with_any_trainer(edit, words, tmp_path, saved):
    file = saved(distillation())
    state = torch.load(file, weights_only=True)
    edit(state)
    torch.save(state, file)
    with pytest.raises(UserError, match=words):
        fit(distillation(), tmp_path, 5, file)


def test_a_state_without_the_names_of_its_optimizers_resumes(tmp_path, saved):
    file = saved(distillation())
    state = torch.load(file, weights_only=True)
    torch.save({**state, "optimizers": []}, file)
    assert fit(distillation(), tmp_path, 5, file).global_step == 5


@pytest.mark.parametrize("make", [teacher, distillation])
def test_the_same_config_resumes_bit_for_bit_and_says_nothing(make, tmp_path, saved, caplog):
    whole = make()
    fit(whole, tmp_path, 7)
    resumed = make()
    fit(resumed, tmp_path, 7, saved(make()))
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())
    assert told(caplog) == []


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"objective": Corrected(0.5)}, {"objective": Corrected(1.0)}, ["rho 0.5, alpha 0.9", "-> Corrected (rho 1, "]),
        (
            {"alpha": 0.9},
            {"alpha": 0.98},
            ["objective RealUID (alpha 0.9, beta 1, ", "-> RealUID (alpha 0.98, beta 1, "],
        ),
        (
            {},
            {"divergence": SiD(1.2)},
            ["divergence SquaredDistance)", "divergence SiD (alpha_sid 1.2, normalise True)"],
        ),
        (
            {"objective": Mixture([RealUID(), Corrected()], {0: [1.0, 0.0]})},
            {"objective": Mixture([RealUID(), Corrected()], {0: [1.0, 0.0], 4: [1.0, 1.0]})},
            ["steps [0], shares [[1, 0]])", "steps [0, 4], shares [[1, 0], [0.5, 0.5]])"],
        ),
    ],
)
def test_another_objective_holds_from_here_on_and_is_told(before, now, words, tmp_path, saved, caplog):
    file = saved(distillation(**before))
    fit(distillation(**before), tmp_path, 5, file)
    assert told(caplog) == []
    assert fit(distillation(**now), tmp_path, 5, file).global_step == 5
    (line,) = told(caplog)
    assert all(part in line for part in words)
    content = torch.load(file, weights_only=True)
    del content["aim"]  # as before it was written
    torch.save(content, file)
    fit(distillation(**now), tmp_path, 5, file)
    assert told(caplog) == [line]


@pytest.mark.parametrize("make", [teacher, distillation])
def test_other_laws_of_times_hold_from_here_on_and_are_told(make, tmp_path, saved, caplog):
    file = saved(make(path=FlowMatchingPath(times=LogitNormal(), weighting=NoiseWeight())))
    fit(make(path=FlowMatchingPath(times=LogitNormal(), weighting=NoiseWeight())), tmp_path, 5, file)
    assert told(caplog) == []
    fit(make(path=FlowMatchingPath(generator_times=Uniform(), weighting=NoiseWeight(2.0))), tmp_path, 5, file)
    (line,) = told(caplog)
    assert "path.generator_times None -> Uniform(), path.times LogitNormal(mean=0.0, std=1.0) -> None" in line
    assert "path.weighting NoiseWeight(power=1.0) -> NoiseWeight(power=2.0)" in line
    with pytest.raises(UserError, match=r"made on the path FlowMatchingPath\(.*set model.path"):
        fit(make(path=FlowMatchingPath(shift=2.0)), tmp_path, 5, file)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (adam(kind=torch.optim.SGD), "SGD"),
        (adam(kind=torch.optim.Adamax), "Adamax"),
        (adam(amsgrad=True), "amsgrad"),
    ],
)
@pytest.mark.parametrize("old", [False, True], ids=["", "written before classes were"])
def test_another_optimizer_is_refused_or_begun_anew(other, named, old, tmp_path, saved, caplog):
    file = saved(teacher())
    if old:
        content = torch.load(file, weights_only=True)
        del content["optimizers"]
        torch.save(content, file)
    with pytest.raises(UserError, match=f"ckpt_path: expected .*{named}.*fresh_optimizers: true"):
        fit(teacher(optimizer=other), tmp_path, 5, file)
    trainer = fit(teacher(optimizer=other, fresh_optimizers=True), tmp_path, 6, file)
    assert "fresh moments of the network optimizer" in told(caplog)[-1]
    assert trainer.global_step == 6
    assert all(state.get("step", 2) == 2 for state in trainer.optimizers[0].state.values())
    # The option may stay: what follows goes on with the fresh one's moments.
    trainer.save_checkpoint(file)
    again = fit(teacher(optimizer=other, fresh_optimizers=True), tmp_path, 7, file)
    assert all(state.get("step", 3) == 3 for state in again.optimizers[0].state.values())


def test_adam_goes_on_as_adamw(tmp_path, saved, caplog):
    fit(teacher(optimizer=adam(kind=torch.optim.AdamW)), tmp_path, 5, saved(teacher()))
    assert "weight_decay 0 -> 0.01" in told(caplog)[0]


def test_optimizers_of_other_groups_are_refused(tmp_path, saved):
    def grouped(weights):
        first, *rest = weights
        return torch.optim.Adam([{"params": [first]}, {"params": rest}], lr=1e-2)

    with pytest.raises(UserError, match=r"ckpt_path: expected the state of a network optimizer of 1 \+ "):
        fit(teacher(optimizer=grouped), tmp_path, 5, saved(teacher()))


def test_all_that_decides_draws_is_told_in_one_message(tmp_path, saved, caplog, monkeypatch):
    file = saved(distillation())
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    fit(distillation(fake_steps=3, fake_optimizer=adam(1e-3)), tmp_path, 5, file)
    (message,) = told(caplog)
    assert "0 -> 7 seed, 2 -> 3 fake_steps, fake learning rate 0.01 -> 0.001" in message
    assert "draws, and which samples come when, are others from here on" in message
    caplog.clear()
    file = saved(teacher())
    fit(teacher(), tmp_path, 5, file, accumulate_grad_batches=2)
    assert "1 -> 2 accumulate_grad_batches" in told(caplog)[0]


@pytest.mark.parametrize(("make", "raw"), [(teacher, "network."), (distillation, "generator.")])
def test_averages_can_be_added_and_dropped(make, raw, tmp_path, saved, caplog):
    file = saved(make())
    model = make(ema=[0.5])
    begun = {}

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            begun.update(copy.deepcopy(pl_module.state_dict()))

    fit(model, tmp_path, 5, file, callbacks=[Look()])
    (message,) = told(caplog)
    assert "average 0.9 dropped, average 0.5 added, which begins at the raw weights" in message
    averages = {key: value for key, value in begun.items() if key.startswith("ema.copies.0_5.network.")}
    assert averages
    for key, value in averages.items():
        assert torch.equal(value, begun[key.replace("ema.copies.0_5.network.", raw)]), key


def test_an_average_that_was_never_kept_is_not_evaluated(tmp_path, saved):
    file = saved(teacher())
    trainer, data = helpers.trainer(), points(eval_samples=4)
    with pytest.raises(UserError, match="missing"):
        trainer.validate(teacher(ema=[0.9, 0.5]), data, ckpt_path=file, verbose=False)
    trainer.validate(teacher(ema=[]), data, ckpt_path=file, verbose=False)


class SaveAt(Callback):
    """Saves at the end of a batch, wherever that is in an accumulation."""

    def __init__(self, batch, file):
        self.batch, self.file = batch, file

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.batch:
            trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("epochs", [{}, {"limit_train_batches": 6}], ids=["stream", "epochs"])
def test_resume_is_exact_from_anywhere_in_an_accumulation(batch, epochs, tmp_path):
    file = tmp_path / "amid.ckpt"
    options = {"accumulate_grad_batches": 3, **epochs}
    whole = teacher()
    fit(whole, tmp_path, 4, callbacks=[SaveAt(batch, file)], **options)
    resumed = teacher()
    assert fit(resumed, tmp_path, 4, file, **options).global_step == 4
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize("batch", [3, 4, 5])
def test_a_checkpoint_of_older_versions_amid_an_accumulation_resumes_exactly(batch, tmp_path, monkeypatch):
    file, options = tmp_path / "amid.ckpt", {"accumulate_grad_batches": 3}
    whole, resumed = teacher(), teacher()
    with monkeypatch.context() as older:
        older.setattr("realuid_lightning.modules.base.end_at_update", lambda *_: None)
        fit(whole, tmp_path, 4, callbacks=[SaveAt(batch, file)], **options)
    fit(resumed, tmp_path, 4, file, **options)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize("now", [1, 2, 4])
def test_the_first_update_is_of_all_its_batches_where_an_accumulation_has_another_length(now, tmp_path, saved):
    gathered = []

    class Count(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            gathered.append(trainer.global_step)

    file = saved(teacher(), steps=3, accumulate_grad_batches=3)
    fit(teacher(), tmp_path, 5, file, callbacks=[Count()], accumulate_grad_batches=now)
    assert gathered == [3] * now + [4] * now


def test_a_validation_amid_an_accumulation_saves_what_resumes_exactly(tmp_path):
    options = {
        "accumulate_grad_batches": 2,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 0,
    }
    whole, half, resumed = teacher(), teacher(), teacher()
    fit(whole, tmp_path / "whole", 5, callbacks=[RunCheckpoint()], **options)

    class StopHere(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 3:
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(half, tmp_path / "half", 5, callbacks=[StopHere(), RunCheckpoint()], **options)
    last = tmp_path / "half" / "checkpoints" / "last.ckpt"
    fit(resumed, tmp_path / "half", 5, last, callbacks=[RunCheckpoint()], **options)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_epochs_that_end_amid_an_accumulation_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"limit_train_batches must be a multiple of accumulate_grad_batches 2.*got 5"):
        fit(teacher(), tmp_path, 4, accumulate_grad_batches=2, limit_train_batches=5)


def test_a_seed_is_the_same_for_all(tmp_path, saved, caplog):
    seed_everything(3, verbose=False)
    file = saved(teacher())
    fit(teacher(), tmp_path, 5, file)
    assert told(caplog) == []


def test_moments_of_another_shape_are_refused():
    """Kernels would read beyond them."""
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(4)
    optimizer.step()
    match_memory_format(optimizer)
    optimizer.state[weight]["exp_avg"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"exp_avg of an optimizer has shape \(3,\), but its weight has \(4,\)"):
        match_memory_format(optimizer)
