"""A convex combination of objectives, whose weights may follow a schedule."""

import math
from bisect import bisect_right
from fractions import Fraction

from realuid_lightning.errors import Faults
from realuid_lightning.objectives.base import Objective
from realuid_lightning.objectives.sums import Sum


class Mixture(Sum):
    """A ``Sum`` whose weights are shares, which may change while training goes on.

    Both players minimise the mixture, so a part of weight 0 trains nothing, and no network is asked for it.

    Args:
        objectives: The parts, at least one. At most one may put a discriminator on the fake model.
        weights: One weight a part, or several such lists, each with the number of generator updates after which it
            holds; between two of these, shares move along a line. Weights are at least 0, and scaled to sum 1.

    Raises:
        UserError: If there are no parts, or weights do not fit them.

    Example:
        From one method to an even share of another in 1000 generator updates:

        >>> from realuid_lightning.objectives import DMD, RealUID
        >>> parts = [RealUID(0.98, 0.96), RealUID(divergence=DMD())]
        >>> mixture = Mixture(parts, {0: [1.0, 0.0], 1000: [1.0, 1.0]})
        >>> mixture.weights(0), mixture.weights(500), mixture.weights(2000)
        ([1.0, 0.0], [0.75, 0.25], [0.5, 0.5])
    """

    def __init__(self, objectives: list[Objective], weights: list[float] | dict[int, list[float]]) -> None:
        super().__init__(objectives)
        points = weights if isinstance(weights, dict) else {0: weights}
        faults = Faults("Mixture")
        faults.unless(
            bool(points) and all(step >= 0 for step in points),
            f"weights must begin at some number of generator updates, at least 0, got {list(points)}",
        )
        for given in points.values():
            faults.unless(
                len(given) == len(objectives) and all(0 <= each < math.inf for each in given) and sum(given) > 0,
                f"weights must be at least 0, not all of them 0, one for each of {len(objectives)} objectives, "
                f"got {list(given)}",
            )
        faults.raise_any()
        self._steps = sorted(points)
        self._shares = [_shares(points[step]) for step in self._steps]

    @property
    def trains_partly(self) -> bool:  # type: ignore[override]
        """Whether a part that trains what the others leave out may have weight 0."""
        return super().trains_partly or any(0 in shares for shares in self._shares)

    def weights(self, step: int) -> list[float]:
        """Return the share of each part after so many generator updates; they sum to 1."""
        later = bisect_right(self._steps, step)
        if later in (0, len(self._steps)):
            return list(self._shares[min(later, len(self._steps) - 1)])
        start, end = self._steps[later - 1 : later + 1]
        way = (step - start) / (end - start)
        pairs = zip(*self._shares[later - 1 : later + 1], strict=True)
        return [(1 - way) * before + way * after for before, after in pairs]


def _shares(weights: list[float]) -> list[float]:
    """Return each weight as a share of all; their sum may be more than a float holds."""
    total = sum(map(Fraction, weights))
    return [float(Fraction(each) / total) for each in weights]
