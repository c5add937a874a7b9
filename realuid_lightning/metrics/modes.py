"""The classes that samples are of, counted by a classifier."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.metrics.base import Metric, Sample


class Modes(Metric):
    """Which classes there are among generated samples, and how often, by a classifier's largest logit.

    ``modes`` is the number of classes of the real data that the generated samples hold at ``share`` of their frequency
    or more: a stray sample does not make a mode. ``modes_tv`` is the total variation distance between the frequencies
    of real and of generated samples, from 0 to 1.

    Args:
        share: Least frequency of a class that counts, relative to that among real samples, in (0, 1].

    Raises:
        UserError: If ``share`` is out of range.

    Example:
        >>> two, one = torch.eye(2).repeat(5, 1), torch.eye(2)[[0]].repeat(10, 1)
        >>> Modes().compute(Sample.of(two, two), Sample.of(one, one))
        {'modes': 1.0, 'modes_tv': 0.5}
    """

    logits = True

    def __init__(self, share: float = 0.1) -> None:
        faults = Faults("Modes")
        faults.unless(0 < share <= 1, f"share must be in (0, 1], got {share}")
        faults.raise_any()
        self.share = share
        self.better = {"modes": "max", "modes_tv": "min"}

    def figures(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return ``modes`` and ``modes_tv``."""
        expected, found = _frequencies(real.logits), _frequencies(generated.logits)
        held = (expected > 0) & (found >= self.share * expected)
        return {
            "modes": float(held.sum()),
            "modes_tv": 0.5 * (found - expected).abs().sum().item(),
        }


def _frequencies(logits: Float[Tensor, "n k"]) -> Float64[Tensor, " k"]:
    return torch.bincount(logits.argmax(1).cpu(), minlength=logits.shape[1]).double() / len(logits)
