"""A network that also judges its inputs, for distillation joined with a GAN."""

import math
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from realuid_lightning.conditions import Condition, rows
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.networks.blocks import Encoding, Norm, zeroed
from realuid_lightning.recorded import Recorded


class MiddleHead(nn.Sequential):
    """``logit_layers`` on the features in a network's middle: one logit a sample.

    Args:
        network: Its ``middle_shape`` is (channels,) or (channels, height, width).

    Raises:
        UserError: If the middle has another number of dimensions, or is not told.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(*logit_layers(*_middle_shape(network)))

    def forward(self, encoding: Encoding) -> Float[Tensor, " b"]:
        """Return the logits of a network's encodings."""
        logits: Tensor = super().forward(encoding.middle)  # type: ignore[no-untyped-call]
        return logits.squeeze(1)


class HeadedNetwork(Recorded, nn.Module):
    """A teacher-shaped network with a head on its encoding that tells real samples from generated ones.

    Predicting and judging share the lower half of the network (DMD2: Yin et al. 2024, arXiv 2405.14867, section 4.3).
    State-dict keys are ``network.*`` and ``head.*``.

    Args:
        network: Any network with these members, as ``UNet`` and ``MLP`` have them: ``encode(t, x, y)``, which returns
            an ``Encoding``; ``decode(encoding)``, which makes the prediction of it; and ``shape`` of a sample.
        head: Turns the ``Encoding`` of some rows into their logits, ``(rows,)`` or ``(rows, K)``; a ``MiddleHead`` when
            None.

    Raises:
        UserError: If the network lacks one of these, or can carry no ``MiddleHead`` where that is meant.

    Example:
        >>> from realuid_lightning.networks import MLP
        >>> network = HeadedNetwork(MLP([2]))
        >>> prediction, logits = network(torch.rand(5), torch.randn(5, 2), predicted=3, judged=5)
        >>> prediction.shape, logits.shape
        (torch.Size([3, 2]), torch.Size([5]))
    """

    network: Any  # a module, whose members beyond those of nn.Module are checked on construction

    def __init__(self, network: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        head = MiddleHead(network) if head is None else head  # which needs more of a network, and says so
        _check(network, "encode", "decode", "shape")
        self.network = network
        self.shape: tuple[int, ...] = tuple(self.network.shape)
        self.num_classes: int | None = getattr(network, "num_classes", None)
        self.condition_channels: int = getattr(network, "condition_channels", 0)
        self.head = head

    def forward(
        self,
        t: Float[Tensor, " b"],
        x: Float[Tensor, "b *i"],
        y: Condition | None = None,
        predicted: int | None = None,
        judged: int = 0,
        apart: int = 0,
    ) -> Tensor | tuple[Tensor, ...]:
        """Predict the matching target for the first rows, and judge the last ones; both, where these overlap.

        All happens in one call and from one encoding, as distributed training needs it: DDP follows one forward to one
        backward pass. With ``judged=0`` the head gets no gradient, and with ``predicted=0`` the upper half of the
        network gets none, which plain DDP refuses.

        Args:
            t: Time of each row, in [0, 1].
            x: Points on the path, as the network takes them: first those to predict for, then those to judge.
            y: The condition of all rows, exactly when the network takes one.
            predicted: Number of rows to predict for, in [0, B]; those that are not judged when None.
            judged: Number of rows to judge, in [0, B].
            apart: Number of the last of these that are encoded by themselves, so that their logits can be
                differentiated twice: by ``x`` without going through other rows, and again, which fused attention
                cannot. None of them is predicted for.

        Returns:
            With ``judged=0`` what the network itself returns, ``(B, *shape)``. Else the prediction for the first rows,
            ``(predicted, *shape)``, and the logits of the last ones, ``(judged,)`` or ``(judged, K)``, in float32 or
            wider; the logits of rows apart behind these, by themselves.

        Raises:
            UserError: If the numbers of rows are out of range, or the network refuses its inputs.
        """
        if apart:
            return self._judged_apart(t, x, y, predicted, judged, apart)
        predicted = len(x) - judged if predicted is None else predicted
        if not 0 <= judged <= len(x):
            raise UserError(f"judged must be in [0, {len(x)}], the number of rows, got {judged}")
        if not len(x) - judged <= predicted <= len(x):
            raise UserError(
                f"predicted must be in [{len(x) - judged}, {len(x)}], as {judged} are judged, got {predicted}"
            )
        encoding = self.network.encode(t, x, y)
        if judged == 0:
            prediction: Tensor = self.network.decode(encoding).to(x.dtype)
            return prediction
        if predicted == 0:
            prediction = x.new_empty(0, *self.shape)
        else:
            prediction = self.network.decode(encoding.rows(slice(predicted))).to(x.dtype)
        return prediction, self._judge(encoding.rows(slice(len(x) - judged, None)))

    def _judged_apart(
        self, t: Tensor, x: Tensor, y: Condition | None, predicted: int | None, judged: int, apart: int
    ) -> tuple[Tensor, ...]:
        last = slice(len(x) - apart, None)
        with sdpa_kernel(SDPBackend.MATH):
            own = self._judge(self.network.encode(t[last], x[last], rows(y, last)))
        if apart == len(x):
            return x.new_empty(0, *self.shape), own[:0], own
        first = slice(len(x) - apart)
        found = self.forward(t[first], x[first], rows(y, first), predicted=predicted, judged=judged - apart)
        prediction, logits = found if isinstance(found, tuple) else (found, own[:0])
        return prediction, logits, own

    def _judge(self, encoding: Encoding) -> Tensor:
        logits: Tensor = self.head(encoding)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def bare(network: nn.Module) -> nn.Module:
    """Return a fake model's network without a discriminator's head."""
    return network.network if isinstance(network, HeadedNetwork) else network


def _check(network: nn.Module, *needs: str) -> None:
    """Refuse a network that lacks a member."""
    faults = Faults("HeadedNetwork")
    missing = [name for name in needs if not hasattr(network, name)]
    faults.unless(
        not missing,
        f"network must have {', '.join(needs)} to carry a head, but {type(network).__name__} lacks "
        f"{', '.join(missing)}",
    )
    faults.raise_any()


def _middle_shape(network: nn.Module) -> tuple[int, ...]:
    _check(network, "encode", "decode", "shape", "middle_shape")
    middle = tuple(cast(Any, network).middle_shape)
    faults = Faults("MiddleHead")
    faults.unless(
        len(middle) in (1, 3),
        f"middle_shape of the network must be (channels,) or (channels, height, width), got {middle}",
    )
    faults.raise_any()
    return middle


def logit_layers(channels: int, *size: int) -> list[nn.Module]:
    """Return layers from features to one logit a sample, ``(B, 1)``.

    A map is halved by convolutions until at most two pixels are left on each side, then averaged. Every parameter
    takes part whatever the size. The last layer is one of zeros, so every logit starts at 0, which stands for equal
    densities of real and generated samples.

    Args:
        channels: Channels of the features.
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
    return [*layers, nn.Linear(channels, channels), nn.SiLU(), zeroed(nn.Linear(channels, 1))]


def _norm(channels: int) -> Norm:
    """Normalise in up to 8 groups of at least 4 channels.

    One channel a group, as 32 groups of 32 channels have it, would leave nothing of a map of one pixel.
    """
    return Norm(channels, groups=max(math.gcd(32, channels) // 4, 1))
