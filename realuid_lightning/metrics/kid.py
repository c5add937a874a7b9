"""The kernel distance of features."""

import torch
from torchmetrics.image.kid import poly_mmd

from realuid_lightning.errors import Faults
from realuid_lightning.metrics.base import Metric, Sample
from realuid_lightning.seeding import keyed_generator

SUBSETS = 0x51B5E


class KID(Metric):
    """Kernel Inception distance (arXiv 1801.01401): squared MMD of the kernel ``(x . y / F + 1)^degree``, unbiased.

    It is the mean over subsets, drawn from either side, of torchmetrics' estimate, in float64. Being unbiased it is
    about 0 for equal distributions, and may be negative.

    Args:
        subsets: Number of subsets, at least 1.
        subset_size: Samples of a subset, at least 2; all, where there are fewer.
        degree: Degree of the kernel, at least 1.
        samples: Samples of either side that subsets are drawn from, at least ``subset_size``; all, where there are
            fewer.

    Raises:
        UserError: If arguments are out of range; all faults at once.

    Example:
        >>> real = torch.linspace(-1, 1, 50)[:, None]
        >>> near, far = (KID(subset_size=20).compute(Sample.of(real), Sample.of(real + by))["kid"] for by in (0, 1))
        >>> abs(near) < 0.1 < far
        True
    """

    def __init__(self, subsets: int = 100, subset_size: int = 1000, degree: int = 3, samples: int = 10_000) -> None:
        faults = Faults("KID")
        faults.unless(subsets >= 1, f"subsets must be at least 1, got {subsets}")
        faults.unless(subset_size >= 2, f"subset_size must be at least 2, got {subset_size}")
        faults.unless(degree >= 1, f"degree must be at least 1, got {degree}")
        faults.unless(samples >= subset_size, f"samples must be at least subset_size ({subset_size}), got {samples}")
        faults.raise_any()
        self.subsets, self.subset_size, self.degree, self.vectors = subsets, subset_size, degree, samples
        self.better = {"kid": "min"}

    def figures(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return ``kid``."""
        sides = [side.vectors[: self.vectors].double() for side in (real, generated)]
        size = min(self.subset_size, *map(len, sides))
        generator, estimates = keyed_generator(SUBSETS), []
        for _ in range(self.subsets):
            ours, theirs = (
                side[torch.randperm(len(side), generator=generator)[:size].to(side.device)] for side in sides
            )
            estimates.append(poly_mmd(ours, theirs, self.degree))
        return {"kid": torch.stack(estimates).mean().item()}
