"""D2O: no term of the teacher, and the weights that D2O-F freezes."""

import fnmatch

import pytest
import torch
from games import compare, draws, module, turn, unet
from helpers import fit, weights

from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.losses import adversarial_generator_loss
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import DhariwalUNet, SongUNet
from realuid_lightning.objectives import D2O, R1GAN
from realuid_lightning.objectives.d2o import FROZEN

SMALL = {"channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.0}


def songunet():
    return SongUNet(8, 1, model_channels=8, **SMALL)


def dhariwal():
    return DhariwalUNet(8, 1, model_channels=32, **SMALL)


def matched(network, patterns):
    return {name for name, _ in network.named_parameters() if any(fnmatch.fnmatch(name, each) for each in patterns)}


def test_the_share_of_frozen_weights_is_the_published_one():
    """84.4% of 56.4 M weights: the paper's network for CIFAR-10, EDM's NCSN++."""
    ncsnpp = {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2}
    with torch.device("meta"):
        network = SongUNet(32, 3, channel_mult=[2, 2, 2], resample_filter=[1, 3, 3, 1], **ncsnpp)
    counts = {name: weight.numel() for name, weight in network.named_parameters()}
    frozen = sum(counts[name] for name in matched(network, FROZEN["SongUNet"]))
    assert sum(counts.values()) == pytest.approx(56.4e6, abs=0.05e6)
    assert frozen / sum(counts.values()) == pytest.approx(0.844, abs=5e-4)


@pytest.mark.parametrize("network", [unet, songunet, dhariwal])
def test_convolutions_of_blocks_are_frozen_and_all_else_trains(network):
    made = network()
    frozen = matched(made, FROZEN[type(made).__name__])
    large = [name for name, part in made.named_modules() if getattr(part, "kernel_size", None) == (3, 3)]
    assert [name for name in large if f"{name}.weight" not in frozen] == [large[0], large[-1]]
    assert not [name for name in frozen if any(part in name for part in ("norm", "qkv", "skip", "emb", "map"))]


@pytest.mark.parametrize(
    ("network", "upper"),
    [(unet, ("output_blocks.", "out.")), (songunet, ("dec.4x4_block", "dec.8x8_"))],
)
def test_the_fake_model_is_trained_as_a_discriminator_alone(network, upper):
    made = module(D2O(), network)
    loss, gradients = turn(made, "fake")
    for (name, _), gradient in zip(made.fake.named_parameters(), gradients, strict=True):
        assert bool(gradient.any()) is not name.removeprefix("network.").startswith(upper), name
    made.objective = R1GAN(1e-4, generator_weight=1.0, discriminator_weight=1.0)
    compare((loss, gradients), turn(made, "fake"))


def test_the_generator_wants_to_look_real_and_nothing_else():
    made = module(D2O())
    batch = draws(made)
    game = made.game(batch, made.generated(batch))
    expected = adversarial_generator_loss(game.logits(game.generated_at(made.objective.t_range)))
    made.teacher.forward = None  # a call of it would raise
    compare(turn(made, "generator")[0], expected)


@pytest.mark.parametrize("network", [unet, songunet])
def test_frozen_weights_stay_and_others_move(network, tmp_path):
    torch.manual_seed(0)
    made = network()
    frozen = FROZEN[type(made).__name__]
    model = RealUIDModule(made, None, objective=D2O(layers=[1]), fake_steps=1, ema=[], generator_frozen=frozen)
    for part in (model.generator.network, model.fake):
        for weight in part.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    before = weights(model.generator.network)
    model._started = True  # as it is
    fit(model, MatchingDataModule(Digits(), 4), tmp_path, steps=3)
    network, now = model.generator.network, weights(model.generator.network)
    moved = {name for name in now if not torch.equal(now[name], before[name])}
    kept = matched(network, frozen)
    assert not moved & kept
    # Behind norms of one channel a group, shifts of a whole channel get no gradient.
    assert len(moved) > 0.7 * (len(dict(network.named_parameters())) - len(kept))
