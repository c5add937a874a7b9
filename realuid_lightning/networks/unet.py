"""The UNet of Dhariwal and Nichol (2021, arXiv 2105.05233): by default as in the published experiments."""

import functools
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from realuid_lightning.errors import Faults
from realuid_lightning.networks.blocks import (
    AttentionBlock,
    Downsample,
    Encoding,
    Norm,
    ResBlock,
    Stage,
    Upsample,
    time_features,
    zeroed,
)
from realuid_lightning.networks.convolution import Convolution
from realuid_lightning.networks.inputs import check_inputs
from realuid_lightning.networks.recomputation import run
from realuid_lightning.networks.unconditional import TakesLabels
from realuid_lightning.recorded import Recorded


class UNet(TakesLabels, Recorded, nn.Module):
    """UNet with time embedding, attention and optional classes; its output starts at zero.

    State-dict keys and shapes are those of the official RealUID checkpoints (see ``load_official``), of torchcfm and,
    with the last four arguments, of flow_matching. Runs in float32, in float64, and under bfloat16 autocast; prefers
    channels_last on GPUs.

    Args:
        image_size: Height and width, in pixels; divisible by 2 for every further entry of ``channel_mult``.
        in_channels: Channels of the image, 3 for colour.
        model_channels: Channels at full resolution, divisible by 32.
        num_res_blocks: Residual blocks at each resolution on the way down (one more on the way up).
        channel_mult: Channels at each resolution, in units of ``model_channels``; from one entry to the next the
            resolution halves.
        attention_resolutions: Resolutions, in pixels, with attention; the middle block always has it.
        num_head_channels: Channels of one attention head.
        num_classes: Number of classes of a conditional network, None for an unconditional one.
        dropout: Probability of dropping an activation, in [0, 1).
        checkpoint: Recompute activations in the backward pass: less memory, more time, same gradients. ``"cheap"``
            keeps what convolutions and matrix products return, and recomputes the rest; True recomputes all but the
            inputs of stages, for about a third more time.
        condition_channels: Further channels of the input, behind those of the image.
        first_channels: Channels of the first convolution, divisible by 32; ``model_channels`` when None.
        scales: Whether embeddings scale and shift norms, or are added before them.
        resample: What halves and doubles the resolution: a ``convolution``, ``pooling`` (means and repetition, without
            weights) or a residual ``block`` with pooling inside.
        null_label: Whether there is a further label, ``num_classes``, that stands for none, as guidance needs it.

    Raises:
        UserError: If arguments do not fit, listing all of them.

    Example:
        The 35.7 M parameters of the CIFAR-10 experiments:

        >>> with torch.device("meta"):  # without memory for them
        ...     network = UNet(32, 3)
        >>> sum(weight.numel() for weight in network.parameters())
        35746307
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int = 128,
        num_res_blocks: int = 2,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        attention_resolutions: Sequence[int] = (16,),
        num_head_channels: int = 64,
        num_classes: int | None = None,
        dropout: float = 0.0,
        checkpoint: bool | Literal["cheap"] = False,
        condition_channels: int = 0,
        first_channels: int | None = None,
        scales: bool = False,
        resample: Literal["convolution", "pooling", "block"] = "convolution",
        null_label: bool = False,
    ) -> None:
        super().__init__()
        faults = Faults("UNet")
        _check_counts(
            faults,
            image_size=image_size,
            in_channels=in_channels,
            model_channels=model_channels,
            num_res_blocks=num_res_blocks,
            num_head_channels=num_head_channels,
        )
        faults.unless(
            num_classes is None or num_classes > 0, f"num_classes must be positive or None, got {num_classes}"
        )
        faults.unless(0 <= dropout < 1, f"dropout must be in [0, 1), got {dropout}")
        faults.unless(condition_channels >= 0, f"condition_channels must be at least 0, got {condition_channels}")
        faults.unless(
            first_channels is None or (first_channels > 0 and first_channels % 32 == 0),
            f"first_channels must be a positive multiple of 32, or None, got {first_channels}",
        )
        faults.unless(
            resample in ("convolution", "pooling", "block"),
            f"resample must be convolution, pooling or block, got {resample}",
        )
        _check_levels(faults, image_size, model_channels, channel_mult, attention_resolutions, num_head_channels)
        faults.raise_any()

        self.shape = (in_channels, image_size, image_size)
        self.num_classes, self.null_label = num_classes, null_label
        self.condition_channels = condition_channels
        self.checkpoint, self.dropout = checkpoint, dropout
        self.model_channels = model_channels
        embedding_width = 4 * model_channels

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, embedding_width), nn.SiLU(), nn.Linear(embedding_width, embedding_width)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes + null_label, embedding_width)

        make = functools.partial(ResBlock, embedding_width=embedding_width, dropout=dropout, scales=scales)

        def attention(channels: int) -> AttentionBlock:
            return AttentionBlock(channels, num_head_channels)

        def layers(inputs: int, outputs: int, size: int) -> list[nn.Module]:
            block = make(inputs, outputs)
            return [block, attention(outputs)] if size in attention_resolutions else [block]

        def resampling(channels: int, way: Literal["down", "up"]) -> nn.Module:
            if resample == "block":
                return make(channels, channels, way=way)
            return (Downsample if way == "down" else Upsample)(channels, learned=resample == "convolution")

        # Down: remember the channels of every stage, for the way up joins each to its mirror image.
        widths = [model_channels * mult for mult in channel_mult]
        channels, size = first_channels or model_channels, image_size
        skips = [channels]
        first_layer = Convolution(in_channels + condition_channels, channels, 3, padding=1)
        self.input_blocks = nn.ModuleList([Stage([first_layer])])
        for level, width in enumerate(widths):
            if level > 0:
                self.input_blocks.append(Stage([resampling(channels, "down")]))
                skips.append(channels)
                size //= 2
            for _ in range(num_res_blocks):
                self.input_blocks.append(Stage(layers(channels, width, size)))
                channels = width
                skips.append(channels)

        self.middle_channels = channels
        self.middle_shape = (channels, size, size)
        first, last = (make(channels, channels) for _ in range(2))
        self.middle_block = Stage([first, attention(channels), last])

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(num_res_blocks + 1):
                self.output_blocks.append(Stage(layers(channels + skips.pop(), width, size)))
                channels = width
            if level > 0:
                self.output_blocks[-1].append(resampling(channels, "up"))  # type: ignore[operator]
                size *= 2

        self.out = nn.Sequential(Norm(channels), nn.SiLU(), zeroed(Convolution(channels, in_channels, 3, padding=1)))

    def forward(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b i h w"], y: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Predict the matching target, a velocity in flow matching.

        Args:
            t: Time of each sample, in [0, 1].
            x: Points on the path, ``(B, *shape)``; with the condition behind, if the network has one,
                ``(B, shape[0] + condition_channels, *shape[1:])``.
            y: Class labels in [0, num_classes), exactly when the network has classes; ``num_classes`` stands for no
                label, if there is ``null_label``.

        Returns:
            The prediction, ``(B, *shape)``, of the type of ``x``.

        Raises:
            UserError: If shapes do not fit, or labels are missing or superfluous.
        """
        return self.decode(self.encode(t, x, y)).to(x.dtype)

    def encode(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b i h w"], y: Int64[Tensor, " b"] | None = None
    ) -> Encoding:
        """Run the lower half, up to and including the middle block; arguments and errors as in ``forward``."""
        check_inputs(self.shape, self.condition_channels, self.num_classes, t, x, y)
        dtype = next(self.time_embed.parameters()).dtype
        precise = torch.promote_types(dtype, torch.float32)
        embedding: Tensor = self.time_embed(time_features(t.to(precise), self.model_channels).to(dtype))
        if y is not None:
            embedding = embedding + self.label_emb(y)

        h = x
        skips = []
        for stage in self.input_blocks:
            h = self._run(stage, embedding, h)
            skips.append(h)
        return Encoding(self._run(self.middle_block, embedding, h), tuple(skips), embedding)

    def decode(self, encoding: Encoding) -> Float[Tensor, "b c h w"]:
        """Run the upper half on what ``encode`` returned."""
        h = encoding.middle
        for stage, skip in zip(self.output_blocks, reversed(encoding.skips), strict=True):
            h = self._run(stage, encoding.embedding, h, skip)
        prediction: Tensor = self.out(h)
        return prediction

    def _run(self, stage: nn.Module, *inputs: Tensor) -> Tensor:
        """Run one stage, keeping for the backward pass what ``checkpoint`` says."""
        return run(stage, *inputs, keep_less=self.checkpoint, random=self.dropout > 0)


