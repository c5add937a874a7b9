"""Fake models and generators that are adapters on the teacher: starts, updates, averages, files, resume, bytes."""

import sys

import pytest
import torch
import yaml
from helpers import checkpoint, fit, mlp, points, same, trainer, weights
from torch import nn

from realuid_lightning import load_generator
from realuid_lightning.checkpoints import RECORD, export_generator
from realuid_lightning.cli.training import run
from realuid_lightning.data import Batch
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, Warmup
from realuid_lightning.modules.checks import divided_faults
from realuid_lightning.networks import HeadedNetwork, LoRA, bare, shares_weights
from realuid_lightning.objectives import GAN, R1GAN
from realuid_lightning.planning import Rehearsal
from realuid_lightning.planning.rehearsal import size_of

pytestmark = pytest.mark.usefixtures("peft")

CONSTANT = {"fake_schedule": Warmup, "generator_schedule": Warmup}
BOTH = {"fake_network": LoRA(2), "generator_network": LoRA(3, ["blocks.*"])}


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2, weight_decay=0.1)


def module(network=None, seed=1, **options):
    network = network or mlp([3])
    torch.manual_seed(seed)
    chosen = {"fake_steps": 2, "ema": [0.5], "alpha": 0.9, "beta": 0.94, **CONSTANT, **BOTH}
    optimizers = {"fake_optimizer": adam, "generator_optimizer": adam}
    return RealUIDModule(network, None, **{**chosen, **optimizers, **options})


def points_of(made):
    """A time, and a point for each network."""
    torch.manual_seed(9)
    return torch.rand(5), torch.randn(5, 3)


# ---------------------------------------------------------------------------------------------------------- training


def test_all_begin_as_the_teacher_once_its_file_is_read(tmp_path):
    teacher = mlp([3], seed=8)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    made = RealUIDModule(mlp([3]), str(tmp_path / "teacher.pt"), **BOTH)
    made.start()
    expected = teacher(*points_of(made))
    for network in (made.teacher, made.fake, made.generator.network, made.ema[0.999].network.network):
        assert torch.equal(network(*points_of(made)), expected)
        assert shares_weights(network, made.teacher)


def test_running_statistics_are_the_teachers_at_the_start_and_their_own_later():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.inner = nn.BatchNorm1d(3), mlp([3])

        def forward(self, t, x, y=None):
            return self.inner(t, self.norm(x), y)

    made = module(Normed(), generator_network=LoRA(2))
    made.teacher.network.norm.running_mean.fill_(7.0)
    made.start()
    assert (made.fake.norm.running_mean == 7).all()
    made.fake(*points_of(made))
    assert (made.teacher.network.norm.running_mean == 7).all()
    assert not (made.fake.norm.running_mean == 7).any()


def test_training_moves_adapters_alone_and_averages_follow_them(tmp_path):
    made = module()
    before = weights(made.teacher)
    start, sizes = weights(made.generator), {}
    run = fit(made, points(), tmp_path, steps=3)
    for role, optimizer in zip((made.fake, made.generator), run.optimizers, strict=True):
        trained = [weight for weight in role.parameters() if weight.requires_grad]
        assert [id(weight) for weight in optimizer.param_groups[0]["params"]] == [id(weight) for weight in trained]
        assert set(optimizer.state) == set(trained)
        sizes[id(role)] = sum(weight.numel() for weight in trained)
    assert same(weights(made.teacher), before)
    moved = {name for name, value in weights(made.generator).items() if not torch.equal(value, start[name])}
    assert moved == {name for name, weight in made.generator.named_parameters() if weight.requires_grad}
    average = weights(made.ema[0.5].network)
    assert all(torch.equal(average[name], start[name]) for name in average.keys() - moved)
    assert not any(torch.equal(average[name], weights(made.generator)[name]) for name in moved)
    assert shares_weights(made.ema[0.5], made.teacher)


