"""SiDA's adversarial term: the fake model's encoder is the discriminator, without a weight of its own."""

import torch
from torch import Tensor, nn

from realuid_lightning.errors import Faults
from realuid_lightning.losses import adversarial_generator_loss, discriminator_loss, normalising_weight
from realuid_lightning.networks import Encoding
from realuid_lightning.objectives.base import Objective
from realuid_lightning.objectives.game import Game

CLIP = 10.0  # logits beyond it push the generator no more


class SiDAdversary(Objective):
    """SiDA is this beside SiD: ``Adversarial(RealUID(divergence=SiD(1.0)), SiDAdversary())`` (arXiv 2410.14919).

    Logits are means over the channels of what the fake model's encoder returns last, one a pixel of the bottleneck.
    They share points, noise and forwards with the matching. With ``b`` the mean softplus over batch and pixels, ``N``
    the values of a sample and ``w = 1 / mean|x1 - f*_x1|``, SiD's ``normalising_weight``,

    - the fake model minimises, beside its matching loss, ``E w_t (b(D(xt_gen)) + b(-D(xt_real))) / 2``, where ``w_t``
      is the path's weight: EDM's in the original;
    - the generator minimises, beside SiD's loss, ``2e-4 N E w b(-D(xt_gen))``: one mean of the local batch, weighed by
      each of its samples. Under DDP each process has its own, and so has each micro-batch (``accumulate``).

    The original minimises ``0.5 lsg S + 0.5 lsg_gan N E w b`` with ``lsg = 100`` and ``lsg_gan = 0.01``, where ``S`` is
    half our SiD loss; so its loss is 25 times ours. Adam makes the same of both, but for its eps; a ``clip`` of
    gradients, which the original has not, acts as one of 25 times the norm there. Its start without the term (the fake
    model alone for 100k images, then SiD until 200k) is left out.

    SiD2A is fine-tuning from a run of SiD, with fresh optimizers::

        model:
          generator_ckpt: runs/sid/checkpoints/last.ckpt
          generator_ema: 0.999
          generator_optimizer: {class_path: RecipeAdam, init_args: {lr: 1.0e-5}}
          fake_optimizer: {class_path: RecipeAdam, init_args: {lr: 1.0e-5}}
          objective:
            class_path: Adversarial
            init_args:
              objective: {class_path: RealUID, init_args: {divergence: {class_path: SiD, init_args: {alpha_sid: 1.0}}}}
              gan: SiDAdversary

    Args:
        generator_weight: Factor in the generator's loss, above 0: ``2 lsg_gan / lsg``.
        discriminator_weight: Factor in the fake model's, above 0: ``lsd``.

    Example:
        >>> from realuid_lightning.objectives import Adversarial, RealUID, SiD
        >>> objective = Adversarial(RealUID(divergence=SiD(1.0)), SiDAdversary())
    """

    trains_partly = True

    def __init__(self, generator_weight: float = 2e-4, discriminator_weight: float = 1.0) -> None:
        faults = Faults("SiDAdversary")
        faults.finite(generator_weight=generator_weight, discriminator_weight=discriminator_weight)
        faults.unless(generator_weight > 0, f"generator_weight must be above 0, got {generator_weight}")
        faults.unless(discriminator_weight > 0, f"discriminator_weight must be above 0, got {discriminator_weight}")
        faults.raise_any()
        self.generator_weight, self.discriminator_weight = generator_weight, discriminator_weight

    def head(self, network: nn.Module) -> nn.Module:
        """Return the means over channels, for any network that encodes."""
        del network
        return ChannelMeans()

    def prepare_fake(self, game: Game) -> None:
        """Expect logits of both kinds of samples, at the times of the matching."""
        game.expect(logits=[game.generated, game.real])

    def fake(self, game: Game) -> Tensor:
        """Return the discriminator's loss, weighed by the path."""
        loss = self.discriminator_weight / 2 * discriminator_loss(game.logits(game.generated), game.logits(game.real))
        return loss if game.weight is None else loss * game.weight.mean()

    def prepare_generator(self, game: Game) -> None:
        """Expect logits of generated samples."""
        game.expect(logits=[game.generated])

    def generator(self, game: Game) -> Tensor:
        """Return the adversarial loss of the batch, weighed by SiD's weights."""
        point = game.generated
        loss = adversarial_generator_loss(game.logits(point).clamp(-CLIP, CLIP))
        with torch.no_grad():
            weight = normalising_weight(game.x1, game.denoise(point, game.teacher(point)))
        return self.generator_weight * game.x1[0].numel() * loss * weight.mean()


class ChannelMeans(nn.Module):
    """A logit of each pixel of the bottleneck, or one of a vector: the mean over its channels, ``(B, pixels)``."""

    def forward(self, encoding: Encoding) -> Tensor:
        """Return the logits of a network's encodings."""
        features = encoding.skips[-1] if encoding.skips else encoding.middle
        return features.to(torch.promote_types(features.dtype, torch.float32)).mean(1).reshape(len(features), -1)
