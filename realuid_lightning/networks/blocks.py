"""Building blocks of the networks; state-dict keys of those of the UNet are the keys of the official checkpoints."""

import math
from typing import Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from realuid_lightning.networks.convolution import Convolution

Layer = TypeVar("Layer", bound=nn.Module)


class Encoding(NamedTuple):
    """What the lower half of a network hands to the upper half.

    Attributes:
        middle: Features in the middle, ``(B, *middle_shape)`` of the network; a GAN head reads these.
        skips: What else the upper half needs, each ``(B, ...)``: of a UNet the outputs of its input blocks, first to
            last.
        embedding: Embedded time and label, ``(B, E)``.
    """

    middle: Tensor
    skips: tuple[Tensor, ...]
    embedding: Tensor

    def rows(self, chosen: slice) -> "Encoding":
        """Return the chosen samples of the batch, as views."""
        return Encoding(self.middle[chosen], tuple(skip[chosen] for skip in self.skips), self.embedding[chosen])


def time_features(t: Float[Tensor, " b"], width: int, max_period: float = 10_000.0) -> Float[Tensor, "b width"]:
    """Embed times by cosines, then sines, of geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    Args:
        t: Times, in float32 or float64, which is the precision of the result.
        width: Number of features, even.
        max_period: The frequencies fall from 1 to nearly ``1 / max_period``, in radians per unit of ``t``.

    Returns:
        The features, each in [-1, 1].
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=t.dtype, device=t.device) * (-math.log(max_period) / half))
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Norm(nn.GroupNorm):
    """Group normalisation that keeps the type of its input.

    Autocast computes the statistics in float32, as it should, but would also store everything up to the next
    convolution in float32.

    Args:
        channels: Channels, divisible by ``groups``.
        groups: Number of groups.
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape (B, channels, H, W)."""
        return super().forward(x).to(x.dtype)


class ResBlock(nn.Module):
    """Two normalised convolutions under an embedding, beside a skip connection; starts as the skip alone.

    Args:
        in_channels: Channels of the input, divisible by 32.
        out_channels: Channels of the output, divisible by 32.
        embedding_width: Width of the time (and label) embedding.
        dropout: Probability of dropping an activation before the second convolution.
        scales: Whether the embedding scales and shifts what the second norm returns, or is added before it.
        way: Whether height and width are first halved (by means) or doubled (by repetition).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int,
        dropout: float,
        scales: bool = False,
        way: Literal["down", "up"] | None = None,
    ) -> None:
        super().__init__()
        self.scales, self.way = scales, way
        self.in_layers = nn.Sequential(
            Norm(in_channels), nn.SiLU(), Convolution(in_channels, out_channels, 3, padding=1)
        )
        width = 2 * out_channels if scales else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding_width, width))
        last = zeroed(Convolution(out_channels, out_channels, 3, padding=1))
        self.out_layers = nn.Sequential(Norm(out_channels), nn.SiLU(), nn.Dropout(dropout), last)
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else Convolution(in_channels, out_channels, 1)

    def forward(self, h: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b k i j"]:
        """Transform ``h`` under ``embedding``."""
        norm, activation, convolution = self.in_layers
        update: Tensor = convolution(resampled(activation(norm(h)), self.way))
        shift: Tensor = self.emb_layers(embedding)[:, :, None, None]
        if self.scales:
            norm, *others = self.out_layers
            scale, shift = shift.chunk(2, dim=1)
            update = norm(update) * (1 + scale) + shift
            for layer in others:
                update = layer(update)
        else:
            update = self.out_layers(update + shift)
        skip: Tensor = self.skip_connection(resampled(h, self.way))
        return skip + update


class Pointwise(nn.Conv1d):
    """A convolution of kernel size 1, computed as the linear layer that it is."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform the channels of ``x`` of shape (B, C, N), best a view of (B, N, C)."""
        return functional.linear(x.transpose(1, 2), self.weight.squeeze(-1), self.bias).transpose(1, 2)


class AttentionBlock(nn.Module):
    """Self-attention between all pixels, added to its input; starts as the identity.

    Args:
        channels: Channels, divisible by 32.
        head_channels: Channels of one head; divides ``channels``.
    """

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.norm = Norm(channels)
        self.qkv = Pointwise(channels, 3 * channels, 1)
        self.proj_out = zeroed(Pointwise(channels, channels, 1))

    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Let every pixel attend to all others."""
        batch, channels, height, width = h.shape
        heads = channels // self.head_channels
        # Pixels before channels: a view of a channels_last tensor, and what linear layers and attention run fastest on.
        pixels = self.norm(h).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        qkv = self.qkv(pixels.transpose(1, 2)).transpose(1, 2)
        # Official order of the 3C channels: head, then q | k | v, then channel within the head.
        q, k, v = qkv.view(batch, -1, heads, 3, self.head_channels).transpose(1, 2).unbind(3)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, channels)
        update: Tensor = self.proj_out(mixed.transpose(1, 2)).transpose(1, 2)
        return h + update.view(batch, height, width, channels).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    """Halve height and width by a strided convolution, or by means."""

    def __init__(self, channels: int, learned: bool = True) -> None:
        super().__init__()
        self.op = Convolution(channels, channels, 3, stride=2, padding=1) if learned else nn.AvgPool2d(2)

    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h//2 w//2"]:
        """Reduce (B, C, H, W) to (B, C, H/2, W/2)."""
        reduced: Tensor = self.op(h)
        return reduced


class Upsample(nn.Module):
    """Double height and width by repetition, then a convolution if it is ``learned``."""

    def __init__(self, channels: int, learned: bool = True) -> None:
        super().__init__()
        self.conv = Convolution(channels, channels, 3, padding=1) if learned else nn.Identity()

    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        """Enlarge (B, C, H, W) to (B, C, 2H, 2W)."""
        enlarged: Tensor = self.conv(resampled(h, "up"))
        return enlarged


def resampled(h: Tensor, way: Literal["down", "up"] | None) -> Tensor:
    """Return a map of half the height and width (means), of twice as much (repetition), or as it is."""
    if way == "down":
        return functional.avg_pool2d(h, 2)
    return functional.interpolate(h, scale_factor=2, mode="nearest") if way == "up" else h


class Stage(nn.ModuleList):
    """Layers in a row; residual blocks among them see the embedding."""

    def forward(self, embedding: Tensor, h: Tensor, skip: Tensor | None = None) -> Tensor:
        """Run all layers on ``h``, joined with the channels of ``skip`` when there is one."""
        if skip is not None:
            h = torch.cat([h, skip], dim=1)
        for layer in self:
            h = layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
        return h


def zeroed(layer: Layer) -> Layer:
    """Set all parameters of a layer to zero and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
