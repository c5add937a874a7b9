"""Purely adversarial distillation, D2O, and the weights that its variant D2O-F keeps frozen."""

from collections.abc import Sequence

from realuid_lightning.objectives.r1 import R1GAN

_EDM = ["*.conv0.*", "*.conv1.*", "*.proj.*"]
FROZEN = {
    "SongUNet": _EDM,
    "DhariwalUNet": _EDM,
    "UNet": ["*.in_layers.2.*", "*.out_layers.3.*", "*.proj_out.*", "*.op.*", "output_blocks.*.conv.*"],
}
"""What D2O-F freezes in the generator, by class: convolutions and the last layer of attention, in every block.

Of EDM's NCSN++ for CIFAR-10 that is 84.4% of 56.4 M weights. Norms, ``qkv``, embeddings, convolutions of skip
connections, and the first and the last convolution train.
"""


class D2O(R1GAN):
    """A GAN alone: ``G`` minimises ``E softplus(-D(xt_gen))``, with no term of the teacher (arXiv 2405.20750).

    The teacher gives the start of both networks. The paper's discriminator reads features of clean images from
    classifiers (VGG16, EfficientNet-lite0), of which there are none here: this one is a head on the fake model's lower
    half, as in ``GAN``, on samples with a little noise. So losses, penalty and frozen weights are the paper's, and its
    figures are not to be expected. Its heads' losses and logits are summed, these are averaged; its penalty comes every
    16 updates at 16 times the weight, this one in all of them. It makes one update of each player in turn
    (``fake_steps: 1``), by Adam at 1e-4 with betas (0, 0.99) on batches of 256.

    Example:
        D2O-F:

        >>> from realuid_lightning.modules import RealUIDModule
        >>> from realuid_lightning.networks import UNet
        >>> network = UNet(8, 1, 32, 1, [1, 2], [4], 32)
        >>> d2o = D2O(layers=[3])
        >>> module = RealUIDModule(network, None, objective=d2o, fake_steps=1, generator_frozen=FROZEN["UNet"])

    Args:
        gamma: Weight of the penalty, above 0.
        layers: As in ``R1GAN``, like ``t_range``.
        t_range: As there.
    """

    def __init__(self, gamma: float = 1e-4, layers: Sequence[int] = (), t_range: Sequence[float] = (0.8, 1.0)) -> None:
        super().__init__(gamma, layers, generator_weight=1.0, discriminator_weight=1.0, t_range=t_range)
