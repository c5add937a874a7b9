"""RealUIDModule: what an update touches, what it costs, how it starts and resumes."""

import copy

import pytest
import torch
from helpers import draws, fit, mlp, same, started, trainer, weights
from torch import nn

from realuid_lightning.data import Batch, Digits, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.losses import general_generator_loss
from realuid_lightning.modules import RealUIDModule, TeacherModule, Warmup
from realuid_lightning.networks import MLP


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1e-3)


def constant(optimizer):
    return Warmup(optimizer, 0)


FAST = {
    "generator_optimizer": sgd,
    "fake_optimizer": sgd,
    "generator_schedule": constant,
    "fake_schedule": constant,
    "fake_steps": 2,
}


def module(**options):
    return started(RealUIDModule(mlp(), **{"teacher_ckpt": None, **FAST, **options}))


def data(**options):
    return MatchingDataModule(Digits(), **{"batch_size": 8, "eval_samples": 16, **options})


class Counting(nn.Module):
    """Notes the batch size of every forward, and whether it built a graph."""

    def __init__(self, inner, log, name):
        super().__init__()
        self.inner, self.log, self.name = inner, log, name

    def forward(self, t, x, y=None):
        out = self.inner(t, x, y)
        self.log.append((self.name, len(x), out.requires_grad))
        return out


def counted(made):
    log = []
    made.teacher.network = Counting(made.teacher.network, log, "teacher")
    made.fake = Counting(made.fake, log, "fake")
    made.generator.network = Counting(made.generator.network, log, "generator")
    return log


def test_a_fake_step_costs_two_forwards_and_a_generator_step_three():
    made = module(alpha=0.9, beta=0.94)
    log = counted(made)
    made.fake_loss(draws())
    assert log == [("generator", 6, False), ("fake", 12, True)]  # both halves in one forward, no generator graph
    log.clear()
    made.generator_loss(draws())
    assert log == [("generator", 6, True), ("teacher", 6, True), ("fake", 6, True)]


def test_the_data_free_fake_step_spends_nothing_on_real_data():
    made = module(alpha=1.0, beta=1.0)
    log = counted(made)
    made.fake_loss(draws(x1=None))
    assert log == [("generator", 6, False), ("fake", 6, True)]


@pytest.mark.parametrize("coefficients", [{"alpha": 0.9}, {"beta": 0.9}, {"gamma": 0.9}])
def test_any_coefficient_but_one_brings_real_data_in(coefficients):
    made = module(**{"alpha": 1.0, "beta": 1.0, **coefficients})
    before, after = (made.fake_loss(draws(x1=draws(seed=seed).x1)) for seed in (1, 2))
    assert made.objective.needs_real
    assert before != after


def test_one_step_is_one_cycle_that_moves_both_networks_and_never_the_teacher(tmp_path):
    made = module(alpha=0.9, beta=0.94, ema=[0.5])
    teacher, fake, generator = weights(made.teacher), weights(made.fake), weights(made.generator)
    seen = []
    update = made._update

    def watching(optimizer, schedule, loss, of):
        seen.append("fake" if of is made.fake else "generator")
        others = [p.grad for p in made.teacher.parameters()]
        if of is made.generator:  # the fake model's weights get no gradient in a generator step
            for parameter in made.fake.parameters():
                parameter.grad = None
        norm = update(optimizer, schedule, loss, of)
        if of is made.generator:
            others += [p.grad for p in made.fake.parameters()]
        assert all(grad is None for grad in others)
        return norm

    made._update = watching
    run = fit(made, data(), tmp_path)
    assert run.global_step == 2
    assert seen == ["fake", "fake", "generator"] * 2
    assert same(weights(made.teacher), teacher)
    assert not same(weights(made.fake), fake)
    assert not same(weights(made.generator), generator)
    assert all(parameter.requires_grad for parameter in made.fake.parameters())


def test_averages_follow_generator_updates_alone(tmp_path):
    made = module(alpha=0.9, beta=0.94, ema=[0.5])
    start = weights(made.generator)
    fit(made, data(), tmp_path, 1)
    end, average = weights(made.generator), weights(made.ema[0.5].network)
    for key in start:
        torch.testing.assert_close(average[key], (start[key] + end[key]) / 2)


@pytest.mark.parametrize("clip", [1e-3, None])
def test_clip_bounds_each_networks_update(clip, tmp_path):
    made = module(alpha=0.9, beta=0.94, clip=clip)
    before = weights(made.generator)
    fit(made, data(), tmp_path, 1)
    moved = torch.cat([(weights(made.generator)[key] - before[key]).flatten() for key in before]).norm()
    assert (moved < 1.1e-6) == (clip is not None)  # lr times clip, and rounding


