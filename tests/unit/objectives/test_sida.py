"""SiDA: its losses against the original's, written out, and what they share with SiD."""

import pytest
import torch
from games import compare, draws, mlp, module, turn, unet
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from realuid_lightning.errors import UserError
from realuid_lightning.networks import HeadedNetwork, bare
from realuid_lightning.objectives import Adversarial, RealUID, SiD, SiDAdversary
from realuid_lightning.paths import DiffusionPath

LSG, LSG_GAN, LSD = 100.0, 0.01, 1.0


def sida(network=unet, **options):
    objective = Adversarial(RealUID(divergence=SiD(1.0)), SiDAdversary(**options))
    return module(objective, network, path=DiffusionPath())


def bottleneck(network, path, t, xt):
    """What the encoder returns last, before the middle blocks."""
    encoding = bare(network).encode(*path.inputs(t, xt))
    return encoding.skips[-1] if encoding.skips else encoding.middle


@pytest.mark.parametrize("network", [unet, mlp])
def test_the_generators_loss_is_the_originals_over_25(network):
    made = sida(network)
    batch, path = draws(made, player="generator"), made.path
    loss, gradients = turn(made, "generator", batch)

    x = made.generated(batch)
    t, xt, _ = made.sample(batch, x)
    teacher, fake = path.predict(made.teacher, t, xt), path.predict(bare(made.fake), t, xt)
    weight = (x - teacher).abs().mean((1, 2, 3), keepdim=True).clip(min=1e-5).detach()
    matching = (teacher - fake) * (teacher - x - (teacher - fake)) / weight
    logits = bottleneck(made.fake, path, t, xt).mean(1, keepdim=True).clamp(-10, 10)
    adversarial = cross_entropy(logits, torch.ones_like(logits)) / weight
    total = 0.5 * LSG * matching.sum() / len(x) + 0.5 * LSG_GAN * 64 * adversarial.sum() / len(x)

    (pushed,) = torch.autograd.grad(adversarial.sum(), xt, retain_graph=True)
    assert pushed.abs().max() > 1e-4
    compare(loss, total / 25)
    expected = torch.autograd.grad(total / 25, list(made.generator.parameters()), allow_unused=True)
    compare(gradients, [torch.zeros_like(g) if e is None else e for g, e in zip(gradients, expected, strict=True)])


@pytest.mark.parametrize("network", [unet, mlp])
def test_the_fake_models_loss_is_the_originals_less_a_constant(network):
    made = sida(network)
    batch, path = draws(made), made.path
    loss, gradients = turn(made, "fake", batch)

    x = made.generated(batch).detach()
    t, xt, _ = made.sample(batch, x)
    real = made.sample(batch, batch.x1).xt  # the same times and noise
    weight = path.weight(t).reshape(-1, 1, 1, 1)
    at_generated, at_real = (bottleneck(made.fake, path, t, each).mean(1, keepdim=True) for each in (xt, real))
    seems_real = cross_entropy(at_real, torch.ones_like(at_real))
    seems_generated = cross_entropy(at_generated, torch.zeros_like(at_generated))
    matching = weight * (path.predict(bare(made.fake), t, xt) - x) ** 2
    total = matching.sum() / len(x) + LSD * (weight * (seems_real + seems_generated) / 2).sum() / len(x)

    compare(loss, total - (weight * x**2).sum() / len(x))
    expected = torch.autograd.grad(total, list(made.fake.parameters()), allow_unused=True)
    compare(gradients, [torch.zeros_like(g) if e is None else e for g, e in zip(gradients, expected, strict=True)])


def test_the_discriminator_adds_no_weight_and_no_forward():
    made, calls = sida(), []
    assert isinstance(made.fake, HeadedNetwork)
    assert not list(made.fake.head.parameters())
    for name in ("teacher", "fake"):
        getattr(made, name).register_forward_pre_hook(
            lambda _, args, kwargs, name=name: calls.append((name, len(args[1]), kwargs.get("judged", 0))),
            with_kwargs=True,
        )
    turn(made, "fake")
    assert calls == [("fake", 6, 6)]  # of which three are predicted for, too
    calls.clear()
    turn(made, "generator")
    assert sorted(calls) == [("fake", 3, 3), ("teacher", 3, 0)]


def test_weights_act():
    usual, other = sida(), sida(generator_weight=0.5, discriminator_weight=2.0)
    plain = module(RealUID(divergence=SiD(1.0)), path=DiffusionPath())
    for player, factor in (("fake", 2.0), ("generator", 2500.0)):
        without = turn(plain, player, draws(plain, player=player))[0]
        compare(turn(other, player)[0] - without, factor * (turn(usual, player)[0] - without))
    with pytest.raises(UserError) as told:
        SiDAdversary(generator_weight=0.0, discriminator_weight=-1.0)
    assert all(name in str(told.value) for name in ("generator_weight", "discriminator_weight"))
