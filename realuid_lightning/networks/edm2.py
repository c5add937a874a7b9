"""EDM2's network, whose layers keep magnitudes (Karras et al. 2024, arXiv 2312.02696)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from realuid_lightning.errors import Faults
from realuid_lightning.networks.edm_blocks import attention, split_heads
from realuid_lightning.networks.named_unet import NamedUNet, Place

_LABEL_BALANCE = _CONCAT_BALANCE = 0.5
_SUM_BALANCE = 0.3
_LIMIT = 256.0
_SILU_MAGNITUDE = 0.596


class EDM2UNet(NamedUNet):
    """The magnitude-preserving UNet of EDM2, with the state-dict keys of the original's ``UNet``; starts at zero.

    A teacher of ``DiffusionPath``, which holds the preconditioning of the original's ``Precond``. Its keys
    ``unet.*`` are ours without that prefix, its ``logvar_*`` are ours if ``logvar_channels`` is set. Every layer
    divides its weights by their magnitude. The original also writes the quotient back before each training step, which
    moves no output but keeps the steps of the optimizer from shrinking in effect; here weights are left to the
    optimizer. Gains, which the original stores without dimensions, have one here, for FSDP divides nothing else;
    ``load_strictly`` takes both.

    Args:
        image_size: Height and width, in pixels (the original's ``img_resolution``).
        in_channels: Channels of the image (``img_channels``), 4 for latents.
        num_classes: Number of classes, None for an unconditional network (``label_dim`` of 0).
        model_channels: Channels at full resolution, when ``channel_mult`` begins with 1.
        channel_mult: Channels at each resolution, in units of ``model_channels``.
        channel_mult_noise: Number of time features in this unit, as many as at full resolution when None.
        channel_mult_emb: Width of the embedding in this unit, the greatest of ``channel_mult`` when None.
        num_blocks: Blocks at each resolution on the way down (one more on the way up).
        attn_resolutions: Resolutions with attention; the middle always has it.
        channels_per_head: Channels of one attention head.
        dropout: Probability of dropping an activation, in [0, 1).
        logvar_channels: Width of the uncertainty head, see ``log_variance``; None for a network without.
        checkpoint: Recompute activations in the backward pass, as in ``UNet``.
        condition_channels: Further channels of the input, behind those of the image.

    Raises:
        UserError: If arguments do not fit, listing all of them.

    Example:
        >>> network = EDM2UNet(16, 4, model_channels=64, channel_mult=[1], num_blocks=1, attn_resolutions=[])
        >>> network(torch.zeros(2), torch.randn(2, 4, 16, 16)).shape
        torch.Size([2, 4, 16, 16])
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        num_classes: int | None = None,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        channels_per_head: int = 64,
        dropout: float = 0.0,
        logvar_channels: int | None = None,
        checkpoint: bool | Literal["cheap"] = False,
        condition_channels: int = 0,
    ) -> None:
        super().__init__()
        self.shape = (in_channels, image_size, image_size)
        self.num_classes, self.condition_channels = num_classes, condition_channels
        self.checkpoint, self.dropout = checkpoint, dropout
        faults = Faults("EDM2UNet")
        options = {
            "channel_mult_noise": channel_mult_noise,
            "channel_mult_emb": channel_mult_emb,
            "logvar_channels": logvar_channels,
        }
        counts = {name: count for name, count in options.items() if count is not None}
        counts |= {"model_channels": model_channels, "num_blocks": num_blocks, "in_channels": in_channels}
        counts |= {"channels_per_head": channels_per_head}
        self._check(faults, image_size, channel_mult, attn_resolutions, 1, counts, head_channels=channels_per_head)
        faults.raise_any()

        widths = [model_channels * mult for mult in channel_mult]
        noise_channels = widths[0] if channel_mult_noise is None else model_channels * channel_mult_noise
        embedding_width = max(widths) if channel_mult_emb is None else model_channels * channel_mult_emb
        self.emb_fourier = _Fourier(noise_channels)
        self.emb_noise = _Layer(noise_channels, embedding_width)
        if num_classes is not None:
            self.emb_label = _Layer(num_classes, embedding_width)
        if logvar_channels is not None:
            self.logvar_fourier = _Fourier(logvar_channels)
            self.logvar_linear = _Still(1, logvar_channels)

        def block(inputs: int, outputs: int, place: Place) -> nn.Module:
            return _Block(inputs, outputs, embedding_width, place, channels_per_head, dropout)

        first = _Layer(in_channels + condition_channels + 1, widths[0], 3)
        last = self._build(first, block, widths, num_blocks, lambda size, *_: size in attn_resolutions)
        self.out_gain = nn.Parameter(torch.zeros(1))
        self.out_conv = _Layer(last, in_channels, 3)

    def log_variance(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the logarithm of the denoising error that the original learnt to expect.

        It weighs the losses of a teacher's training. No loss of distillation reads it, so its weights are buffers.

        Args:
            t: ``log(sigma) / 4``, as in ``forward``.
        """
        features = self.logvar_fourier(t.to(self.logvar_fourier.freqs.dtype))
        return functional.linear(features, _scaled(self.logvar_linear.weight)).squeeze(1)

    def embed(self, t: Float[Tensor, " b"], y: Int64[Tensor, " b"] | None) -> Float[Tensor, "b e"]:
        """Embed time and label."""
        embedding = self.emb_noise(self.emb_fourier(t).to(self.emb_noise.weight.dtype))
        if y is not None:
            labels = self._one_hot(y, embedding)
            embedding = _sum(embedding, self.emb_label(labels * math.sqrt(labels.shape[1])), _LABEL_BALANCE)
        return _silu(embedding)

    def enter(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b j h w"]:
        """Add a channel of ones, which takes the place of biases."""
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)

    def leave(self, h: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h w"]:
        """Convolve once more."""
        prediction: Tensor = self.out_conv(h, self.out_gain)
        return prediction


class _Block(nn.Module):
    """Two convolutions under an embedding beside a skip connection, then perhaps attention; none changes magnitudes."""

    def __init__(
        self, inputs: int, outputs: int, embedding_width: int, place: Place, head_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.encodes, self.way, self.dropout = place.half == "enc", place.way, dropout
        self.heads = outputs // head_channels if place.attends else 0
        self.emb_gain = nn.Parameter(torch.zeros(1))
        self.conv_res0 = _Layer(outputs if self.encodes else inputs, outputs, 3)
        self.emb_linear = _Layer(embedding_width, outputs)
        self.conv_res1 = _Layer(outputs, outputs, 3)
        self.conv_skip = nn.Identity() if inputs == outputs else _Layer(inputs, outputs, 1)
        if self.heads:
            self.attn_qkv = _Layer(outputs, 3 * outputs, 1)
            self.attn_proj = _Layer(outputs, outputs, 1)

    def forward(
        self, h: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"], skip: Tensor | None = None
    ) -> Float[Tensor, "b k i j"]:
        if skip is not None:
            h = _concatenated(h, skip)
        if self.way == "down":
            h = functional.avg_pool2d(h, 2)
        elif self.way == "up":
            h = functional.interpolate(h, scale_factor=2, mode="nearest")
        if self.encodes:
            h = _unit(self.conv_skip(h), dim=[1])
        update = self.conv_res0(_silu(h))
        update = _silu(update * (self.emb_linear(embedding, self.emb_gain) + 1)[:, :, None, None])
        update = self.conv_res1(functional.dropout(update, self.dropout, self.training))
        h = _sum(h if self.encodes else self.conv_skip(h), update, _SUM_BALANCE)
        if self.heads:
            q, k, v = _unit(split_heads(self.attn_qkv(h), self.heads), dim=[-1])
            h = _sum(h, self.attn_proj(attention(q, k, v, h)), _SUM_BALANCE)
        return h.clamp(-_LIMIT, _LIMIT)


class _Layer(nn.Module):
    """A linear layer, or a convolution of a given size, without bias, whose weights count by their direction alone."""

    def __init__(self, inputs: int, outputs: int, size: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *([] if size is None else [size, size])))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        weight = _scaled(self.weight, gain)
        if weight.ndim == 2:
            return functional.linear(x, weight)
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)


class _Still(nn.Module):
    """The weight of a layer that does not train."""

    weight: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(shape))


class _Fourier(nn.Module):
    """Cosines of random frequencies and phases, which stay as they are drawn; of magnitude 1."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        return (t[:, None] * self.freqs.to(t.dtype) + self.phases.to(t.dtype)).cos() * math.sqrt(2)


def _unit(x: Tensor, dim: list[int]) -> Tensor:
    """Divide ``x`` by its root mean square along ``dim``."""
    magnitude = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    unit: Tensor = x / (magnitude / math.sqrt(x.numel() // magnitude.numel()) + 1e-4).to(x.dtype)
    return unit


def _scaled(weight: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """Return weights with which a layer keeps the magnitude of its input, times ``gain``."""
    return _unit(weight, dim=list(range(1, weight.ndim))) * (gain / math.sqrt(weight[0].numel()))


def _silu(x: Tensor) -> Tensor:
    return functional.silu(x) / _SILU_MAGNITUDE


def _sum(left: Tensor, right: Tensor, balance: float) -> Tensor:
    """Add with the weights ``1 - balance`` and ``balance``, at the magnitude of either (EDM2, equation 88)."""
    return ((1 - balance) * left + balance * right) / math.hypot(1 - balance, balance)


def _concatenated(left: Tensor, right: Tensor) -> Tensor:
    """Join channels so that both sides contribute alike whatever their numbers (EDM2, equation 103)."""
    total = (left.shape[1] + right.shape[1]) ** 0.5 / math.hypot(1 - _CONCAT_BALANCE, _CONCAT_BALANCE)
    return torch.cat(
        [
            left * (total / left.shape[1] ** 0.5 * (1 - _CONCAT_BALANCE)),
            right * (total / right.shape[1] ** 0.5 * _CONCAT_BALANCE),
        ],
        dim=1,
    )
