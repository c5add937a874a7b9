"""RealUID, the objective that all others here build on or stand beside (arXiv 2509.22459)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.losses import fake_loss, general_fake_loss, general_generator_loss, needs_real
from realuid_lightning.objectives.base import Objective
from realuid_lightning.objectives.divergences import Divergence, SquaredDistance
from realuid_lightning.objectives.game import Game, Point
from realuid_lightning.paths import MatchingPath


class RealUID(Objective):
    """``min_G max_f L_R(f*; G) - L_R(f; G)``: UID and FGM at alpha = beta = 1, with real data otherwise.

    On a bridge path it is IBMD. The fake model minimises ``fake_loss``, the generator ``generator_loss``, or another
    divergence between what the two networks predict.

    Args:
        alpha: Weight of generated samples in the fake model's squares, in (0, 1].
        beta: Weight of generated samples in the fake model's targets; alpha = beta = 1 needs no real data.
        gamma: Third coefficient of general RealUID; None stands for alpha, which is RealUID.
        divergence: What the generator minimises; ``SquaredDistance``, which is RealUID, when None.

    Raises:
        UserError: If arguments are out of range or do not go together, listing all of them.

    Example:
        >>> RealUID(0.92, 0.94).needs_real, RealUID().needs_real
        (True, False)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float | None = None,
        divergence: Divergence | None = None,
    ) -> None:
        self.alpha, self.beta = alpha, beta
        self.gamma = None if gamma == alpha else gamma  # which is the same, without the teacher in fake steps
        self.divergence = divergence if divergence is not None else SquaredDistance()
        faults, name = Faults("RealUID"), type(self.divergence).__name__
        faults.finite(alpha=alpha, beta=beta, gamma=gamma)
        faults.unless(0 < alpha <= 1, f"alpha must be in (0, 1], got {alpha}")
        faults.unless(
            self.gamma is None or isinstance(self.divergence, SquaredDistance),
            f"gamma belongs to the squared distance, but divergence is {name}: leave one of them out",
        )
        faults.raise_any()

    @property
    def needs_real(self) -> bool:  # type: ignore[override]
        """Whether the fake model is matched to real samples at these coefficients."""
        return needs_real(self.alpha, self.beta, self.alpha if self.gamma is None else self.gamma)

    @property
    def reads_ratio(self) -> bool:  # type: ignore[override]
        """Whether the divergence reads density ratios off a discriminator."""
        return self.divergence.reads_ratio

    def faults(self, path: MatchingPath) -> Iterator[str]:
        """Yield what the divergence lacks on this path."""
        yield from self.divergence.faults(path)

    def prepare_fake(self, game: Game) -> None:
        """Expect the fake model's predictions on both halves."""
        game.expect(fake=self._matched(game))

    def fake(self, game: Game) -> Tensor:
        """Return ``fake_loss``, or ``general_fake_loss``."""
        generated, *others = self._matched(game)
        prediction = game.fake(generated)
        if not others:
            return fake_loss(prediction, generated.target, None, None, alpha=1.0, beta=1.0, weight=game.weight)
        (real,) = others
        on_real = game.fake(real)
        if self.gamma is None:
            return fake_loss(
                prediction,
                generated.target,
                on_real,
                real.target,
                alpha=self.alpha,
                beta=self.beta,
                weight=game.weight,
            )
        with torch.no_grad():
            game.expect(teacher=[generated, real])
            teachers = game.teacher(generated), game.teacher(real)
        return general_fake_loss(
            prediction,
            teachers[0],
            generated.target,
            on_real,
            teachers[1],
            real.target,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            weight=game.weight,
        )

    def _matched(self, game: Game) -> list[Point]:
        return [game.generated, game.real] if self.needs_real else [game.generated]

    def prepare_generator(self, game: Game) -> None:
        """Expect what the divergence will ask for."""
        self.divergence.prepare(game)

    def generator(self, game: Game) -> Tensor:
        """Return the divergence, or ``general_generator_loss``."""
        if self.gamma is None:
            return self.divergence.loss(game, alpha=self.alpha, beta=self.beta)
        point = game.generated
        return general_generator_loss(
            game.teacher(point),
            game.fake(point),
            point.target,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            weight=game.weight,
        )
