"""What tests of objectives build: modules in float64 whose networks differ and act, and their turns."""

import torch
from torch import nn

from realuid_lightning.data import Batch
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import MLP, UNet, bare


def unet(**options):
    return UNet(8, 1, 32, 1, [1, 2], [4], 32, **options)


def mlp(**options):
    return MLP([1, 8, 8], 16, 2, **options)


def scattered(network, seed):
    """Fill every weight, so that none hides what is behind it."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=rng)
    return network


def module(objective, network=unet, **options):
    """A started module in float64, of three different networks and a head that tells samples apart."""
    made = RealUIDModule(scattered(network(), 0), None, **{"objective": objective, **options})
    made.start()
    scattered(made.fake, 1)
    scattered(made.generator.network, 2)
    return made.double()


def draws(made, size=3, seed=0, player="fake"):
    rng = torch.Generator().manual_seed(seed)
    x1 = torch.randn(size, 1, 8, 8, generator=rng, dtype=torch.float64)
    return made.draw(Batch(x1=x1), rng, made.path.generator_t if player == "generator" else None)


def turn(made, player, batch=None):
    """The loss of a player, and its gradient by each of its weights, zeros where there is none."""
    loss = getattr(made, f"{player}_loss")(draws(made, player=player) if batch is None else batch)
    weights = [weight for weight in getattr(made, player).parameters() if weight.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    pairs = zip(weights, found, strict=True)
    return loss, [torch.zeros_like(weight) if grad is None else grad for weight, grad in pairs]


def compare(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


def encoder(network):
    """The shapes of the skips of one sample, by a run of the network."""
    x = torch.zeros(1, 1, 8, 8)
    return [tuple(skip.shape[1:]) for skip in bare(network).encode(torch.zeros(1), x, None).skips]
