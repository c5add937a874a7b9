"""RealUIDModule with a discriminator: whose parameters the head's are, what trains it, and where it does not go."""

import pytest
import torch
from helpers import drawn, fit, mlp, points, same, started, weights
from safetensors import safe_open
from torch import nn

from realuid_lightning.checkpoints import export_generator, load_generator
from realuid_lightning.errors import UserError
from realuid_lightning.losses import adversarial_generator_loss, discriminator_loss
from realuid_lightning.modules import RealUIDModule, TeacherModule, Warmup
from realuid_lightning.networks import HeadedNetwork, bare, frozen_weights
from realuid_lightning.objectives import DMD, GAN
from realuid_lightning.paths import BridgePath, DiffusionPath, FlowMatchingPath

EVERYWHERE = GAN(t_range=(0.0, 1.0))
OBJECTIVES = {
    "UID": {"gan": GAN()},
    "RealUID": {"gan": GAN(), "alpha": 0.9, "beta": 0.94},
    "f-distill": {"gan": EVERYWHERE, "divergence": DMD(f="forward_kl")},
}


def network(seed=0, depth=2, **options):
    return mlp([3], depth=depth, seed=seed, **options)


def module(**options):
    path = options.get("path", FlowMatchingPath())
    return started(RealUIDModule(network(condition_channels=3 * path.conditions), None, **{"gan": GAN(), **options}))


def training(**options):
    return RealUIDModule(
        network(dropout=0.1), None, **{"gan": GAN(), "fake_schedule": Warmup, "generator_schedule": Warmup, **options}
    )


def test_the_heads_parameters_are_the_fake_optimizers_alone():
    made = module()
    (fake, generator), _ = made.configure_optimizers()
    owned = [{id(p) for group in each.param_groups for p in group["params"]} for each in (fake, generator)]
    head = {id(parameter) for parameter in made.fake.head.parameters()}
    assert len(head) > 2
    assert head <= owned[0]
    assert not head & owned[1]
    assert owned[0] == {id(parameter) for parameter in made.fake.parameters()}
    assert [name for name, p in made.named_parameters() if id(p) in head] == [
        f"fake.head.{name}" for name, _ in made.fake.head.named_parameters()
    ]


def test_a_generator_step_leaves_the_fake_model_and_the_head_alone_and_a_fake_step_trains_both(tmp_path):
    made = training(fake_steps=2, alpha=0.9, beta=0.94)
    update, seen = made._update, []

    def watching(optimizer, schedule, loss, of):
        before = weights(made.fake)
        norm = update(optimizer, schedule, loss, of)
        moved = {name for name, value in made.fake.state_dict().items() if not torch.equal(value, before[name])}
        if of is made.generator:
            assert not moved
            assert all(p.grad is None for p in made.fake.parameters())
        else:
            assert {"head.4.weight", "network.input.weight", "network.out.2.weight"} <= moved
        seen.append(len(moved) > 0)
        return norm

    made._update = watching
    start = training().fake.head.state_dict()  # the zeros of its last layer hold back the others at first
    fit(made, points(eval_samples=8), tmp_path)
    assert seen == [True, True, False] * 2
    assert not same(weights(made.fake.head), start)
    assert all(parameter.requires_grad for parameter in made.fake.parameters())


def test_every_parameter_of_fake_model_and_head_gets_a_gradient_and_the_generator_none():
    made = module().double()
    made.fake_loss(drawn(made)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in made.fake.parameters())
    assert all(parameter.grad is None for parameter in [*made.generator.parameters(), *made.teacher.parameters()])


