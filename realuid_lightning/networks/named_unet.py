"""What the UNets of EDM and EDM2 have in common: stages under the names that their checkpoints use."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from realuid_lightning.errors import Faults
from realuid_lightning.networks.blocks import Encoding
from realuid_lightning.networks.inputs import check_inputs
from realuid_lightning.networks.recomputation import run
from realuid_lightning.networks.unconditional import TakesLabels
from realuid_lightning.recorded import Recorded

Way = Literal["down", "up"] | None


class Place(NamedTuple):
    """Where a block stands in the network.

    Attributes:
        half: "enc" on the way down, "dec" in the middle and on the way up.
        way: Whether the block first halves or doubles height and width, or neither.
        attends: Whether it ends in attention.
    """

    half: Literal["enc", "dec"]
    way: Way = None
    attends: bool = False


class NamedUNet(TakesLabels, Recorded, nn.Module, ABC):
    """A UNet whose stages are ``enc.16x16_block0`` and the like.

    A subclass calls ``_check`` and ``_build`` in its ``__init__``, and says how time and label are embedded and what
    comes after the last block. Attributes are those of ``UNet``, so that a GAN head can be put on the middle.
    """

    shape: tuple[int, ...]
    num_classes: int | None
    condition_channels: int
    checkpoint: bool | Literal["cheap"]
    dropout: float
    middle_channels: int
    middle_shape: tuple[int, int, int]
    enc: nn.ModuleDict
    dec: nn.ModuleDict

    @abstractmethod
    def embed(self, t: Float[Tensor, " b"], y: Int64[Tensor, " b"] | None) -> Float[Tensor, "b e"]:
        """Embed times, of float32 or wider, and labels."""

    @abstractmethod
    def leave(self, h: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h w"]:
        """Make the prediction of what the last block returns."""

    def enter(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b j h w"]:
        """Make the input of the first convolution, here ``x`` itself."""
        return x

    def forward(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b i h w"], y: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Return the raw output of the network.

        Args:
            t: What the original calls ``noise_labels``, one a sample; ``log(sigma) / 4`` in EDM's preconditioning.
            x: Points on the path, scaled by the path, ``(B, *shape)``; with the condition behind, if the network has
                one, ``(B, shape[0] + condition_channels, *shape[1:])``.
            y: Class labels in [0, num_classes], exactly when the network has classes; ``num_classes`` itself stands
                for no label, which the original writes as a row of zeros.

        Returns:
            What the path turns into a prediction, ``(B, *shape)``, of the type of ``x``.

        Raises:
            UserError: If shapes do not fit, or labels are missing or superfluous.
        """
        return self.decode(self.encode(t, x, y)).to(x.dtype)

    def encode(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b i h w"], y: Int64[Tensor, " b"] | None = None
    ) -> Encoding:
        """Run the lower half, up to and including the two middle blocks; arguments and errors as in ``forward``."""
        check_inputs(self.shape, self.condition_channels, self.num_classes, t, x, y)
        dtype = next(self.parameters()).dtype
        embedding = self.embed(t.to(torch.promote_types(dtype, torch.float32)), y)
        h = side = self.enter(x)
        skips: list[Tensor] = []
        for name, stage in self.enc.items():
            if name.endswith("_aux_residual"):  # the image itself, reduced beside the blocks
                h = skips[-1] = side = (h + stage(side)) / math.sqrt(2)
            else:
                h = stage(h) if name.endswith("_conv") else self._run(stage, h, embedding)
                skips.append(h)
        for name, stage in self.dec.items():
            if _in_middle(name):
                h = self._run(stage, h, embedding)
        return Encoding(h, tuple(skips), embedding)

    def decode(self, encoding: Encoding) -> Float[Tensor, "b c h w"]:
        """Run the upper half on what ``encode`` returned."""
        h, skips = encoding.middle, list(encoding.skips)
        for name, stage in self.dec.items():
            if "_block" in name:
                h = self._run(stage, h, encoding.embedding, skips.pop())
            elif name.endswith("_up"):
                h = self._run(stage, h, encoding.embedding)
        return self.leave(h)

    def _run(self, stage: nn.Module, *inputs: Tensor) -> Tensor:
        return run(stage, *inputs, keep_less=self.checkpoint, random=self.dropout > 0)

    def _one_hot(self, y: Int64[Tensor, " b"], like: Tensor) -> Tensor:
        """Return labels as rows of zeros with a one, or without for no label, in the type of ``like``."""
        assert self.num_classes is not None
        return functional.one_hot(y, self.num_classes + 1)[:, :-1].to(like.dtype)

    def _build(
        self,
        first: nn.Module,
        block: Callable[[int, int, Place], nn.Module],
        widths: Sequence[int],
        blocks: int,
        attends: Callable[[int, Literal["enc", "dec"], int], bool],
        start: int | None = None,
        beside: Callable[[int | None, int], nn.Module] | None = None,
    ) -> int:
        """Make the stages, and return the channels of the last one.

        Args:
            first: Convolution at full resolution.
            block: Makes a block of input channels, output channels and its place.
            widths: Channels at each resolution; from one to the next, height and width halve.
            blocks: Blocks at each resolution on the way down (one more on the way up).
            attends: Whether the block of a resolution, a half and a number has attention.
            start: Channels that ``first`` returns, ``widths[0]`` when None.
            beside: Makes what halves the image beside the blocks, which is then added to them: of the channels that
                it has (None: those of the input) and of those that it gets. None for a network without.
        """
        channels, size = start or widths[0], self.shape[-1]
        side: int | None = None
        skips = [channels]
        self.enc, self.dec = nn.ModuleDict({f"{size}x{size}_conv": first}), nn.ModuleDict()
        for level, width in enumerate(widths):
            if level > 0:
                size //= 2
                self.enc[f"{size}x{size}_down"] = block(channels, channels, Place("enc", "down"))
                if beside is not None:
                    self.enc[f"{size}x{size}_aux_residual"] = beside(side, channels)
                    side = channels
                skips.append(channels)
            for index in range(blocks):
                place = Place("enc", attends=attends(size, "enc", index))
                self.enc[f"{size}x{size}_block{index}"] = block(channels, width, place)
                channels = width
                skips.append(channels)

        self.middle_channels, self.middle_shape = channels, (channels, size, size)
        self.dec[f"{size}x{size}_in0"] = block(channels, channels, Place("dec", attends=True))
        self.dec[f"{size}x{size}_in1"] = block(channels, channels, Place("dec"))
        for level, width in reversed(list(enumerate(widths))):
            for index in range(blocks + 1):
                place = Place("dec", attends=attends(size, "dec", index))
                self.dec[f"{size}x{size}_block{index}"] = block(channels + skips.pop(), width, place)
                channels = width
            if level > 0:
                size *= 2
                self.dec[f"{size}x{size}_up"] = block(channels, channels, Place("dec", "up"))
        return channels

    def _check(
        self,
        faults: Faults,
        image_size: int,
        channel_mult: Sequence[int],
        attn_resolutions: Sequence[int],
        unit: int,
        counts: Mapping[str, int],
        head_channels: int = 1,
    ) -> None:
        """Note arguments that do not fit.

        Args:
            faults: Where they are noted.
            image_size: Height and width in pixels.
            channel_mult: Channels at each resolution, in units of ``counts["model_channels"]``.
            attn_resolutions: Resolutions with attention.
            unit: What the channels of every resolution must be a multiple of.
            counts: Arguments that must be positive.
            head_channels: What the channels under attention must be a multiple of.
        """
        for name, count in {"image_size": image_size, **counts}.items():
            faults.unless(count > 0, f"{name} must be positive, got {count}")
        classes, condition = self.num_classes, self.condition_channels
        faults.unless(classes is None or classes > 0, f"num_classes must be positive or None, got {classes}")
        faults.unless(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        faults.unless(condition >= 0, f"condition_channels must be at least 0, got {condition}")
        if not channel_mult or min(channel_mult) <= 0:
            faults.unless(False, f"channel_mult must hold positive integers, at least one, got {list(channel_mult)}")
            return
        halvings = len(channel_mult) - 1
        faults.unless(
            image_size % (1 << halvings) == 0,
            f"image_size must be divisible by {1 << halvings} (channel_mult has {halvings + 1} entries), "
            f"got {image_size}",
        )
        widths = {image_size >> level: counts["model_channels"] * mult for level, mult in enumerate(channel_mult)}
        faults.unless(
            all(width % unit == 0 for width in widths.values()),
            f"channels at every resolution must be divisible by {unit}, but model_channels and channel_mult give "
            f"{list(widths.values())}",
        )
        # Published configs name resolutions that smaller images do not have: no fault.
        attended = [width for size, width in widths.items() if size in attn_resolutions or size == min(widths)]
        faults.unless(
            all(width > 0 and width % head_channels == 0 for width in attended),
            f"channels under attention must be divisible by {head_channels}, those of a head, but model_channels and "
            f"channel_mult give {attended}",
        )


def _in_middle(name: str) -> bool:
    return name.endswith(("_in0", "_in1"))
