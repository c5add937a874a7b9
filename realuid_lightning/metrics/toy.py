"""Coordinates of points of the plane, and which mode of a toy density each belongs to."""

from typing import get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from realuid_lightning.data.toy import ToyName, mode_logits
from realuid_lightning.errors import Faults
from realuid_lightning.metrics.features import Features


class ToyFeatures(Features):
    """The coordinates of points, with the modes of a density of ``Toy2D`` as classes.

    The classifier is no network: it knows the density (``data.toy.mode_logits``).

    Args:
        name: The density: ``moons`` (2 modes), ``rings`` (4), ``eight_gaussians`` (8), ``checkerboard`` (8 squares) or
            ``spiral`` (2 arms).

    Attributes:
        num_classes: Number of modes ``K``.

    Raises:
        UserError: If there is no density of that name.

    Example:
        >>> features = ToyFeatures("eight_gaussians")
        >>> features.logits(features(torch.tensor([[0.0, 1.4], [1.0, 1.0]]))).argmax(1)
        tensor([2, 1])
    """

    num_features = 2
    label = "coordinates (2)"

    def __init__(self, name: ToyName) -> None:
        super().__init__()
        faults = Faults("ToyFeatures")
        faults.unless(name in get_args(ToyName), f"name must be one of {', '.join(get_args(ToyName))}, got {name!r}")
        faults.raise_any()
        self.name = name
        self.num_classes = mode_logits(name, torch.zeros(1, 2)).shape[1]

    def fault(self, shape: tuple[int, ...]) -> str | None:
        """Refuse samples that are not points of the plane."""
        if tuple(shape) == (2,):
            return None
        return (
            f"ToyFeatures take points of the plane, but samples have shape {shape}: choose features such as RawFeatures"
        )

    def forward(self, x: Float[Tensor, "b 2"]) -> Float64[Tensor, "b 2"]:
        """Return the points in float64."""
        return x.double()

    def logits(self, vectors: Float[Tensor, "b 2"]) -> Float64[Tensor, "b k"]:
        """Return the logits of the modes."""
        return mode_logits(self.name, vectors)