def test_full_rank_adapters_have_the_gradient_of_the_weight_that_they_adapt():
    """With A the identity, ``dL/dB`` is ``dL/dW``, as a network of its own has it."""
    made, plain = module(generator_network=LoRA(16, ["blocks.0.first.2"])), module(generator_network=None)
    adapted = made.generator.network.blocks[0].first[2]
    nn.init.eye_(adapted.lora_A["distilled"].weight)
    batch = points(8)
    losses = []
    for each in (made, plain):
        run = trainer()
        run.datamodule, each.trainer = batch, run
        torch.manual_seed(5)
        drawn = each.draw(Batch(x1=torch.randn(8, 3)), torch.Generator().manual_seed(2))
        shaken = torch.Generator().manual_seed(4)
        for weight in each.fake.parameters():
            if weight.requires_grad:
                weight.data += 0.1 * torch.randn(weight.shape, generator=shaken)
        losses.append(each.generator_loss(drawn))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1])
    expected = plain.generator.network.blocks[0].first[2].weight.grad
    assert expected.norm() > 1e-4
    torch.testing.assert_close(adapted.lora_B["distilled"].weight.grad, expected)


@pytest.mark.parametrize("gan", [GAN(), R1GAN(0.5)], ids=["once", "differentiated twice"])
def test_a_head_and_patterns_of_frozen_weights_go_with_adapters(gan, tmp_path):
    made = module(gan=gan, fake_frozen=["blocks.0.*"], generator_frozen=["*.lora_A.*"])
    assert isinstance(made.fake, HeadedNetwork)
    before = weights(made.fake), weights(made.generator)
    fit(made, points(), tmp_path)
    after = weights(made.fake), weights(made.generator)
    moved = [
        {name for name in old if not torch.equal(old[name], new[name])} for old, new in zip(before, after, strict=True)
    ]
    assert any(name.startswith("head.") for name in moved[0])
    assert {name.split(".")[1] for name in moved[0] if name.startswith("network.")} == {"time_embed", "input", "out"}
    assert moved[1]
    assert all(".lora_B." in name for name in moved[1])
    assert shares_weights(bare(made.fake), made.teacher)


def test_one_role_may_be_adapters_beside_a_whole_network(tmp_path):
    made = module(generator_network=None)
    fit(made, points(), tmp_path)
    assert not shares_weights(made.generator, made.teacher)
    assert shares_weights(made.fake, made.teacher)
    assert not any(
        torch.equal(*pair) for pair in zip(made.generator.parameters(), made.teacher.parameters(), strict=True)
    )


# ------------------------------------------------------------------------------------------------------------- files


def test_resuming_is_exact_and_a_checkpoint_holds_the_backbone_once(tmp_path):
    whole, first, second = (module(mlp([3], width=128)) for _ in range(3))
    fit(whole, points(), tmp_path, 4)
    fit(first, points(), tmp_path, 2).save_checkpoint(tmp_path / "half.ckpt")
    fit(second, points(), tmp_path, 4, tmp_path / "half.ckpt")
    assert same(weights(second), weights(whole))
    assert shares_weights(second.fake, second.teacher)
    held = sum(weight.nbytes for weight in whole.parameters())  # each once
    trained = sum(weight.nbytes for weight in whole.parameters() if weight.requires_grad)
    size = (tmp_path / "half.ckpt").stat().st_size
    assert held + 2 * trained < size < held + 2 * trained + 150_000
    full = module(mlp([3], width=128), fake_network=None, generator_network=None)
    fit(full, points(), tmp_path, 2).save_checkpoint(tmp_path / "full.ckpt")
    assert size < (tmp_path / "full.ckpt").stat().st_size / 3


def test_adapters_of_another_rank_or_none_are_refused_by_name(tmp_path):
    fit(module(), points(), tmp_path).save_checkpoint(tmp_path / "run.ckpt")
    hint = "adapters .LoRA. of another rank or target, or on one side alone"
    for options, name in (
        ({"fake_network": LoRA(4)}, r"fake\.time_embed\.0\.lora_A\.distilled\.weight \(2, 64\), expected \(4, 64\)"),
        ({"generator_network": LoRA(3, ["blocks.*", "input"])}, r"missing: generator\.network\.input\.base_layer"),
        ({"generator_network": None}, r"unexpected: .*base_layer"),
    ):
        with pytest.raises(UserError, match=rf"(?s){name}.*{hint}"):
            fit(module(**options), points(), tmp_path, 4, tmp_path / "run.ckpt")


