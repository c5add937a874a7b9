"""What stands for no condition, as a network takes it: what guidance leans away from."""

from typing import cast

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from realuid_lightning.conditions import Condition
from realuid_lightning.errors import UserError


class TakesLabels:
    """Mixin of networks that take class labels, beside which there may be one for no label.

    Attributes:
        num_classes: Number of classes, None for an unconditional network.
        null_label: Whether the label ``num_classes`` stands for no label.
    """

    num_classes: int | None
    null_label: bool = True

    def unconditional(self, y: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Return the label that stands for none, as many times as there are labels ``y``.

        Raises:
            UserError: If the network knows none.
        """
        if self.num_classes is None:
            raise UserError(f"{type(self).__name__} has no classes: set its num_classes, and null_label: true")
        if not self.null_label:
            raise UserError(f"{type(self).__name__} has no label that stands for none: set its null_label: true")
        return torch.full_like(y, self.num_classes)


def unconditional(network: nn.Module, y: Condition | None) -> Condition:
    """Return the condition that says nothing, in the form of ``y``, as a network takes it.

    Args:
        network: A network with a method ``unconditional(y)``, as those of this package have it.
        y: The condition of some samples.

    Raises:
        UserError: If the network knows none, or there is no ``y``.

    Example:
        >>> from realuid_lightning.networks import MLP
        >>> unconditional(MLP([2], num_classes=3, null_label=True), torch.tensor([0, 2]))
        tensor([3, 3])
    """
    if y is None:
        raise UserError("guidance and label_dropout need conditions, got none: set data.labels: true")
    method = getattr(network, "unconditional", None)
    if method is None:
        raise UserError(
            f"{type(network).__name__} does not tell what stands for no condition: give it a method unconditional(y), "
            "which returns that in the form of y"
        )
    return cast(Condition, method(y))
