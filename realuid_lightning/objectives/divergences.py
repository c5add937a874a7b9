"""How RealUID's generator may measure its distance to the teacher: its own square, SiD, SIM, the norm, DMD."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from realuid_lightning.errors import Faults, UserError
from realuid_lightning.losses import (
    RATIO_WEIGHTS,
    FDivergence,
    dmd_generator_loss,
    f_divergence_weight,
    generator_loss,
    l2_generator_loss,
    normalising_weight,
    pseudo_huber_generator_loss,
    sid_generator_loss,
)
from realuid_lightning.objectives.game import Game
from realuid_lightning.paths import MatchingPath


class Divergence(ABC):
    """What the generator minimises in RealUID; a subclass gives ``loss``, and asks the game for what it needs.

    Attributes:
        reads_ratio: Whether ``loss`` reads density ratios off a discriminator's logits.

    Example:
        >>> class Distance(Divergence):
        ...     def loss(self, game, *, alpha, beta):
        ...         point = game.generated
        ...         return generator_loss(game.teacher(point), game.fake(point), point.target, alpha=alpha, beta=beta)
        >>> from realuid_lightning.objectives import RealUID
        >>> objective = RealUID(0.98, 0.96, divergence=Distance())
    """

    reads_ratio: bool = False

    @abstractmethod
    def loss(self, game: Game, *, alpha: float, beta: float) -> Tensor:
        """Return what the generator minimises.

        Args:
            game: The batch, with a graph through ``game.x1``.
            alpha: Weight of generated samples in the fake model's squares, in (0, 1].
            beta: Weight of generated samples in the fake model's targets, any real number.
        """

    def prepare(self, game: Game) -> None:
        """Tell ``game.expect`` what ``loss`` will ask of the fake model: here its prediction at generated samples."""
        game.expect(fake=[game.generated])

    def faults(self, path: MatchingPath) -> Iterator[str]:
        """Yield what keeps it from working on a path, one message a fault; nothing by default."""
        del path
        yield from ()


class SquaredDistance(Divergence):
    """``E_m w |f* - f_opt|^2``: ``generator_loss``, the objective of RealUID (arXiv 2509.22459), UID and FGM."""

    def loss(self, game: Game, *, alpha: float, beta: float) -> Tensor:
        """Return ``generator_loss``."""
        point = game.generated
        teacher, fake = game.teacher(point), game.fake(point)
        return generator_loss(teacher, fake, point.target, alpha=alpha, beta=beta, weight=game.weight)


class SiD(Divergence):
    """Score identity distillation: ``sid_generator_loss`` (arXiv 2404.04057).

    Args:
        alpha_sid: SiD's alpha, any real number; 1.0 and 1.2 are usual, 0.5 is the squared distance.
        normalise: Whether to weigh by SiD's ``normalising_weight``, which belongs to inner products of guesses of
            ``x1``: those it then takes on every path, whatever a network predicts there. Without it, the predictions
            themselves are compared, by the path's weight.

    Example:
        >>> from realuid_lightning.objectives import RealUID
        >>> objective = RealUID(1.0, 1.0, divergence=SiD(alpha_sid=1.2))
    """

    def __init__(self, alpha_sid: float = 1.0, normalise: bool = True) -> None:
        faults = Faults("SiD")
        faults.finite(alpha_sid=alpha_sid)
        faults.raise_any()
        self.alpha_sid = alpha_sid
        self.normalise = normalise

    def loss(self, game: Game, *, alpha: float, beta: float) -> Tensor:
        """Return ``sid_generator_loss``."""
        point, weight = game.generated, game.weight
        teacher, fake, target = game.teacher(point), game.fake(point), point.target
        if self.normalise:
            # In units of x1: each its guess of x1 less that of a prediction of zero. Differences are those of guesses;
            # what is zero must stay so, for with beta != alpha the loss is no function of differences alone.
            weight = normalising_weight(game.x1, game.denoise(point, teacher))
            origin = game.denoise(point, torch.zeros_like(teacher))
            teacher, fake, target = (game.denoise(point, each) - origin for each in (teacher, fake, target))
        return sid_generator_loss(
            teacher, fake, target, alpha=alpha, beta=beta, alpha_sid=self.alpha_sid, weight=weight
        )


class PseudoHuber(Divergence):
    """Score implicit matching: ``pseudo_huber_generator_loss`` (SIM, arXiv 2410.16794).

    It compares what the networks predict, in the units of the path (velocities or samples), by the path's weight.

    Args:
        h: Norm ``|f* - f|`` of a whole sample at which the squared distance turns into the norm, above 0. None stands
            for ``0.00054 sqrt(dimensions)``, 0.03 on CIFAR-10, with which consistency models use this distance
            (arXiv 2310.14189). A sample with a gap far above it counts by direction alone.

    Example:
        >>> from realuid_lightning.objectives import RealUID
        >>> objective = RealUID(1.0, 1.0, divergence=PseudoHuber(h=0.03))
    """

    def __init__(self, h: float | None = None) -> None:
        faults = Faults("PseudoHuber")
        faults.finite(h=h)
        faults.unless(h is None or h > 0, f"h must be above 0, or null for 0.00054 sqrt(dimensions), got {h}")
        faults.raise_any()
        self.h = h

    def loss(self, game: Game, *, alpha: float, beta: float) -> Tensor:
        """Return ``pseudo_huber_generator_loss``."""
        point = game.generated
        teacher, fake = game.teacher(point), game.fake(point)
        h = 0.00054 * teacher[0].numel() ** 0.5 if self.h is None else self.h
        return pseudo_huber_generator_loss(teacher, fake, point.target, alpha=alpha, beta=beta, h=h, weight=game.weight)


class L2(Divergence):
    """The norm in place of its square: ``l2_generator_loss`` (RealUID, arXiv 2509.22459).

    It compares what the networks predict, in the units of the path (velocities or samples), by the path's weight.

    Args:
        eps: Least norm ``|f* - f|`` that is divided by, above 0.

    Example:
        >>> from realuid_lightning.objectives import RealUID
        >>> objective = RealUID(0.92, 0.94, divergence=L2())
    """

    def __init__(self, eps: float = 1e-6) -> None:
        faults = Faults("L2")
        faults.finite(eps=eps)
        faults.unless(eps > 0, f"eps must be above 0, got {eps}")
        faults.raise_any()
        self.eps = eps

    def loss(self, game: Game, *, alpha: float, beta: float) -> Tensor:
        """Return ``l2_generator_loss``."""
        point = game.generated
        teacher, fake = game.teacher(point), game.fake(point)
        return l2_generator_loss(teacher, fake, point.target, alpha=alpha, beta=beta, eps=self.eps, weight=game.weight)


class DMD(Divergence):
    """Distribution matching distillation: ``dmd_generator_loss`` (arXiv 2311.18828), and f-distill (arXiv 2502.15681).

    ``alpha`` and ``beta`` act in the fake model alone. With an exact one, ``alpha = beta < 1`` multiplies the reverse
    KL's gradient by ``alpha / (alpha + (1-alpha) r)``, ``r = p_r / p_g``, when the teacher is exact too: at 0.5 it is
    the softened reverse KL, with no discriminator.

    Between two domains the divergence is that of laws given ``x0``, which the network must see for it. Where it does
    not, differences of guesses are none of scores: the normalised move is a rule, not the descent of a divergence.

    Args:
        normalise: Whether to weigh by DMD's ``normalising_weight``. Without it the weight is the signal-to-noise ratio
            of the path, and the gradient that of the divergence itself, averaged over the times of the generator's
            steps; it grows towards the data end, where ``xt`` has hardly any noise. The path's weight has no part.
        f: The divergence. All but ``reverse_kl`` need a discriminator and multiply by its ``f_divergence_weight``,
            whose mean is taken over the local batch: under DDP each process scales by its own, and so does each of
            several micro-batches (``accumulate``).

    Example:
        >>> from realuid_lightning.objectives import GAN, Adversarial, RealUID
        >>> f_distill = Adversarial(RealUID(divergence=DMD(f="jensen_shannon")), GAN(t_range=(0.0, 1.0)))
        >>> DMD().reads_ratio, DMD(f="jensen_shannon").reads_ratio
        (False, True)
    """

    def __init__(self, normalise: bool = True, f: FDivergence = "reverse_kl") -> None:
        faults = Faults("DMD")
        faults.unless(f in RATIO_WEIGHTS, f"f must be one of {', '.join(get_args(FDivergence))}, got {f!r}")
        faults.raise_any()
        self.normalise = normalise
        self.f: FDivergence = f
        self.reads_ratio = f != "reverse_kl"

    def loss(self, game: Game, *, alpha: float, beta: float) -> Tensor:
        """Return ``dmd_generator_loss``."""
        del alpha, beta
        point = game.generated
        with torch.no_grad():  # a fixed move: without graphs of the networks, a step takes a fraction of the memory
            if self.reads_ratio:
                game.expect(logits=[point])
            teacher, fake = (game.denoise(point, each) for each in (game.teacher(point), game.fake(point)))
            weight = normalising_weight(game.x1, teacher) if self.normalise else game.path.signal_to_noise(point.t)
            if self.reads_ratio:
                weight = weight * f_divergence_weight(game.logits(point), self.f)
        return dmd_generator_loss(game.x1, teacher, fake, weight=weight)

    def prepare(self, game: Game) -> None:
        """Expect nothing: the networks are asked without a graph."""

    def faults(self, path: MatchingPath) -> Iterator[str]:
        """Yield that a path gives no signal-to-noise ratio, where that is the weight."""
        if not self.normalise:
            try:
                path.signal_to_noise(torch.tensor([path.generator_start]))
            except UserError as error:
                yield str(error)
