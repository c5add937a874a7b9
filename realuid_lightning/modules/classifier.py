"""Training of the small classifiers whose features tell samples apart."""

from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional

from realuid_lightning.data import Batch
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.metrics.classifiers import ARCHITECTURES, ClassifierName, ClassifierNetwork
from realuid_lightning.seeding import global_seed, keyed_generator

SHIFT = 0x5345
"""Key of the shifts of training images."""


class ClassifierModule(LightningModule):
    """Trains a ``ClassifierNetwork``: SGD with momentum and one cycle of the learning rate (Smith, arXiv 1708.07120).

    Args:
        name: Data set that the classifier is for.
        lr: Largest learning rate.
        weight_decay: Weight decay.
        shift: Pixels by which a training image is shifted at most, in both directions; its border is repeated.

    Raises:
        UserError: If arguments are out of range; all faults at once.

    Example:
        >>> module = ClassifierModule("digits")
        >>> module.network.num_features
        64
    """

    def __init__(self, name: ClassifierName, lr: float = 0.1, weight_decay: float = 5e-4, shift: int = 1) -> None:
        super().__init__()
        faults = Faults("ClassifierModule")
        faults.unless(name in ARCHITECTURES, f"name must be one of {', '.join(ARCHITECTURES)}, got {name!r}")
        faults.unless(lr > 0, f"lr must be positive, got {lr}")
        faults.unless(weight_decay >= 0, f"weight_decay must not be negative, got {weight_decay}")
        faults.unless(shift >= 0, f"shift must not be negative, got {shift}")
        faults.finite(lr=lr, weight_decay=weight_decay)
        faults.raise_any()
        self.name = name
        self.network = ClassifierNetwork(name)
        self.lr, self.weight_decay, self.shift = lr, weight_decay, shift

    def setup(self, stage: str) -> None:
        """Refuse data of another shape or number of classes.

        Raises:
            UserError: If they do not fit.
        """
        del stage
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        expected, came = (ARCHITECTURES[self.name].shape, 10), (tuple(data.shape), data.num_classes)
        if came != expected:
            raise UserError(
                f"ClassifierModule: {self.name} is for images of shape {expected[0]} of {expected[1]} classes, but the "
                f"data have shape {came[0]} and {came[1] or 'no'} classes: choose another source, or labels: true"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the cross-entropy of shifted images."""
        del batch_idx
        assert batch.x1 is not None
        assert isinstance(batch.y, Tensor)
        generator = keyed_generator(global_seed(), SHIFT, self.global_step, self.global_rank)
        loss = functional.cross_entropy(self.network(shifted(batch.x1, self.shift, generator)), batch.y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule."""
        optimizer = torch.optim.SGD(
            self.network.parameters(), self.lr, momentum=0.9, weight_decay=self.weight_decay, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def shifted(x: Float[Tensor, "b c h w"], most: int, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """Shift each image by up to ``most`` whole pixels in both directions; its border is repeated.

    Args:
        x: Images.
        most: Largest shift in pixels.
        generator: What the shifts are drawn by, on the CPU.

    Example:
        >>> x = torch.eye(3).expand(1, 1, 3, 3)
        >>> bool((shifted(x, 0, torch.Generator()) == x).all())
        True
    """
    count, _, height, width = x.shape
    down, right = torch.randint(2 * most + 1, (2, count, 1), generator=generator).to(x.device)
    rows = (torch.arange(height, device=x.device) + down - most).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + right - most).clamp(0, width - 1)
    moved = x.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)
