"""DiT and SiT: transformers on patches of latents (arXiv 2212.09748 and 2401.08740)."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from realuid_lightning.errors import Faults
from realuid_lightning.networks.blocks import Encoding, time_features, zeroed
from realuid_lightning.networks.inputs import check_inputs
from realuid_lightning.networks.recomputation import run
from realuid_lightning.networks.unconditional import TakesLabels
from realuid_lightning.recorded import Recorded

_TIME_FEATURES = 256


class DiT(TakesLabels, Recorded, nn.Module):
    """Transformer whose norms are moved by time and class, with the original's state-dict keys; starts at zero.

    It hands its time to sinusoids as it comes. What time and output mean is the checkpoint's to say:

    - A **SiT** is this network with time in [0, 1] and a velocity as output. The original's code has noise at 0 and
      data at 1, as ``FlowMatchingPath`` has (its paper counts the other way), so a checkpoint of the linear
      interpolant is a teacher of that path as it is.
    - A **DiT** takes steps of DDPM, 0 to 999, and returns noise: it is a teacher of
      ``DiffusionPath(VPSchedule(), parameterisation=Noise(time=DDPMSteps()))``.

    The original drops labels in training, here ``TeacherModule`` does (``label_dropout``). The middle, on which a GAN
    head can be put, is a map of the tokens after half of the blocks.

    Args:
        image_size: Height and width of a latent, in its pixels (the original's ``input_size``).
        patch_size: Height and width of a patch; divides ``image_size``.
        in_channels: Channels of a latent.
        hidden_size: Width of a token; divisible by 4 and by ``num_heads``.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        mlp_ratio: Width of the hidden layer of a block, in units of ``hidden_size``.
        num_classes: Number of classes, None for an unconditional network, which the original has not.
        null_label: Whether there is a further row for no label, with number ``num_classes`` (the original's
            ``class_dropout_prob`` above 0).
        learn_sigma: Whether the last layer has a second half, about variances, which is computed and dropped.
        checkpoint: Recompute activations in the backward pass, as in ``UNet``.
        condition_channels: Further channels of the input, behind those of the latent.

    Raises:
        UserError: If arguments do not fit, listing all of them.

    Example:
        The 130 M parameters of SiT-B/2 on latents of 256 px images:

        >>> with torch.device("meta"):  # without memory for them
        ...     network = DiT(32, 2, 4, 768, 12, 12, num_classes=1000)
        >>> sum(weight.numel() for weight in network.parameters())
        130315808
    """

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int | None = 1000,
        null_label: bool = True,
        learn_sigma: bool = True,
        checkpoint: bool | Literal["cheap"] = False,
        condition_channels: int = 0,
    ) -> None:
        super().__init__()
        faults = Faults("DiT")
        counts = {"image_size": image_size, "patch_size": patch_size, "in_channels": in_channels, "depth": depth}
        for name, count in {**counts, "num_heads": num_heads, "hidden_size": hidden_size}.items():
            faults.unless(count > 0, f"{name} must be positive, got {count}")
        faults.unless(
            patch_size <= 0 or image_size % patch_size == 0,
            f"patch_size must divide image_size = {image_size}, got {patch_size}",
        )
        faults.unless(
            num_heads <= 0 or hidden_size % num_heads == 0,
            f"num_heads must divide hidden_size = {hidden_size}, got {num_heads}",
        )
        faults.unless(hidden_size % 4 == 0, f"hidden_size must be divisible by 4, got {hidden_size}")
        faults.finite(mlp_ratio=mlp_ratio)
        faults.unless(mlp_ratio > 0, f"mlp_ratio must be above 0, got {mlp_ratio}")
        faults.unless(
            num_classes is None or num_classes > 0, f"num_classes must be positive or None, got {num_classes}"
        )
        faults.unless(condition_channels >= 0, f"condition_channels must be at least 0, got {condition_channels}")
        faults.raise_any()

        self.shape = (in_channels, image_size, image_size)
        self.num_classes, self.null_label = num_classes, null_label
        self.condition_channels = condition_channels
        self.checkpoint, self.patch_size = checkpoint, patch_size
        side = image_size // patch_size
        self.middle_channels, self.middle_shape = hidden_size, (hidden_size, side, side)
        self._half = (depth + 1) // 2  # at least one block below the middle, lest the features there know no time

        self.x_embedder = _Patches(in_channels + condition_channels, hidden_size, patch_size)
        self.t_embedder = _TimeEmbedding(hidden_size)
        if num_classes is not None:
            self.y_embedder = _LabelTable(num_classes + null_label, hidden_size)
        self.register_buffer("pos_embed", _positions(side, hidden_size))
        self.blocks = nn.ModuleList(_Block(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = _FinalLayer(hidden_size, patch_size**2 * in_channels * (2 if learn_sigma else 1))

    pos_embed: Tensor

    def forward(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b i h w"], y: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Return a velocity or noise, as the checkpoint has it.

        Args:
            t: Time of each sample, in the checkpoint's unit.
            x: Points on the path, ``(B, *shape)``; with the condition behind, if the network has one,
                ``(B, shape[0] + condition_channels, *shape[1:])``.
            y: Class labels, exactly when the network has classes; ``num_classes`` stands for no label, if there is
                ``null_label``.

        Returns:
            The prediction, ``(B, *shape)``, of the type of ``x``.

        Raises:
            UserError: If shapes do not fit, or labels are missing or superfluous.
        """
        return self.decode(self.encode(t, x, y)).to(x.dtype)

    def encode(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b i h w"], y: Int64[Tensor, " b"] | None = None
    ) -> Encoding:
        """Run the lower half of the blocks; arguments and errors as in ``forward``."""
        check_inputs(self.shape, self.condition_channels, self.num_classes, t, x, y)
        embedding = self.t_embedder(t)
        if y is not None:
            embedding = embedding + self.y_embedder(y)
        h: Tensor = self.x_embedder(x)
        h = h + self.pos_embed.to(h.dtype)
        for block in list(self.blocks)[: self._half]:
            h = run(block, h, embedding, keep_less=self.checkpoint, random=False)
        return Encoding(h.transpose(1, 2).reshape(h.shape[0], *self.middle_shape), (), embedding)

    def decode(self, encoding: Encoding) -> Float[Tensor, "b c h w"]:
        """Run the upper half on what ``encode`` returned."""
        h = encoding.middle.flatten(2).transpose(1, 2)
        for block in list(self.blocks)[self._half :]:
            h = run(block, h, encoding.embedding, keep_less=self.checkpoint, random=False)
        patches: Tensor = self.final_layer(h, encoding.embedding)
        side, patch = self.middle_shape[1], self.patch_size
        image = patches.view(h.shape[0], side, side, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
        return image.reshape(h.shape[0], -1, *self.shape[1:])[:, : self.shape[0]]


class _Patches(nn.Module):
    """Tokens of patches, line by line."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n width"]:
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class _TimeEmbedding(nn.Module):
    """Two layers on sinusoids of the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        dtype = next(self.mlp.parameters()).dtype
        precise = t.to(torch.promote_types(dtype, torch.float32))
        embedding: Tensor = self.mlp(time_features(precise, _TIME_FEATURES).to(dtype))
        return embedding


class _LabelTable(nn.Module):
    """A row a class."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(rows, width)

    def forward(self, y: Int64[Tensor, " b"]) -> Float[Tensor, "b width"]:
        embedding: Tensor = self.embedding_table(y)
        return embedding


class _Block(nn.Module):
    """Attention, then two layers, each normalised, moved and gated by the embedding; starts as the identity."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = _Norm(width), _Norm(width)
        self.attn = _Attention(width, heads)
        self.mlp = _MLP(width, int(width * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(width, 6 * width)))

    def forward(self, h: Float[Tensor, "b n width"], embedding: Float[Tensor, "b width"]) -> Float[Tensor, "b n width"]:
        told = self.adaLN_modulation(embedding)[:, None].chunk(6, dim=2)
        attention_shift, attention_scale, attention_gate, shift, scale, gate = told
        h = h + attention_gate * self.attn(self.norm1(h) * (1 + attention_scale) + attention_shift)
        moved: Tensor = h + gate * self.mlp(self.norm2(h) * (1 + scale) + shift)
        return moved


class _Attention(nn.Module):
    """Attention between all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, h: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed: Tensor = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class _MLP(nn.Module):
    """Two layers around a GELU in its approximation by tanh."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, h: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        update: Tensor = self.fc2(functional.gelu(self.fc1(h), approximate="tanh"))
        return update


class _FinalLayer(nn.Module):
    """From tokens to the pixels of their patches; starts at zero."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = _Norm(width)
        self.linear = zeroed(nn.Linear(width, outputs))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(width, 2 * width)))

    def forward(self, h: Float[Tensor, "b n width"], embedding: Float[Tensor, "b width"]) -> Float[Tensor, "b n o"]:
        shift, scale = self.adaLN_modulation(embedding)[:, None].chunk(2, dim=2)
        pixels: Tensor = self.linear(self.norm_final(h) * (1 + scale) + shift)
        return pixels


class _Norm(nn.LayerNorm):
    """Normalisation without weights that keeps the type of its input, which autocast would widen."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6, elementwise_affine=False)

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h).to(h.dtype)


def _positions(side: int, width: int) -> Float[Tensor, "1 n width"]:
    """Embed places on a square grid: half of the features tell the column, half the line; sines, then cosines."""
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    line, column = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    features = [
        function(place.flatten()[:, None] * frequencies)
        for place in (column, line)
        for function in (torch.sin, torch.cos)
    ]
    return torch.cat(features, dim=1).float()[None]
