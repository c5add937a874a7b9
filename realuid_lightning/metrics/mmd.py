"""The squared maximum mean discrepancy at several bandwidths."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.metrics.base import Metric, Sample
from realuid_lightning.metrics.distances import Last, centred, equally_many, row_blocks


class MMD(Metric):
    """Squared maximum mean discrepancy (JMLR 13, 2012, eq. 5) of Gaussian kernels ``exp(-|x - y|^2 / (2 h^2))``.

    At bandwidth ``h`` it sees what differs at the scale ``h``: ``mmd_0.05`` sees thin bands, ``mmd_1`` the whole shape.
    It is the squared distance between the two samples' mean embeddings, the biased estimate, which is never negative:
    of ``n`` real samples and ``n`` others of them about ``2 (1 - E k(x, y)) / n``, and as much more as distributions
    differ. So figures have ratios to that floor, and differences from it that do not depend on ``n``. The unbiased
    estimate is about 0 among real samples, of either sign, and nothing is so many times it.

    Args:
        bandwidths: The ``h``, in units of the features; distinct, positive.
        samples: Most samples that are compared, at least 2: as many of either side.

    Raises:
        UserError: If arguments are out of range; all faults at once.

    Example:
        >>> real = torch.linspace(-1, 1, 50)[:, None]
        >>> figures = MMD([0.1, 1.0]).compute(Sample.of(real), Sample.of(1.1 * real))
        >>> {name: round(figure, 4) for name, figure in figures.items()}
        {'mmd_0.1': 0.0042, 'mmd_1': 0.0014}
    """

    def __init__(
        self,
        bandwidths: list[float] = [0.05, 0.1, 0.2, 0.5, 1.0],  # noqa: B006 - the default is shown by --help; never mutated
        samples: int = 5000,
    ) -> None:
        faults = Faults("MMD")
        faults.unless(
            len(bandwidths) > 0 and all(0 < h < math.inf for h in bandwidths),
            f"bandwidths must be a list of positive, finite numbers, got {bandwidths}",
        )
        names = [f"mmd_{h:g}" for h in bandwidths]
        faults.unless(len(set(names)) == len(names), f"bandwidths must differ, got {bandwidths}")
        faults.unless(samples >= 2, f"samples must be at least 2, got {samples}")
        faults.raise_any()
        self.bandwidths, self.vectors = bandwidths, samples
        self.better = dict.fromkeys(names, "min")
        self._within_real = Last(self._within)

    def figures(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return ``mmd_H`` for each bandwidth."""
        count = equally_many(real, generated, self.vectors)
        within = self._within_real(real.vectors, count) + self._within(generated.vectors, count)
        squared = within - 2 * self._between(real.vectors[:count], generated.vectors[:count])
        return dict(zip(self.better, squared.clamp(min=0).tolist(), strict=True))

    def _between(self, real: Tensor, generated: Tensor) -> Float64[Tensor, " h"]:
        """Return the mean kernel of a real and a generated sample."""
        x, y = centred(real, generated)
        total = x.new_zeros(len(self.bandwidths))
        for _, distances in row_blocks(x, y):
            total += torch.stack([kernel.sum() for kernel in self._kernels(distances)])
        return total / (len(x) * len(y))

    def _within(self, vectors: Tensor, count: int) -> Float64[Tensor, " h"]:
        """Return the mean kernel of two samples of a side; of the symmetric matrix, blocks on or above the diagonal."""
        (x,) = centred(vectors[:count])
        total = x.new_zeros(len(self.bandwidths))
        for block, distances in row_blocks(x, x):
            kernels = self._kernels(distances[:, block.start :])
            diagonal = block.stop - block.start
            total += torch.stack([2 * kernel.sum() - kernel[:, :diagonal].sum() for kernel in kernels])
        return total / len(x) ** 2

    def _kernels(self, distances: Float64[Tensor, "n m"]) -> list[Float64[Tensor, "n m"]]:
        return [(distances * (-0.5 / h**2)).exp_() for h in self.bandwidths]
