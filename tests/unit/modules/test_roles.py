"""Roles: networks of their own, starts, weights that do not train; batches of updates in parts."""

import fnmatch

import pytest
import torch
from helpers import fit, mlp, points, same, weights
from torch import nn

from realuid_lightning import load_generator
from realuid_lightning.data import Batch
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, Warmup
from realuid_lightning.networks import HeadedNetwork, bare
from realuid_lightning.objectives import GAN, RealUID, SiD

CONSTANT = {"fake_schedule": Warmup, "generator_schedule": Warmup}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1e-2)


def module(**options):
    return RealUIDModule(mlp([3]), None, **{"fake_steps": 1, "ema": [0.5], **CONSTANT, **options})


# ------------------------------------------------------------------------------------------------------- objectives


def test_shorthands_are_the_objective_that_they_stand_for(tmp_path):
    whole = RealUID(0.9, 0.94, divergence=SiD(1.2))
    runs = [module(objective=whole), module(alpha=0.9, beta=0.94, divergence=SiD(1.2))]
    for made in runs:
        fit(made, points(), tmp_path)
    assert same(weights(runs[0]), weights(runs[1]))


def test_an_objective_stands_alone():
    with pytest.raises(UserError, match="so alpha, gamma, gan must be left out beside it"):
        module(objective=RealUID(), alpha=0.9, gamma=0.0, gan=GAN())


def test_a_gan_alone_trains_the_discriminator_alone(tmp_path):
    made = module(objective=GAN())
    assert isinstance(made.fake, HeadedNetwork)
    upper = made.fake.network.out[-1].weight.clone()
    generator = weights(made.generator)
    fit(made, points(), tmp_path, steps=3)
    assert torch.equal(made.fake.network.out[-1].weight, upper)  # nothing is predicted
    assert not same(weights(made.generator), generator)


# ---------------------------------------------------------------------------------------------- networks of their own


def test_a_smaller_student_trains_and_leaves_as_itself(tmp_path):
    made = module(generator_network=mlp([3], width=8, seed=5), generator_init="random", alpha=0.9, beta=0.94)
    start = weights(made.generator.network)
    run = fit(made, points(), tmp_path)
    assert not same(weights(made.generator.network), start)
    run.save_checkpoint(tmp_path / "run.ckpt")
    loaded, z = load_generator(str(tmp_path / "run.ckpt"), ema=0.5), torch.randn(5, 3)
    assert loaded.network.input.weight.shape == made.generator.network.input.weight.shape
    assert torch.equal(loaded(z), made.ema[0.5](z))
    again = module(
        generator_network=mlp([3], width=8, seed=6), generator_ckpt=str(tmp_path / "run.ckpt"), generator_ema=0.5
    )
    again.start()
    assert same(weights(again.generator), weights(made.ema[0.5].network))


def test_a_fake_model_of_its_own_begins_with_its_own_weights():
    own = mlp([3], depth=3, seed=9)
    made = module(fake_network=own, fake_init="random", gan=GAN())
    made.start()
    assert same(weights(bare(made.fake)), weights(own))
    made = module(fake_network=mlp([3], seed=9))  # alike, so the teacher's weights fit
    made.start()
    assert same(weights(made.fake), weights(made.teacher.network))


def test_starts_that_do_not_fit_are_told_together():
    with pytest.raises(UserError) as told:
        module(fake_network=mlp([3], width=8), generator_network=mlp([3], width=8), fake_frozen=["nothing.*"])
    text = str(told.value)
    assert "fake_init: teacher needs a fake_network with the teacher's weights, got another architecture" in text
    assert "set generator_init: random, or name a generator_ckpt" in text
    assert "fake_frozen: no weight is called 'nothing.*'; there are " in text
    for role in ("fake", "generator"):
        with pytest.raises(UserError, match=f"{role}_init: random needs a teacher_ckpt or a {role}_network"):
            module(**{f"{role}_init": "random"})


def test_networks_of_roles_are_checked_against_the_data(tmp_path):
    made = module(generator_network=mlp([2]), generator_init="random")
    with pytest.raises(UserError, match=r"generator_network: the network takes samples of shape \(2,\), but the data"):
        fit(made, points(), tmp_path)


# ---------------------------------------------------------------------------------------------------- frozen weights


