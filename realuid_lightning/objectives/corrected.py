"""Distillation that does not believe its teacher: real data correct what the teacher says."""

from collections.abc import Iterator

import torch
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.losses import corrected_fake_loss, general_generator_loss
from realuid_lightning.objectives.base import Objective
from realuid_lightning.objectives.divergences import Divergence, SquaredDistance
from realuid_lightning.objectives.game import Game
from realuid_lightning.objectives.realuid import RealUID
from realuid_lightning.paths import MatchingPath


class Corrected(Objective):
    """UID whose fake model learns the teacher's residual on real data as well, and takes ``rho`` of it away.

    With ``u_g, u_r`` the exact predictions of generated and real samples and ``m = alpha p_g + (1-alpha) p_r``, the
    exact fake model is ``f* + (p_g (u_g - f*) - rho p_r (u_r - f*)) / m``. For a teacher that is the exact prediction
    of some distribution ``p_T``, both networks agree, and the game is solved, at ``p_g = rho p_r + (1-rho) p_T``. Under
    an exact teacher that is ``p_r``, and at ``rho = 1`` it is ``p_r`` whatever the teacher says: it then shows where to
    begin, and no more. All of that holds given the condition ``y``, and given ``x0`` where the network sees it; where
    it does not, for the distribution of samples, not for which of them belongs to which ``x0``.

    A teacher that is exact for no distribution has no ``p_T``: one with errors of training has it nearly, a guided one
    (``guidance``) hardly. Below ``rho = 1`` the networks then agree nowhere, and the end is a compromise that depends
    on ``alpha`` and on the weights of times. ``rho`` takes guidance away like any error of the teacher; 1 all of it.

    It is general RealUID (arXiv 2509.22459) at ``beta = gamma = b = 1 / (1 - rho)`` with the fake model
    ``f* + b (f - f*)``: in these units the fake model need not go farther for a larger ``rho``, and ``rho = 1`` is a
    number like others. docs/wrong_teachers.md has the derivation and what it gives.

    Args:
        rho: Share of the teacher's residual on real data that is taken away, in [0, 1]; 0 is UID, but for ``alpha``.
        alpha: Weight of generated samples in the fake model's squares, in (0, 1]. Below 1, real samples hold the fake
            model where generated ones are rare; at 1 nothing does.
        divergence: What the generator minimises; when None or ``SquaredDistance``, the value of the game,
            ``general_generator_loss``. Others compare the two networks as in UID, without ``alpha``: they too rest
            where these agree, but elsewhere ``SiD(a)`` is, by the value of the game, ``SiD(a / alpha)``.

    Raises:
        UserError: If arguments are out of range, listing all of them.

    Example:
        >>> Corrected(rho=0.5).needs_real, Corrected(rho=0.0, alpha=1.0).needs_real
        (True, False)
    """

    def __init__(self, rho: float = 1.0, alpha: float = 0.9, divergence: Divergence | None = None) -> None:
        faults = Faults("Corrected")
        faults.finite(rho=rho, alpha=alpha)
        faults.unless(0 <= rho <= 1, f"rho must be in [0, 1], got {rho}")
        faults.unless(0 < alpha <= 1, f"alpha must be in (0, 1], got {alpha}")
        faults.raise_any()
        self.rho, self.alpha = rho, alpha
        # The square of the distance is the value of the game, with alpha; that of UID would leave it out.
        self.divergence = None if type(divergence) is SquaredDistance else divergence

    @property
    def needs_real(self) -> bool:  # type: ignore[override]
        """Whether real samples have any effect."""
        return self.rho > 0 or self.alpha < 1

    @property
    def reads_ratio(self) -> bool:  # type: ignore[override]
        """Whether the divergence reads density ratios off a discriminator."""
        return self.divergence is not None and self.divergence.reads_ratio

    def faults(self, path: MatchingPath) -> Iterator[str]:
        """Yield what the divergence lacks on this path."""
        if self.divergence is not None:
            yield from self.divergence.faults(path)

    def prepare_fake(self, game: Game) -> None:
        """Expect the fake model's predictions on both halves; the teacher's carry no graph, and are asked for apart."""
        game.expect(fake=[game.generated, game.real] if self.needs_real else [game.generated])

    def fake(self, game: Game) -> Tensor:
        """Return ``corrected_fake_loss``; without real samples UID's, which needs no teacher for the same gradients."""
        if not self.needs_real:
            return RealUID().fake(game)
        generated, real = game.generated, game.real
        with torch.no_grad():
            game.expect(teacher=[generated, real])
            teachers = game.teacher(generated), game.teacher(real)
        return corrected_fake_loss(
            game.fake(generated),
            teachers[0],
            generated.target,
            game.fake(real),
            teachers[1],
            real.target,
            alpha=self.alpha,
            rho=self.rho,
            weight=game.weight,
        )

    def prepare_generator(self, game: Game) -> None:
        """Expect the fake model's prediction at generated samples, or what the divergence will ask for."""
        if self.divergence is None:
            game.expect(fake=[game.generated])
        else:
            self.divergence.prepare(game)

    def generator(self, game: Game) -> Tensor:
        """Return ``general_generator_loss``, or the divergence."""
        if self.divergence is not None:
            return self.divergence.loss(game, alpha=1.0, beta=1.0)
        point, weight = game.generated, game.weight
        teacher, fake = game.teacher(point), game.fake(point)
        return general_generator_loss(teacher, fake, point.target, alpha=self.alpha, beta=1.0, gamma=1.0, weight=weight)