def test_gamma_is_read():
    batch = draws()
    plain, general = module(alpha=0.9, beta=0.94), module(alpha=0.9, beta=0.94, gamma=0.9)
    other = module(alpha=0.9, beta=0.94, gamma=0.7)
    torch.testing.assert_close(plain.generator_loss(batch), general.generator_loss(batch))
    assert not torch.isclose(plain.generator_loss(batch), other.generator_loss(batch))
    grads = [
        torch.autograd.grad(made.fake_loss(batch), next(made.fake.parameters()))[0] for made in (plain, general, other)
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)
    assert (grads[0] - grads[2]).norm() > 1e-3 * grads[0].norm()


def test_draws_are_keyed_by_seed_step_and_rank(monkeypatch):
    made = module()
    batch = Batch(x1=torch.zeros(4, 1, 8, 8))

    made._trainer = trainer()

    def drawn():
        return made.draw(batch, made.rng(0))

    first, again = drawn(), drawn()
    assert torch.equal(first.z, again.z)
    assert not torch.equal(first.z, first.x0)
    assert first.t.shape == (4,)
    assert first.eps is None
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert not torch.equal(first.z, drawn().z)


def test_draw_keeps_what_the_loader_gives():
    made, batch = module(), Batch(**{name: getattr(draws(), name) for name in ("x1", "x0", "z", "t")})
    kept = made.draw(batch, torch.Generator())
    assert all(torch.equal(getattr(kept, name), getattr(batch, name)) for name in ("x1", "x0", "z", "t"))


def test_fake_init_random_keeps_the_weights_the_network_was_built_with(tmp_path):
    file = tmp_path / "teacher.pt"
    torch.save(mlp(seed=1).state_dict(), file)
    for init, expected in [("teacher", 1), ("random", 0)]:
        made = RealUIDModule(mlp(), teacher_ckpt=str(file), fake_init=init)
        made.start()
        assert same(weights(made.fake), weights(mlp(seed=expected)))
        assert same(weights(made.generator.network), weights(mlp(seed=1)))
        assert same(weights(made.teacher.network), weights(mlp(seed=1)))
        assert same(weights(made.ema[0.999].network.network), weights(mlp(seed=1)))


def test_all_faults_at_once():
    with pytest.raises(UserError) as told:
        RealUIDModule(mlp(), teacher_ckpt=None, alpha=0.0, fake_steps=0, clip=-1.0, teacher_ema=0.9, fake_init="random")
    for word in ("alpha must be in (0, 1], got 0.0", "fake_steps", "clip", "teacher_ema", "fake_init: random"):
        assert word in str(told.value)


def finetuned(folder, **options):
    """A distilled run's checkpoint, with an average that differs from the raw weights."""
    made = module(alpha=0.9, beta=0.94, ema=[0.5])
    run = fit(made, data(), folder)
    run.save_checkpoint(folder / "distilled.ckpt")
    return made


def test_fine_tuning_starts_from_the_named_average_and_the_teacher(tmp_path):
    made = finetuned(tmp_path)
    teacher = tmp_path / "teacher.pt"
    torch.save(mlp(seed=1).state_dict(), teacher)
    tuned = RealUIDModule(
        mlp(), teacher_ckpt=str(teacher), generator_ckpt=str(tmp_path / "distilled.ckpt"), generator_ema=0.5
    )
    tuned.start()
    assert same(weights(tuned.generator.network), weights(made.ema[0.5].network.network))
    assert not same(weights(tuned.generator.network), weights(made.generator.network))
    assert same(weights(tuned.fake), weights(mlp(seed=1)))
    assert same(weights(tuned.ema[0.999].network), weights(tuned.generator))


def test_a_distilled_checkpoint_is_no_teacher(tmp_path):
    finetuned(tmp_path)
    wrong = RealUIDModule(mlp(), teacher_ckpt=str(tmp_path / "distilled.ckpt"))
    with pytest.raises(UserError, match="expected the checkpoint of a teacher, got that of a generator"):
        wrong.start()


@pytest.mark.parametrize(("workers", "precision"), [(0, "32-true"), (2, "32-true"), (0, "64-true"), (0, "bf16-mixed")])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, workers, precision):
    """Dropout included, with evaluation in one run and none in the other."""

    def fresh():
        made = RealUIDModule(
            mlp(dropout=0.1),
            teacher_ckpt=None,
            alpha=0.9,
            beta=0.94,
            fake_steps=2,
            ema=[0.9, 0.5],
            eval_batch_size=8,
        )
        made.start()
        return made

    def source():
        return data(num_workers=workers, flip=True)

    whole = fresh()
    fit(whole, source(), tmp_path, 6, precision=precision)
    first = fresh()
    options = {"limit_val_batches": 1.0, "val_check_interval": 1, "check_val_every_n_epoch": None}
    run = fit(first, source(), tmp_path, 3, precision=precision, **options)
    run.save_checkpoint(tmp_path / "half.ckpt")
    second = fresh()
    fit(second, source(), tmp_path, 6, tmp_path / "half.ckpt", precision=precision)
    assert same(weights(second), weights(whole))
    assert not same(weights(second), weights(first))


