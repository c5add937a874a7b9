"""A network that also judges its inputs, for distillation joined with a GAN."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from realuid_lightning.errors import Faults, UserError
from realuid_lightning.networks.blocks import Norm, zeroed
from realuid_lightning.recorded import Recorded

_NEEDS = ("encode", "decode", "shape", "middle_shape")


class HeadedNetwork(Recorded, nn.Module):
    """A teacher-shaped network with a head on its middle that tells real samples from generated ones.

    Predicting and judging share the lower half of the network (DMD2: Yin et al. 2024, arXiv 2405.14867, section 4.3).
    The head ends in a layer of zeros, so every logit starts at 0, which stands for equal densities of both kinds.
    State-dict keys are ``network.*`` and ``head.*``.

    Args:
        network: Any network with these members, as ``UNet`` and ``MLP`` have them: ``encode(t, x, y)``, which returns
            an ``Encoding``; ``decode(encoding)``, which makes the prediction of it; ``shape`` of a sample; and
            ``middle_shape``, the shape of ``Encoding.middle`` without the batch: (channels,) or
            (channels, height, width).

    Raises:
        UserError: If the network lacks one of these, or its middle has another number of dimensions.
    """

    network: Any  # a module, whose members beyond those of nn.Module are checked on construction

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        faults = Faults("HeadedNetwork")
        missing = [name for name in _NEEDS if not hasattr(network, name)]
        faults.unless(
            not missing,
            f"network must have {', '.join(_NEEDS)} to carry a head, but {type(network).__name__} lacks "
            f"{', '.join(missing)}",
        )
        middle = tuple(getattr(network, "middle_shape", ()))
        faults.unless(
            len(middle) in (1, 3) or "middle_shape" in missing,
            f"middle_shape of the network must be (channels,) or (channels, height, width), got {middle}",
        )
        faults.raise_any()

        self.network = network
        self.shape: tuple[int, ...] = tuple(self.network.shape)
        self.num_classes: int | None = getattr(network, "num_classes", None)
        self.condition_channels: int = getattr(network, "condition_channels", 0)
        self.head = _head(*middle)

    def forward(
        self,
        t: Float[Tensor, " b"],
        x: Float[Tensor, "b *i"],
        y: Int64[Tensor, " b"] | None = None,
        judged: int = 0,
    ) -> Float[Tensor, "b *d"] | tuple[Float[Tensor, "p *d"], Float[Tensor, " judged"]]:
        """Predict the matching target for the first rows, and judge the last ones.

        Both happen in one call, as distributed training needs it: DDP follows one forward to one backward pass. With
        rows of both kinds every parameter gets a gradient. With ``judged=0`` the head gets none, and when all rows are
        judged, the upper half of the network gets none, which plain DDP refuses.

        Args:
            t: Time of each row, in [0, 1].
            x: Points on the path, as the network takes them: first those to predict for, then those to judge.
            y: Class labels of all rows, exactly when the network has classes.
            judged: Number of rows to judge, in [0, B].

        Returns:
            With ``judged=0`` what the network itself returns, ``(B, *shape)``. Else the prediction for the first rows,
            ``(B - judged, *shape)``, and the logits of the last ones, ``(judged,)``, in float32 or wider.

        Raises:
            UserError: If ``judged`` is out of range, or the network refuses its inputs.
        """
        if not 0 <= judged <= len(x):
            raise UserError(f"judged must be in [0, {len(x)}], the number of rows, got {judged}")
        encoding = self.network.encode(t, x, y)
        predicted = len(x) - judged
        if judged == 0:
            prediction: Tensor = self.network.decode(encoding).to(x.dtype)
            return prediction
        if predicted == 0:
            prediction = x.new_empty(0, *self.shape)
        else:
            prediction = self.network.decode(encoding.rows(slice(predicted))).to(x.dtype)
        logits: Tensor = self.head(encoding.middle[predicted:]).squeeze(1)
        return prediction, logits.to(torch.promote_types(logits.dtype, torch.float32))


def _head(channels: int, *size: int) -> nn.Sequential:
    """Make the layers from the features in the middle to ``(B, 1)`` logits.

    A map is halved by convolutions until at most two pixels are left on each side, then averaged. Every parameter
    takes part whatever the size.

    Args:
        channels: Number of features.
        size: Height and width of a map; nothing for vectors.
    """
    if size:
        layers: list[nn.Module] = [_norm(channels), nn.SiLU()]
        side = max(size)
        while side > 2:
            side = (side + 1) // 2
            layers += [nn.Conv2d(channels, channels, 3, stride=2, padding=1), _norm(channels), nn.SiLU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    else:
        layers = [nn.LayerNorm(channels), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(channels, channels), nn.SiLU(), zeroed(nn.Linear(channels, 1)))


def _norm(channels: int) -> Norm:
    """Normalise in up to 8 groups of at least 4 channels.

    One channel a group, as 32 groups of 32 channels have it, would leave nothing of a map of one pixel.
    """
    return Norm(channels, groups=max(math.gcd(32, channels) // 4, 1))
