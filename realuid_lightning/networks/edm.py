"""EDM's networks: DDPM++, NCSN++ and ADM (Karras et al. 2022, arXiv 2206.00364)."""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from realuid_lightning.errors import Faults
from realuid_lightning.networks.blocks import time_features, zeroed
from realuid_lightning.networks.convolution import Convolution
from realuid_lightning.networks.edm_blocks import Block, BlurredConvolution, norm
from realuid_lightning.networks.named_unet import NamedUNet, Place

_FOURIER_SCALE = 16.0
_HEAD_CHANNELS = 64


class SongUNet(NamedUNet):
    """EDM's DDPM++ and NCSN++ (Song et al. 2021, arXiv 2011.13456), with the original's state-dict keys.

    An EDM checkpoint (``EDMPrecond``, of which this is ``model``) is a teacher of ``DiffusionPath``, which holds the
    preconditioning; those with VP or VE preconditioning go into ``VPNetwork`` or ``VENetwork``. The original's output
    starts near zero, ours at zero. It drops labels in training, here ``TeacherModule`` does (``label_dropout``).

    DDPM++ is the default; NCSN++ has ``embedding_type: fourier``, ``encoder_type: residual``,
    ``channel_mult_noise: 2`` and ``resample_filter: [1, 3, 3, 1]``.

    Args:
        image_size: Height and width, in pixels (the original's ``img_resolution``).
        in_channels: Channels of the image (``img_channels``).
        num_classes: Number of classes, None for an unconditional network (``label_dim`` of 0).
        augment_dim: Width of the augmentation labels that the original was trained with. Their weights are kept, but
            never used, as in the original's sampling: distillation augments nothing.
        model_channels: Channels at full resolution, a multiple of 4.
        channel_mult: Channels at each resolution, in units of ``model_channels``.
        channel_mult_emb: Width of the embedding, in the same unit.
        num_blocks: Residual blocks at each resolution on the way down (one more on the way up).
        attn_resolutions: Resolutions with attention; the middle always has it.
        dropout: Probability of dropping an activation, in [0, 1).
        embedding_type: "positional" or "fourier" features of the time.
        channel_mult_noise: Number of these, in units of ``model_channels``.
        encoder_type: "residual" adds the reduced image at each resolution, "standard" does not.
        resample_filter: One dimension of the filter that halves and doubles, of an even number of taps.
        checkpoint: Recompute activations in the backward pass, as in ``UNet``.
        condition_channels: Further channels of the input, behind those of the image.

    Raises:
        UserError: If arguments do not fit, listing all of them.

    Example:
        >>> network = SongUNet(16, 3, model_channels=16, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8])
        >>> network(torch.zeros(2), torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        num_classes: int | None = None,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Literal["standard", "residual"] = "standard",
        resample_filter: Sequence[float] = (1, 1),
        checkpoint: bool | Literal["cheap"] = False,
        condition_channels: int = 0,
    ) -> None:
        super().__init__()
        self.shape = (in_channels, image_size, image_size)
        self.num_classes, self.condition_channels = num_classes, condition_channels
        self.checkpoint, self.dropout = checkpoint, dropout
        faults = Faults("SongUNet")
        counts = {"model_channels": model_channels, "num_blocks": num_blocks, "in_channels": in_channels}
        counts |= {"channel_mult_emb": channel_mult_emb, "channel_mult_noise": channel_mult_noise}
        self._check(faults, image_size, channel_mult, attn_resolutions, 4, counts)
        faults.unless(augment_dim >= 0, f"augment_dim must be at least 0, got {augment_dim}")
        faults.unless(
            embedding_type in ("positional", "fourier"),
            f"embedding_type must be positional or fourier, got {embedding_type}",
        )
        faults.unless(
            encoder_type in ("standard", "residual"), f"encoder_type must be standard or residual, got {encoder_type}"
        )
        faults.finite(resample_filter=resample_filter)
        faults.unless(
            len(resample_filter) > 0 and len(resample_filter) % 2 == 0 and sum(resample_filter) != 0,
            f"resample_filter must hold an even number of taps whose sum is not 0, got {list(resample_filter)}",
        )
        faults.raise_any()

        self.noise_channels = model_channels * channel_mult_noise
        embedding_width = model_channels * channel_mult_emb
        self.map_noise: nn.Module = nn.Identity()
        if embedding_type == "fourier":
            self.map_noise = _Fourier(self.noise_channels)
        if num_classes is not None:
            self.map_label = nn.Linear(num_classes, self.noise_channels)
        if augment_dim:
            self.map_augment = _Unused(self.noise_channels, augment_dim)
        self.map_layer0 = nn.Linear(self.noise_channels, embedding_width)
        self.map_layer1 = nn.Linear(embedding_width, embedding_width)

        make = functools.partial(
            Block,
            embedding_width=embedding_width,
            taps=resample_filter,
            dropout=dropout,
            scales=False,
            damping=math.sqrt(0.5),
            eps=1e-6,
            projects=True,
        )

        def block(inputs: int, outputs: int, place: Place) -> nn.Module:
            return make(inputs, outputs, heads=1 if place.attends else 0, way=place.way)

        def attends(size: int, half: str, index: int) -> bool:
            return size in attn_resolutions and (half == "enc" or index == num_blocks)

        inputs = in_channels + condition_channels

        def beside(channels: int | None, outputs: int) -> nn.Module:
            return BlurredConvolution(channels or inputs, outputs, resample_filter)

        last = self._build(
            Convolution(inputs, model_channels, 3, padding=1),
            block,
            [model_channels * mult for mult in channel_mult],
            num_blocks,
            attends,
            start=model_channels,
            beside=beside if encoder_type == "residual" else None,
        )
        # In the original's dictionary, too, they come after the blocks.
        self.dec[f"{image_size}x{image_size}_aux_norm"] = norm(last, 1e-6)
        self.dec[f"{image_size}x{image_size}_aux_conv"] = zeroed(Convolution(last, in_channels, 3, padding=1))

    def embed(self, t: Float[Tensor, " b"], y: Int64[Tensor, " b"] | None) -> Float[Tensor, "b e"]:
        """Embed time and label; labels are scaled to unit variance."""
        dtype = self.map_layer0.weight.dtype
        if isinstance(self.map_noise, _Fourier):
            features = self.map_noise(t)
        else:
            half = self.noise_channels // 2
            # The lowest frequency is 1 / 10000 itself.
            features = time_features(t, self.noise_channels, max_period=10_000.0 ** (half / (half - 1)))
        cosines, sines = features.to(dtype).chunk(2, dim=1)
        embedding = torch.cat([sines, cosines], dim=1)
        if y is not None:
            embedding = embedding + self.map_label(self._one_hot(y, embedding) * math.sqrt(self.map_label.in_features))
        embedding = functional.silu(self.map_layer0(embedding))
        return functional.silu(self.map_layer1(embedding))

    def leave(self, h: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise and convolve once more."""
        size = self.shape[-1]
        prediction: Tensor = self.dec[f"{size}x{size}_aux_conv"](
            functional.silu(self.dec[f"{size}x{size}_aux_norm"](h))
        )
        return prediction