def _check_counts(faults: Faults, **counts: int) -> None:
    for name, count in counts.items():
        faults.unless(count > 0, f"{name} must be positive, got {count}")


def _check_levels(
    faults: Faults,
    image_size: int,
    model_channels: int,
    channel_mult: Sequence[int],
    attention_resolutions: Sequence[int],
    num_head_channels: int,
) -> None:
    """Note what keeps the resolutions and channels from fitting together."""
    positive = len(channel_mult) > 0 and min(channel_mult) > 0
    faults.unless(positive, f"channel_mult must hold positive integers, at least one, got {list(channel_mult)}")
    faults.unless(
        model_channels % 32 == 0, f"model_channels must be divisible by 32 (32 groups in a norm), got {model_channels}"
    )
    sizes = [image_size >> level for level in range(len(channel_mult))]
    faults.unless(
        not sizes or sizes[-1] << len(sizes) - 1 == image_size > 0,
        f"image_size must be divisible by {1 << max(len(sizes) - 1, 0)} (channel_mult has {len(sizes)} entries), "
        f"got {image_size}",
    )
    strange = sorted(set(attention_resolutions) - set(sizes))
    faults.unless(
        not strange, f"attention_resolutions must be among the resolutions {sizes}, got {strange} beside them"
    )
    if positive and num_head_channels > 0:
        attended = {mult for mult, size in zip(channel_mult, sizes, strict=True) if size in attention_resolutions}
        channels = sorted(model_channels * mult for mult in attended | {channel_mult[-1]})
        faults.unless(
            all(width % num_head_channels == 0 for width in channels),
            f"num_head_channels must divide the channels under attention {channels}, got {num_head_channels}",
        )