@pytest.mark.parametrize("role", ["fake", "generator"])
def test_frozen_weights_stay_and_others_move(role, tmp_path):
    pattern = "blocks.*"
    made = module(**{f"{role}_frozen": [pattern]}, alpha=0.9, beta=0.94)
    network = made.fake if role == "fake" else made.generator.network
    before = weights(network)
    fit(made, points(), tmp_path, steps=3)
    names = [name for name, _ in network.named_parameters()]
    stayed = {name for name in names if torch.equal(network.state_dict()[name], before[name])}
    assert stayed == set(fnmatch.filter(names, pattern))
    assert 0 < len(stayed) < len(names)
    assert {name for name, weight in network.named_parameters() if not weight.requires_grad} == stayed


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match=r"generator_frozen: patterns must be a list, such as \['out.\*'\]"):
        module(generator_frozen="out.*")
    with pytest.raises(UserError, match=r"generator_frozen: \* leaves no weight to train: freeze fewer"):
        module(generator_frozen=["*"])


# ------------------------------------------------------------------------------------------------------- accumulation


OBJECTIVES = {
    "RealUID": {"alpha": 0.9, "beta": 0.94},
    "general": {"alpha": 0.9, "beta": 0.94, "gamma": 0.8},
    "SiD": {"divergence": SiD()},
    "GAN": {"gan": GAN()},
    "few steps": {"sampling_steps": 2, "alpha": 0.9, "beta": 0.94},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_of_a_batch_give_the_gradients_of_the_whole(name, tmp_path):
    ends = []
    for accumulate in (1, 2, 4):
        made = module(accumulate=accumulate, fake_optimizer=sgd, generator_optimizer=sgd, **OBJECTIVES[name])
        run = fit(made, points(batch_size=8), tmp_path, precision="64-true")
        ends.append((weights(made), run.callback_metrics))
    for end, logged in ends[1:]:
        for key, value in end.items():
            torch.testing.assert_close(value, ends[0][0][key], rtol=1e-9, atol=1e-11)
        for key, value in logged.items():
            torch.testing.assert_close(value, ends[0][1][key], rtol=1e-6, atol=1e-7)


def test_parts_see_the_draws_of_the_whole_and_spare_memory():
    made = module(accumulate=4)
    draws = made.draw(Batch(x1=torch.arange(24.0).reshape(8, 3)), torch.Generator().manual_seed(0))
    parts = draws.interleaved(4)
    assert all(part.size == 2 for part in parts)
    for field in ("x1", "x0", "z", "t"):
        joined = torch.stack([getattr(part, field) for part in parts], 1).flatten(0, 1)
        assert torch.equal(joined, getattr(draws, field))
    assert draws.interleaved(1)[0] is draws


def test_a_run_in_parts_resumes_exactly(tmp_path):
    def run(steps, ckpt=None):
        made = module(accumulate=2, alpha=0.9, beta=0.94, gan=GAN())
        return made, fit(made, points(), tmp_path, steps, ckpt)

    whole, _ = run(4)
    _, half = run(2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(4, tmp_path / "half.ckpt")
    assert same(weights(whole), weights(resumed))


def test_batches_that_cannot_be_shared_out_are_refused(tmp_path):
    for options, told in [
        ({"accumulate": 3}, "data.batch_size must be a multiple of 3, accumulate 3, got 4"),
        ({"accumulate": 2, "sampling_steps": 3}, "a multiple of 6, accumulate 2 times sampling_steps 3, got 4"),
    ]:
        with pytest.raises(UserError, match=told):
            fit(module(**options), points(), tmp_path)
    with pytest.raises(UserError, match="accumulate must be at least 1, got 0"):
        module(accumulate=0)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:The .train_dataloader. does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_a_condition_of_several_tensors_goes_through_training_and_evaluation(tmp_path):
    class Told(nn.Module):
        """A network that is told a vector and a mask."""

        def __init__(self):
            super().__init__()
            self.network, self.text = mlp([3]), nn.Linear(5, 3)

        def forward(self, t, x, y):
            return self.network(t, x + (self.text(y["text"]) * y["mask"][..., None]).sum(1))

    made = RealUIDModule(Told(), None, alpha=0.9, beta=0.94, accumulate=2, fake_steps=1, ema=[0.5], **CONSTANT)
    x1, y = torch.randn(16, 3), {"text": torch.randn(16, 2, 5), "mask": torch.rand(16, 2).round()}
    loader = torch.utils.data.DataLoader([Batch(x1=x1, y=y)] * 2, batch_size=None)
    start = weights(made.generator)
    fit(made, loader, tmp_path)
    assert not same(weights(made.generator), start)
    rows = Batch(z=x1[:5], y={key: value[:5] for key, value in y.items()})
    samples = made.generate(made.samplers()["raw"], rows)
    torch.testing.assert_close(samples, made.generator(x1[:5], rows.y))
