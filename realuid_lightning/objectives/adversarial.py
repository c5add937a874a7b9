"""Adversarial training: a discriminator on the fake model's middle, alone or beside another objective."""

from collections.abc import Sequence

from torch import Tensor, nn

from realuid_lightning.errors import Faults
from realuid_lightning.losses import adversarial_generator_loss, discriminator_loss
from realuid_lightning.networks import MiddleHead
from realuid_lightning.objectives.base import Objective
from realuid_lightning.objectives.game import Game
from realuid_lightning.objectives.sums import Sum


class GAN(Objective):
    """The adversarial term: a head on the fake model's middle tells real samples from generated ones, noised alike.

    The distillation losses sum over the dimensions of a sample, the adversarial ones have one logit a sample; the
    weights are meant for exactly that. Published pairs (generator, discriminator) are (0.3, 1), (1, 3) and (5, 15).

    Args:
        generator_weight: Factor of ``adversarial_generator_loss`` in the generator's loss, above 0.
        discriminator_weight: Factor of ``discriminator_loss`` in the fake model's loss, above 0; about three times the
            generator's.
        t_range: Part of the path's time range, as two fractions ``0 <= low < high <= 1``, in which the discriminator
            compares samples; 1 is the data end. Equal fractions are unequal noise: [0.8, 1] is up to ``sigma`` 0.25 on
            the linear flow path, 0.085 on EDM's.

    Example:
        >>> from realuid_lightning.networks import MLP
        >>> head = GAN(1.0, 3.0).head(MLP([2]))  # from the features in the middle to a logit
    """

    trains_partly = True  # without predictions, the upper half has no part
    looks_elsewhere = True

    def __init__(
        self,
        generator_weight: float = 0.3,
        discriminator_weight: float = 1.0,
        t_range: Sequence[float] = (0.8, 1.0),
    ) -> None:
        faults = Faults(type(self).__name__)
        faults.finite(generator_weight=generator_weight, discriminator_weight=discriminator_weight, t_range=t_range)
        faults.unless(generator_weight > 0, f"generator_weight must be above 0, got {generator_weight}")
        faults.unless(discriminator_weight > 0, f"discriminator_weight must be above 0, got {discriminator_weight}")
        faults.unless(
            len(t_range) == 2 and 0 <= t_range[0] < t_range[1] <= 1,
            f"t_range must be two fractions with 0 <= low < high <= 1, got {list(t_range)}",
        )
        faults.raise_any()
        self.generator_weight = generator_weight
        self.discriminator_weight = discriminator_weight
        self.t_range = (t_range[0], t_range[1])

    @property
    def gives_ratio(self) -> bool:  # type: ignore[override]
        """Whether the discriminator learns at all times: then its logits are logs of ``p_real / p_generated``."""
        return self.t_range == (0.0, 1.0)

    def head(self, network: nn.Module) -> nn.Module:
        """Return a head on the network's middle features."""
        return MiddleHead(network)

    def prepare_fake(self, game: Game) -> None:
        """Expect logits of both kinds of samples."""
        game.expect(logits=[game.generated_at(self.t_range), game.real_at(self.t_range)])

    def fake(self, game: Game) -> Tensor:
        """Return the weighted ``discriminator_loss``."""
        generated, real = game.generated_at(self.t_range), game.real_at(self.t_range)
        return self.discriminator_weight * discriminator_loss(game.logits(generated), game.logits(real))

    def prepare_generator(self, game: Game) -> None:
        """Expect logits of generated samples."""
        game.expect(logits=[game.generated_at(self.t_range)])

    def generator(self, game: Game) -> Tensor:
        """Return the weighted ``adversarial_generator_loss``."""
        logits = game.logits(game.generated_at(self.t_range))
        return self.generator_weight * adversarial_generator_loss(logits)


class Adversarial(Sum):
    """An objective with an adversarial term beside it: both players minimise the sums of both losses.

    Args:
        objective: Matches the fake model, such as ``RealUID(0.98, 0.96)``.
        gan: The adversarial term, such as ``GAN()``; it alone has a discriminator.

    Example:
        >>> from realuid_lightning.objectives import RealUID
        >>> Adversarial(RealUID(0.98, 0.96), GAN(0.3, 1.0)).needs_real
        True
    """

    def __init__(self, objective: Objective, gan: Objective) -> None:
        super().__init__([objective, gan])
