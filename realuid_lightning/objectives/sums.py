"""Several objectives as one."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from realuid_lightning.errors import Faults
from realuid_lightning.objectives.base import Objective
from realuid_lightning.objectives.game import Game
from realuid_lightning.paths import MatchingPath


class Sum(Objective):
    """Objectives side by side: either player minimises a weighted sum of what the parts have it minimise.

    Networks answer all parts together: one forward of the fake model serves them.

    Args:
        objectives: The parts, at least one. At most one may put a discriminator on the fake model.

    Raises:
        UserError: If there are no parts.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        faults = Faults(type(self).__name__)
        faults.unless(bool(objectives), "objectives must have at least one part, got none")
        faults.raise_any()
        self.objectives = list(objectives)

    def weights(self, step: int) -> list[float]:
        """Return the weight of each part after so many generator updates, here 1; parts of weight 0 are not asked."""
        del step
        return [1.0] * len(self.objectives)

    def _weighted(self, game: Game) -> list[tuple[float, Objective]]:
        weighted = zip(self.weights(game.step), self.objectives, strict=True)
        return [(weight, part) for weight, part in weighted if weight != 0]

    @property
    def needs_real(self) -> bool:  # type: ignore[override]
        """Whether any part compares with real samples."""
        return any(part.needs_real for part in self.objectives)

    @property
    def trains_partly(self) -> bool:  # type: ignore[override]
        """Whether no part trains the whole fake model; what one of them leaves out, another one trains."""
        return all(part.trains_partly for part in self.objectives)

    @property
    def looks_elsewhere(self) -> bool:  # type: ignore[override]
        """Whether any part looks at times of its own."""
        return any(part.looks_elsewhere for part in self.objectives)

    @property
    def reads_ratio(self) -> bool:  # type: ignore[override]
        """Whether any part reads density ratios."""
        return any(part.reads_ratio for part in self.objectives)

    @property
    def gives_ratio(self) -> bool:  # type: ignore[override]
        """Whether any part's discriminator learns density ratios."""
        return any(part.gives_ratio for part in self.objectives)

    @property
    def differentiates(self) -> bool:  # type: ignore[override]
        """Whether any part differentiates the fake model."""
        return any(part.differentiates for part in self.objectives)

    def head(self, network: nn.Module) -> nn.Module | None:
        """Return the discriminator's head of the part that has one.

        Raises:
            UserError: If the network can carry none, or several parts have one.
        """
        heads = [head for head in (part.head(network) for part in self.objectives) if head is not None]
        faults = Faults(type(self).__name__)
        faults.unless(
            len(heads) <= 1,
            f"at most one of the objectives may put a discriminator on the fake model, got {len(heads)}: leave the "
            "others out",
        )
        faults.raise_any()
        return heads[0] if heads else None

    def faults(self, path: MatchingPath) -> Iterator[str]:
        """Yield the faults of all parts."""
        for part in self.objectives:
            yield from part.faults(path)

    def prepare_fake(self, game: Game) -> None:
        """Expect what all parts expect."""
        for _, part in self._weighted(game):
            part.prepare_fake(game)

    def fake(self, game: Game) -> Tensor:
        """Return the weighted sum of the parts' losses of the fake model."""
        return self._sum((weight, part.fake(game)) for weight, part in self._weighted(game))

    def prepare_generator(self, game: Game) -> None:
        """Expect what all parts expect."""
        for _, part in self._weighted(game):
            part.prepare_generator(game)

    def generator(self, game: Game) -> Tensor:
        """Return the weighted sum of the parts' losses of the generator."""
        return self._sum((weight, part.generator(game)) for weight, part in self._weighted(game))

    @staticmethod
    def _sum(losses: Iterator[tuple[float, Tensor]]) -> Tensor:
        first, *others = (loss if weight == 1 else weight * loss for weight, loss in losses)
        for other in others:
            first = first + other
        return first