def test_a_generator_leaves_as_a_plain_network(tmp_path, monkeypatch):
    made = module()
    fit(made, points(), tmp_path, 3).save_checkpoint(tmp_path / "run.ckpt")
    z = torch.randn(50, 3)
    monkeypatch.setitem(sys.modules, "peft", None)  # which only training needs
    for ema, network in ((None, made.generator), (0.5, made.ema[0.5])):
        export_generator(str(tmp_path / "run.ckpt"), tmp_path / "out.safetensors", ema)
        for file, average in ((tmp_path / "run.ckpt", ema), (tmp_path / "out.safetensors", None)):
            loaded = load_generator(str(file), ema=average)
            assert loaded.network.state_dict().keys() == mlp([3]).state_dict().keys()
            with torch.no_grad():
                torch.testing.assert_close(loaded(z), network(z), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(made.generator(z), made.ema[0.5](z), atol=1e-4)


def test_a_network_of_its_own_goes_on_from_adapters(tmp_path):
    made = module()
    fit(made, points(), tmp_path, 3).save_checkpoint(tmp_path / "run.ckpt")
    again = module(generator_network=None, generator_ckpt=str(tmp_path / "run.ckpt"))
    again.start()
    z = torch.randn(50, 3)
    torch.testing.assert_close(again.generator(z), made.generator(z), rtol=1e-6, atol=1e-6)


def test_guidance_asks_the_teacher_alone_what_stands_for_no_condition():
    made = module(mlp([3], num_classes=3, null_label=True), guidance=1.5, guide_fake=True)
    assert shares_weights(made.fake, made.teacher)


def test_starts_that_adapters_cannot_make_are_refused_together():
    with pytest.raises(UserError) as caught:
        module(fake_init="random", generator_ckpt="gone.ckpt")
    told = str(caught.value)
    assert "fake_network: LoRA begins as the teacher, whose weights it shares: leave fake_init: random out" in told
    assert "generator_network: LoRA begins as the teacher, whose weights it shares: leave generator_ckpt out" in told
    with pytest.raises(UserError, match="'gone' names no layer of MLP"):
        module(fake_network=LoRA(2, ["gone"]))


# ------------------------------------------------------------------------------------------------------------- bytes


def test_a_plan_counts_what_a_run_holds(tmp_path):
    plain = {"fake_network": None, "generator_network": None}
    totals = []
    for options in ({}, plain):
        made = module(mlp([3], width=64), **options)
        planned = Rehearsal(made, points(), trainer())
        run = fit(made, points(), tmp_path)
        held = {
            "weights": size_of([*made.parameters(), *made.buffers()]),
            "gradients": size_of([weight for weight in made.parameters() if weight.requires_grad]),
            "states": size_of([list(each.state.values()) for each in run.optimizers]),
        }
        found = {name: sum(getattr(network, name) for network in planned.networks) for name in held}
        assert found["weights"] == held["weights"]
        assert found["gradients"] == held["gradients"]
        assert found["states"] == held["states"]
        run.save_checkpoint(tmp_path / "run.ckpt")
        assert planned.checkpoint() == pytest.approx((tmp_path / "run.ckpt").stat().st_size, rel=0.3)
        totals.append(sum(held.values()))
    assert totals[0] < totals[1] / 4


# ------------------------------------------------------------------------------------------------------- as users type


def test_a_config_names_adapters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"network": {"class_path": "MLP", "init_args": {"width": 16}}, "teacher_ckpt": None, "fake_steps": 1}
    lora = {"class_path": "LoRA", "init_args": {"rank": 2, "target": ["blocks.*"]}}
    config = {
        "model": {"class_path": "RealUIDModule", "init_args": options | {"fake_network": lora}},
        "data": {"source": {"class_path": "Toy2D", "init_args": {"name": "moons"}}, "batch_size": 8, "eval_samples": 8},
        "trainer": {"max_steps": 1, "limit_val_batches": 0, "accelerator": "cpu"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    words = ["--config", "run.yaml", "--model.generator_network", "LoRA", "--model.generator_network.rank", "1"]
    monkeypatch.setattr("sys.argv", ["realuid", "fit", *words])
    run(["fit", *words])
    made = load_generator(next(tmp_path.rglob("last.ckpt")))
    assert type(made.network).__name__ == "MLP"


def test_networks_that_are_divided_refuse_adapters_once():
    (told,) = divided_faults(module().networks)
    assert "fake cannot follow, for it shares the weights of teacher (LoRA); use ddp_per_network" in told
    assert not list(divided_faults(module(fake_network=None, generator_network=None).networks))


def test_a_module_alone_writes_the_plain_record():
    made = module()
    assert checkpoint(made)[RECORD]["network"] == made.teacher.network.recorded()