def test_resuming_by_other_processes_or_batches_says_what_changes(tmp_path, caplog):
    first = fit(module(), data(), tmp_path, 1)
    first.save_checkpoint(tmp_path / "one.ckpt")
    content = torch.load(tmp_path / "one.ckpt")
    size = content["batch"]["samples an update"]
    content["batch"] = {"processes": 2, "samples an update": 2 * size}
    torch.save(content, tmp_path / "two.ckpt")
    for name, told in (("one", False), ("two", True)):
        caplog.clear()
        fit(module(), data(), tmp_path, 2, tmp_path / f"{name}.ckpt")
        assert (f"resuming with 2 -> 1 processes, {2 * size} -> {size} samples an update" in caplog.text) == told


def test_bf16_and_float64_train(tmp_path):
    for precision in ("bf16-mixed", "64-true"):
        made = module(alpha=0.9, beta=0.94)
        fit(made, data(), tmp_path, precision=precision)
        assert all(value.isfinite().all() for value in made.state_dict().values())


@pytest.mark.filterwarnings("ignore:.*does not support 16-bit|.*fp16")
def test_loss_scaling_is_refused(tmp_path):
    run = trainer(tmp_path)
    made = module()
    made._trainer = run
    run.precision_plugin.precision = "16-mixed"
    with pytest.raises(UserError, match="bf16-mixed"):
        made.setup("fit")


def test_labels_shapes_and_names_are_checked_before_training(tmp_path):
    conditional = RealUIDModule(mlp(num_classes=10), teacher_ckpt=None, evaluate=["ema_0.5"], predict_with="best")
    with pytest.raises(UserError) as told:
        fit(conditional, data(labels=False), tmp_path, 1)
    for word in ("data.labels is false", "evaluate names 'ema_0.5'", "raw, ema_0.999", "predict_with names 'best'"):
        assert word in str(told.value)
    with pytest.raises(UserError, match="no classes"):
        fit(module(), data(labels=True), tmp_path, 1)
    small = RealUIDModule(MLP([1, 4, 4], width=32), teacher_ckpt=None)
    with pytest.raises(UserError, match=r"shape \(1, 4, 4\), but the data has \(1, 8, 8\)"):
        fit(small, data(), tmp_path, 1)
    few = RealUIDModule(mlp(num_classes=3), teacher_ckpt=None)
    with pytest.raises(UserError, match="3 classes, but the data has 10"):
        fit(few, data(labels=True), tmp_path, 1)


def test_a_conditional_model_trains_on_labels(tmp_path):
    made = RealUIDModule(mlp(num_classes=10), teacher_ckpt=None, alpha=0.9, beta=0.94, **FAST)
    fit(made, data(labels=True), tmp_path)
    batch = draws(y=torch.arange(6))
    assert not torch.equal(made.generator(batch.z, batch.y), made.generator(batch.z, batch.y.flip(0)))


def test_a_sample_does_not_depend_on_its_batch():
    made = module(eval_batch_size=4)
    sampler = made.samplers()["raw"]
    latents = Batch(z=draws(size=11).z)
    whole = made.generate(sampler, latents)
    parts = [made.generate(sampler, latents.rows(slice(start, start + 3))) for start in range(0, 11, 3)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_new_objective_is_one_method(tmp_path):
    class General(RealUIDModule):
        def generator_loss(self, batch):
            generated = self.path.sample(batch.t, batch.x0, self.generator(batch.z))
            teacher, fake = self.teacher(generated.t, generated.xt), self.fake(generated.t, generated.xt)
            return general_generator_loss(teacher, fake, generated.target, alpha=0.9, beta=0.94, gamma=0.8)

    left, right = (cls(mlp(), teacher_ckpt=None, alpha=0.9, beta=0.94, **FAST) for cls in (General, RealUIDModule))
    for made in (left, right):
        fit(made, data(), tmp_path, 3)
    assert not same(weights(left.generator), weights(right.generator))


def test_a_teacher_checkpoint_feeds_a_distillation(tmp_path):
    teacher = TeacherModule(mlp(), ema=[0.5], sampling_steps=[1, 2])
    run = fit(teacher, data(), tmp_path)
    run.save_checkpoint(tmp_path / "teacher.ckpt")
    for ema, expected in [(None, teacher.network), (0.5, teacher.ema[0.5].network)]:
        made = RealUIDModule(copy.deepcopy(mlp(seed=9)), teacher_ckpt=str(tmp_path / "teacher.ckpt"), teacher_ema=ema)
        made.start()
        assert same(weights(made.teacher.network), weights(expected))
