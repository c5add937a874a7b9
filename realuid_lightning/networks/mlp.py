"""A small network for vectors and tiny images, fast on a CPU."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from realuid_lightning.errors import Faults
from realuid_lightning.networks.blocks import Encoding, time_features, zeroed
from realuid_lightning.networks.inputs import check_inputs
from realuid_lightning.networks.unconditional import TakesLabels
from realuid_lightning.recorded import Recorded

_TIME_FEATURES = 64
_TIME_SCALE = 30.0


class MLP(TakesLabels, Recorded, nn.Module):
    """Residual multilayer perceptron with time and class embeddings; its output starts at zero.

    Samples are flattened, hence it suits 2-D toys, vectors and images of a few hundred values, not more.

    Args:
        shape: Shape of one sample, such as [2] or [1, 8, 8].
        width: Width of the hidden layers; 256 gives about 0.55 M parameters on 8 x 8 digits.
        depth: Number of residual blocks.
        num_classes: Number of classes of a conditional network, None for an unconditional one.
        dropout: Probability of dropping a hidden activation, in [0, 1).
        condition_channels: Further channels of the input, behind those of the sample along its first dimension; of a
            vector, further values.
        null_label: Whether there is a further label, ``num_classes``, that stands for none, as guidance needs it.

    Raises:
        UserError: If arguments do not fit, listing all of them.

    Example:
        >>> network = MLP([1, 8, 8], width=32, num_classes=10)
        >>> network(torch.rand(5), torch.randn(5, 1, 8, 8), torch.arange(5)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 256,
        depth: int = 3,
        num_classes: int | None = None,
        dropout: float = 0.0,
        condition_channels: int = 0,
        null_label: bool = False,
    ) -> None:
        super().__init__()
        faults = Faults("MLP")
        faults.unless(
            len(shape) > 0 and min(shape) > 0, f"shape must hold positive integers, at least one, got {list(shape)}"
        )
        faults.unless(width >= 2, f"width must be at least 2, got {width}")
        faults.unless(depth > 0, f"depth must be positive, got {depth}")
        faults.unless(
            num_classes is None or num_classes > 0, f"num_classes must be positive or None, got {num_classes}"
        )
        faults.unless(0 <= dropout < 1, f"dropout must be in [0, 1), got {dropout}")
        faults.unless(condition_channels >= 0, f"condition_channels must be at least 0, got {condition_channels}")
        faults.raise_any()

        self.shape = tuple(shape)
        self.num_classes, self.null_label = num_classes, null_label
        self.condition_channels = condition_channels
        self.middle_channels = width
        self.middle_shape = (width,)
        size, condition_size = math.prod(shape), condition_channels * math.prod(shape[1:])
        embedding_width = width // 2
        self.time_embed = nn.Sequential(
            nn.Linear(_TIME_FEATURES, embedding_width), nn.SiLU(), nn.Linear(embedding_width, embedding_width)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes + null_label, embedding_width)
        self.input = nn.Linear(size + condition_size, width)
        self.blocks = nn.ModuleList(_Block(width, embedding_width, dropout) for _ in range(depth))
        self._half = (depth + 1) // 2  # at least one block below the middle, lest the features there know no time
        self.out = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), zeroed(nn.Linear(width, size)))

    def forward(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b *i"], y: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b *d"]:
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
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b *i"], y: Int64[Tensor, " b"] | None = None
    ) -> Encoding:
        """Run the lower half of the blocks; arguments and errors as in ``forward``."""
        check_inputs(self.shape, self.condition_channels, self.num_classes, t, x, y)
        weight = self.input.weight
        precise = torch.promote_types(weight.dtype, torch.float32)
        # Frequencies from 30 down to 1 radian per unit of time: the fastest turns about five times over [0, 1].
        features = time_features(_TIME_SCALE * t.to(precise), _TIME_FEATURES, max_period=_TIME_SCALE)
        embedding: Tensor = self.time_embed(features.to(weight.dtype))
        if y is not None:
            embedding = embedding + self.label_emb(y)
        h: Tensor = self.input(x.flatten(1))
        for block in list(self.blocks)[: self._half]:
            h = block(h, embedding)
        return Encoding(h, (), embedding)

    def decode(self, encoding: Encoding) -> Float[Tensor, "b *d"]:
        """Run the upper half on what ``encode`` returned."""
        h = encoding.middle
        for block in list(self.blocks)[self._half :]:
            h = block(h, encoding.embedding)
        prediction: Tensor = self.out(h)
        return prediction.view(h.shape[0], *self.shape)


class _Block(nn.Module):
    """Two layers around an added embedding, beside a skip connection."""

    def __init__(self, width: int, embedding_width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width))
        self.shift = nn.Sequential(nn.SiLU(), nn.Linear(embedding_width, width))
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        update: Tensor = self.second(self.first(h) + self.shift(embedding))
        return h + update
