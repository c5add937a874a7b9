"""A discriminator on several layers of the fake model, with the gradient penalty R1."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from realuid_lightning.errors import Faults
from realuid_lightning.lightning_internals import FakeTensorMode
from realuid_lightning.networks import Encoding, MiddleHead, logit_layers
from realuid_lightning.objectives.adversarial import GAN
from realuid_lightning.objectives.game import Game


class R1GAN(GAN):
    """``GAN`` with the penalty ``gamma / 2 E_real |grad D(xt)|^2`` on the discriminator (R1: arXiv 1801.04406, eq. 9).

    With it, training converges near the balance that a GAN alone circles. The squared norm sums over the dimensions of
    a sample, the gradient is that by ``xt``, and ``D`` the mean logit: all layers take one backward pass, within the
    graph of the forward that gives the logits. The fake model is differentiated twice, for which it cannot be compiled
    (``compile: true``) nor recomputed with ``checkpoint: cheap``.

    Args:
        gamma: Weight of the penalty, above 0: 10 in the paper, 1e-4 for discriminators on pretrained features (D2O).
        layers: Features that get a logit of their own beside the middle's: indices of ``Encoding.skips``, what the
            network's lower half hands to its upper half. All logits count alike.
        generator_weight: As in ``GAN``, like all that follow.
        discriminator_weight: As there; a factor of the penalty, too.
        t_range: As there.

    Example:
        >>> from realuid_lightning.objectives import Adversarial, RealUID
        >>> objective = Adversarial(RealUID(0.98, 0.96), R1GAN(gamma=1.0))
    """

    differentiates = True
    gives_ratio = False  # whatever the times: the penalty flattens the logits

    def __init__(
        self,
        gamma: float,
        layers: Sequence[int] = (),
        generator_weight: float = 0.3,
        discriminator_weight: float = 1.0,
        t_range: Sequence[float] = (0.8, 1.0),
    ) -> None:
        faults = Faults(type(self).__name__)
        faults.finite(gamma=gamma)
        faults.unless(gamma > 0, f"gamma must be above 0, got {gamma}; GAN has no penalty")
        faults.unless(len(set(layers)) == len(layers), f"layers must differ, got {list(layers)}")
        faults.attempt(lambda: super(R1GAN, self).__init__(generator_weight, discriminator_weight, t_range))
        faults.raise_any()
        self.gamma, self.layers = gamma, tuple(layers)

    def head(self, network: nn.Module) -> nn.Module:
        """Return a head on the network's middle, and on the chosen layers."""
        faults = Faults(type(self).__name__)
        faults.unless(
            getattr(network, "checkpoint", False) != "cheap",
            "the fake model is differentiated twice, which checkpoint: cheap cannot: set it to true or false",
        )
        faults.raise_any()
        return LayersHead(network, self.layers) if self.layers else MiddleHead(network)

    def prepare_fake(self, game: Game) -> None:
        """Expect logits of both kinds of samples, with derivatives where they are real."""
        game.differentiate(game.real_at(self.t_range))
        super().prepare_fake(game)

    def fake(self, game: Game) -> Tensor:
        """Return the weighted ``discriminator_loss`` with the penalty."""
        real = game.real_at(self.t_range)
        game.differentiate(real)
        loss, logits = super().fake(game), game.logits(real)
        (slope,) = torch.autograd.grad(len(logits) * logits.mean(), real.xt, create_graph=True)
        return loss + self.discriminator_weight * self.gamma / 2 * slope.square().flatten(1).sum(1).mean()


class LayersHead(nn.Module):
    """A logit of the middle and one of each chosen layer, ``(B, 1 + layers)``.

    Args:
        network: The network; it is run once, without memory or draws, to learn the shapes of its features.
        layers: Indices of ``Encoding.skips``.

    Raises:
        UserError: If there are no such layers.
    """

    def __init__(self, network: nn.Module, layers: Sequence[int]) -> None:
        super().__init__()
        self.chosen, self.middle = tuple(layers), MiddleHead(network)
        shapes = _skip_shapes(network)
        faults, found = Faults("R1GAN"), ", ".join(map(str, range(len(shapes)))) or "none"
        faults.unless(
            set(layers) <= set(range(len(shapes))),
            f"layers must be among the skips that encode of {type(network).__name__} returns ({found}), got {layers}",
        )
        faults.raise_any()
        self.layers = nn.ModuleList(nn.Sequential(*logit_layers(*shapes[each])) for each in layers)

    def forward(self, encoding: Encoding) -> Tensor:
        """Return the logits of a network's encodings."""
        others = [layer(encoding.skips[each]) for layer, each in zip(self.layers, self.chosen, strict=True)]
        return torch.cat([self.middle(encoding)[:, None], *others], 1)


def _skip_shapes(network: Any) -> list[torch.Size]:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        like, (channels, *size) = next(network.parameters()), network.shape
        x = like.new_zeros(1, channels + getattr(network, "condition_channels", 0), *size)
        y = None if getattr(network, "num_classes", None) is None else like.new_zeros(1, dtype=torch.int64)
        return [skip.shape[1:] for skip in network.encode(like.new_zeros(1), x, y).skips]