class DhariwalUNet(NamedUNet):
    """EDM's ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), with the original's state-dict keys.

    A teacher of ``DiffusionPath``, as ``SongUNet``; arguments not told here are as there. Attention has heads of 64
    channels.

    Args:
        image_size: Height and width, in pixels.
        in_channels: Channels of the image.
        num_classes: Number of classes, None for an unconditional network.
        augment_dim: Width of the augmentation labels, whose weights are kept and never used.
        model_channels: Channels of the time features, and unit of ``channel_mult``; a multiple of 4, and so that
            resolutions with attention, the lowest one always, have a multiple of 64 channels.
        channel_mult: Channels at each resolution.
        channel_mult_emb: Width of the embedding.
        num_blocks: Residual blocks at each resolution on the way down.
        attn_resolutions: Resolutions with attention.
        dropout: Probability of dropping an activation.
        checkpoint: Recompute activations in the backward pass.
        condition_channels: Further channels of the input.

    Raises:
        UserError: If arguments do not fit, listing all of them.

    Example:
        >>> network = DhariwalUNet(16, 3, model_channels=64, channel_mult=[1], num_blocks=1, attn_resolutions=[])
        >>> network(torch.zeros(2), torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        num_classes: int | None = None,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        checkpoint: bool | Literal["cheap"] = False,
        condition_channels: int = 0,
    ) -> None:
        super().__init__()
        self.shape = (in_channels, image_size, image_size)
        self.num_classes, self.condition_channels = num_classes, condition_channels
        self.checkpoint, self.dropout = checkpoint, dropout
        faults = Faults("DhariwalUNet")
        counts = {"model_channels": model_channels, "num_blocks": num_blocks, "in_channels": in_channels}
        counts |= {"channel_mult_emb": channel_mult_emb}
        self._check(faults, image_size, channel_mult, attn_resolutions, 4, counts, head_channels=_HEAD_CHANNELS)
        faults.unless(augment_dim >= 0, f"augment_dim must be at least 0, got {augment_dim}")
        faults.raise_any()

        self.noise_channels = model_channels
        embedding_width = model_channels * channel_mult_emb
        if augment_dim:
            self.map_augment = _Unused(model_channels, augment_dim)
        self.map_layer0 = nn.Linear(model_channels, embedding_width)
        self.map_layer1 = nn.Linear(embedding_width, embedding_width)
        if num_classes is not None:
            self.map_label = nn.Linear(num_classes, embedding_width, bias=False)

        make = functools.partial(
            Block,
            embedding_width=embedding_width,
            taps=(1, 1),
            dropout=dropout,
            scales=True,
            damping=1.0,
            eps=1e-5,
            projects=False,
        )

        def block(inputs: int, outputs: int, place: Place) -> nn.Module:
            return make(inputs, outputs, heads=outputs // _HEAD_CHANNELS if place.attends else 0, way=place.way)

        widths = [model_channels * mult for mult in channel_mult]
        first = Convolution(in_channels + condition_channels, widths[0], 3, padding=1)
        last = self._build(first, block, widths, num_blocks, lambda size, *_: size in attn_resolutions)
        self.out_norm = norm(last, 1e-5)
        self.out_conv = zeroed(Convolution(last, in_channels, 3, padding=1))

    def embed(self, t: Float[Tensor, " b"], y: Int64[Tensor, " b"] | None) -> Float[Tensor, "b e"]:
        """Embed time and label."""
        features = time_features(t, self.noise_channels).to(self.map_layer0.weight.dtype)
        embedding: Tensor = self.map_layer1(functional.silu(self.map_layer0(features)))
        if y is not None:
            embedding = embedding + self.map_label(self._one_hot(y, embedding))
        return functional.silu(embedding)

    def leave(self, h: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise and convolve once more."""
        prediction: Tensor = self.out_conv(functional.silu(self.out_norm(h)))
        return prediction


class _Fourier(nn.Module):
    """Cosines and sines of random frequencies, which stay as they are drawn."""

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(width // 2) * _FOURIER_SCALE)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        angles = t[:, None] * (2 * math.pi * self.freqs.to(t.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class _Unused(nn.Module):
    """A weight that is kept for its checkpoint; no parameter, for it would never get a gradient."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(shape))
