"""Blocks of EDM's networks (arXiv 2206.00364, appendix F); state-dict keys are those of the originals."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from realuid_lightning.networks.blocks import Norm, zeroed
from realuid_lightning.networks.convolution import Convolution
from realuid_lightning.networks.named_unet import Way


class Block(nn.Module):
    """Two normalised convolutions under an embedding, beside a skip connection, then perhaps attention.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        embedding_width: Width of the embedding.
        heads: Number of attention heads, 0 for no attention.
        way: Whether height and width are first halved or doubled.
        taps: One dimension of the filter that does so.
        dropout: Probability of dropping an activation before the second convolution.
        scales: Whether the embedding scales and shifts, or shifts only.
        damping: Factor after each sum with a skip connection.
        eps: What norms add to the variance.
        projects: Whether the skip connection of a block that halves or doubles has weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding_width: int,
        heads: int,
        way: Way,
        taps: Sequence[float],
        dropout: float,
        scales: bool,
        damping: float,
        eps: float,
        projects: bool,
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.scales, self.damping = heads, dropout, scales, damping
        self.norm0 = norm(inputs, eps)
        self.conv0 = _convolution(inputs, outputs, 3, way, taps)
        self.affine = nn.Linear(embedding_width, outputs * (2 if scales else 1))
        self.norm1 = norm(outputs, eps)
        self.conv1 = zeroed(Convolution(outputs, outputs, 3, padding=1))
        if inputs != outputs or (way is not None and projects):
            self.skip: nn.Module = _convolution(inputs, outputs, 1, way, taps)
        else:
            self.skip = nn.Identity() if way is None else _Resample(taps, way)
        if heads:
            self.norm2 = norm(outputs, eps)
            self.qkv = Convolution(outputs, 3 * outputs, 1)
            self.proj = zeroed(Convolution(outputs, outputs, 1))

    def forward(
        self, h: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"], skip: Tensor | None = None
    ) -> Float[Tensor, "b k i j"]:
        """Transform ``h``, joined with the channels of ``skip`` when there is one, under ``embedding``."""
        if skip is not None:
            h = torch.cat([h, skip], dim=1)
        update = self.conv0(functional.silu(self.norm0(h)))
        told = self.affine(embedding)[:, :, None, None]
        if self.scales:
            scale, shift = told.chunk(2, dim=1)
            update = functional.silu(self.norm1(update) * (scale + 1) + shift)
        else:
            update = functional.silu(self.norm1(update + told))
        update = self.conv1(functional.dropout(update, self.dropout, self.training))
        joined: Tensor = (self.skip(h) + update) * self.damping
        if not self.heads:
            return joined
        q, k, v = split_heads(self.qkv(self.norm2(joined)), self.heads)
        attended: Tensor = (self.proj(attention(q, k, v, joined)) + joined) * self.damping
        return attended


class BlurredConvolution(Convolution):
    """A convolution whose result is smoothed and halved, without padding in between."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, taps: Sequence[float]) -> None:
        super().__init__(inputs, outputs, 3, padding=1 + (len(taps) - 1) // 2)
        self.register_buffer("resample_filter", _filter(taps))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h//2 w//2"]:
        """Convolve, smooth and halve."""
        return _resampled(super().forward(x), self.resample_filter, "down", padding=0)


def norm(channels: int, eps: float) -> Norm:
    """Make a norm of groups of at least 4 channels, up to 32 of them."""
    made = Norm(channels, groups=min(32, channels // 4))
    made.eps = eps
    return made


def split_heads(qkv: Float[Tensor, "b 3*c h w"], heads: int) -> Float[Tensor, "3 b heads h*w c//heads"]:
    """Return queries, keys and values, whose order in memory is head, channel within the head, then q | k | v."""
    batch, channels, height, width = qkv.shape
    pixels = qkv.permute(0, 2, 3, 1).reshape(batch, height * width, heads, channels // (3 * heads), 3)
    return pixels.permute(4, 0, 2, 1, 3).contiguous()  # fast attention wants channels next to each other


def attention(q: Tensor, k: Tensor, v: Tensor, like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Let every pixel attend to all others; heads are joined to a map of the shape of ``like``."""
    batch, channels, height, width = like.shape
    mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return mixed.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class _ResampledConvolution(Convolution):
    """A convolution of what is first halved or doubled."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, size: int, taps: Sequence[float], way: Literal["down", "up"]) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2)
        self.way = way
        self.register_buffer("resample_filter", _filter(taps))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_resampled(x, self.resample_filter, self.way))


class _Resample(nn.Module):
    """Halve or double height and width, without weights."""

    resample_filter: Tensor

    def __init__(self, taps: Sequence[float], way: Literal["down", "up"]) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("resample_filter", _filter(taps))

    def forward(self, x: Tensor) -> Tensor:
        return _resampled(x, self.resample_filter, self.way)


def _convolution(inputs: int, outputs: int, size: int, way: Way, taps: Sequence[float]) -> Convolution:
    if way is None:
        return Convolution(inputs, outputs, size, padding=size // 2)
    return _ResampledConvolution(inputs, outputs, size, taps, way)


def _filter(taps: Sequence[float]) -> Tensor:
    """Return the filter in two dimensions, whose sum is 1."""
    line = torch.tensor(taps, dtype=torch.float32)
    return (line[:, None] * line / line.sum() ** 2)[None, None]


def _resampled(x: Tensor, kernel: Tensor, way: Literal["down", "up"], padding: int | None = None) -> Tensor:
    """Smooth ``x`` and take every second pixel, or put zeros between pixels and smooth."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, *kernel.shape[1:])
    padding = (kernel.shape[-1] - 1) // 2 if padding is None else padding
    if way == "down":
        return functional.conv2d(x, weight, stride=2, padding=padding, groups=channels)
    return functional.conv_transpose2d(x, 4 * weight, stride=2, padding=padding, groups=channels)