@pytest.mark.parametrize("path", [FlowMatchingPath(), DiffusionPath(), BridgePath()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("part", [(0.8, 1.0), (0.0, 1.0), (0.25, 0.5)])
def test_judged_times_lie_in_the_asked_part_and_all_over_it(path, part):
    made = module(path=path, gan=GAN(t_range=part)).double()
    start, end = path.t_range
    low, high = (start + share * (end - start) for share in part)
    batch = drawn(made, size=2000)
    game = made.game(batch, batch.x1)
    judged = game.generated_at(part).t
    assert judged.min() >= low
    assert judged.max() <= high
    assert (torch.histc(judged, 10, low, high) > 140).all()  # of 200 each
    assert torch.corrcoef(torch.stack([batch.t, judged]))[0, 1].abs() < 0.1
    assert torch.equal(game.real_at(part).t, judged)


@pytest.mark.parametrize("path", [FlowMatchingPath(), DiffusionPath(), BridgePath()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("coefficients", [(1.0, 1.0, None), (0.9, 0.94, None), (0.9, 0.94, 0.8)])
@pytest.mark.parametrize("factors", [(0.3, 1.0), (5.0, 15.0)])
def test_both_losses_are_realuids_plus_the_weighted_terms_of_separate_forwards(path, coefficients, factors):
    alpha, beta, gamma = coefficients
    made, plain = (
        module(path=path, alpha=alpha, beta=beta, gamma=gamma, gan=gan).double() for gan in (GAN(*factors), None)
    )
    batch = drawn(made)
    x0 = batch.x0 if path.translates else None

    def logits(x1):
        t, xt, _ = path.sample(made.game(batch, x1).generated_at((0.8, 1.0)).t, batch.x0, x1, batch.eps)
        time, point = path.inputs(t, xt, x0)
        return made.fake(time, point, None, judged=len(x1))[1]

    def compare(got, expected, of, counterpart):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
        grads = [torch.autograd.grad(loss, list(of.parameters())) for loss in (got, expected)]
        for left, right in zip(*grads, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
        assert not torch.equal(got, counterpart)

    plain.fake = made.fake  # called with nothing to judge, it is the bare network
    generated = made.generator(batch.z, None, x0)
    matching = plain.fake_loss(batch)
    judged = discriminator_loss(logits(generated.detach()), logits(batch.x1))
    compare(made.fake_loss(batch), matching + factors[1] * judged, made.fake, matching)
    plain.generator = made.generator
    distance = plain.generator_loss(batch)
    fooled = adversarial_generator_loss(logits(generated))
    with frozen_weights(made.fake):
        compare(made.generator_loss(batch), distance + factors[0] * fooled, made.generator, distance)


def test_without_real_data_in_realuid_they_reach_the_discriminator_alone():
    made = module(alpha=1.0, beta=1.0).double()
    rows, lower, upper = [], made.fake.network.input.weight, made.fake.network.out[-1].weight
    made.fake.register_forward_pre_hook(lambda _, args, kwargs: rows.append((len(args[1]), kwargs)), with_kwargs=True)
    batch = drawn(made)
    grads = []
    for x1 in (batch.x1, batch.x1.flip(0) + 1):
        loss = made.fake_loss(batch._replace(x1=x1))
        grads.append(torch.autograd.grad(loss, [made.fake.head[-1].weight, lower, upper]))
    assert rows == [(18, {"predicted": 6, "judged": 12})] * 2  # no real sample is predicted
    (head, shared, own), (other_head, other_shared, other_own) = grads
    assert not torch.allclose(head, other_head)
    assert not torch.allclose(shared, other_shared)
    torch.testing.assert_close(own, other_own)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(name, tmp_path):
    whole, first, second = (training(fake_steps=2, ema=[0.5], **OBJECTIVES[name]) for _ in range(3))
    start = weights(whole)
    fit(whole, points(eval_samples=8), tmp_path)
    run = fit(first, points(eval_samples=8), tmp_path, 1)
    run.save_checkpoint(tmp_path / "half.ckpt")
    nn.init.normal_(second.fake.head[-1].weight)  # nothing of its own may be left
    fit(second, points(eval_samples=8), tmp_path, 2, tmp_path / "half.ckpt")
    assert same(weights(second), weights(whole))
    for part in ("fake.head.", "fake.network.", "generator.network.", "ema."):
        for other in (start, weights(first)):
            assert any(not torch.equal(whole.state_dict()[key], other[key]) for key in other if key.startswith(part))


def test_a_network_that_can_carry_no_head_is_refused_by_name_with_all_else():
    class Plain(nn.Linear):
        def forward(self, t, x, y=None):
            return super().forward(x)

    assert isinstance(RealUIDModule(Plain(2, 2), None).fake, Plain)
    with pytest.raises(UserError) as told:
        RealUIDModule(Plain(2, 2), None, gan=GAN(), alpha=2.0, fake_steps=0)
    for word in ("Plain lacks encode, decode, shape, middle_shape", "alpha must be", "fake_steps must be"):
        assert word in str(told.value)


def test_averages_and_exports_carry_no_head(tmp_path):
    made = training(ema=[0.5])
    run = fit(made, points(eval_samples=8), tmp_path, 1)
    run.save_checkpoint(tmp_path / "run.ckpt")
    assert isinstance(made.fake, HeadedNetwork)
    assert not [key for key in made.state_dict() if "head" in key and not key.startswith("fake.head.")]
    export_generator(tmp_path / "run.ckpt", tmp_path / "generator.safetensors", ema=0.5)
    with safe_open(tmp_path / "generator.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(network().state_dict())
    z = torch.randn(5, 3)
    average = made.ema[0.5](z)
    for loaded in (load_generator(tmp_path / "generator.safetensors"), load_generator(tmp_path / "run.ckpt", ema=0.5)):
        assert torch.equal(loaded(z), average)


@pytest.mark.parametrize("init", ["teacher", "random"])
def test_checkpoints_of_teachers_and_generators_load_with_a_head_in_the_way(init, tmp_path):
    teacher, distilled = TeacherModule(network(1), ema=[], sampling_steps=[1]), training(ema=[0.5])
    for name, trained in {"teacher": teacher, "generator": distilled}.items():
        run = fit(trained, points(eval_samples=8), tmp_path, 1)
        run.save_checkpoint(tmp_path / f"{name}.ckpt")
    files = {"teacher_ckpt": str(tmp_path / "teacher.ckpt"), "generator_ckpt": str(tmp_path / "generator.ckpt")}
    made = RealUIDModule(network(2), gan=GAN(), generator_ema=0.5, fake_init=init, **files)
    head = weights(made.fake.head)
    made.start()
    assert same(weights(made.teacher.network), weights(teacher.network))
    assert same(weights(bare(made.fake)), weights(teacher.network if init == "teacher" else network(2)))
    assert same(weights(made.generator), weights(distilled.ema[0.5].network))
    assert same(weights(made.fake.head), head)
    with pytest.raises(UserError, match="do not fit MLP, nothing was loaded"):
        RealUIDModule(network(depth=3), gan=GAN(), **files).start()
