"""The exact Wasserstein-2 distance."""

from realuid_lightning.errors import Faults
from realuid_lightning.metrics.base import Metric, Sample
from realuid_lightning.metrics.distances import centred, equally_many, squared_distances


class Wasserstein(Metric):
    """Wasserstein-2 distance ``w2`` between two samples, exact, by the network simplex of POT (JMLR 22, 2021).

    It is the root of the least mean squared distance over which samples of one side are carried to the other's. Between
    two samples of one distribution it is not 0, and falls slowly with their number, in many dimensions hardly: read it
    beside what real samples score.

    Args:
        samples: Most samples that are compared, at least 2: as many of either side. Time grows as their number's square
            and more: 2,000 points of the plane take some seconds.

    Raises:
        UserError: If ``samples`` is out of range.

    Example:
        >>> import torch
        >>> real = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> Wasserstein().compute(Sample.of(real), Sample.of(real.flip(0) + 1))["w2"] ** 2
        2.0000000000000004
    """

    def __init__(self, samples: int = 2000) -> None:
        faults = Faults("Wasserstein")
        faults.unless(samples >= 2, f"samples must be at least 2, got {samples}")
        faults.raise_any()
        self.vectors = samples
        self.better = {"w2": "min"}

    def figures(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return ``w2``."""
        from ot import emd2  # takes seconds to import

        count = equally_many(real, generated, self.vectors)
        costs = squared_distances(*centred(real.vectors[:count], generated.vectors[:count]))
        scale = costs.mean().item()
        if scale == 0:
            return {"w2": 0.0}
        # The simplex compares costs with numbers of a fixed size, so they must be about 1.
        cost = emd2([], [], (costs / scale).cpu().numpy(), numItermax=10**7)
        return {"w2": (scale * max(float(cost), 0.0)) ** 0.5}
