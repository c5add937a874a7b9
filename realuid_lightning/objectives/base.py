"""The contract of an objective: what both players of a distillation minimise."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor, nn

from realuid_lightning.objectives.game import Game
from realuid_lightning.paths import MatchingPath


class Objective(ABC):
    """A distillation method: what the fake model and the generator minimise, in turn, on a ``Game``.

    A cycle of training plays, with ``draws`` of a fresh batch each time::

        for _ in range(fake_steps):                        # the fake model follows the generator
            game = Game(path, teacher, fake, draws, x1)    # x1: samples of the generator, without a graph
            objective.prepare_fake(game)
            minimise(objective.fake(game))                 # over the fake model, and its discriminator
        game = Game(path, teacher, fake, draws, x1)        # x1 with a graph, the fake model's weights frozen
        objective.prepare_generator(game)
        minimise(objective.generator(game))                # over the generator

    A subclass gives ``fake`` and ``generator``. ``prepare_fake`` and ``prepare_generator`` spare forwards: there it
    tells ``game.expect`` which answers it will ask for. Objectives are stateless; what trains is a network, or the head
    that an objective puts on the fake model.

    Attributes:
        needs_real: Whether real samples have any effect.
        trains_partly: Whether a fake step may leave weights of the fake model (its upper half, or its head) without
            gradients, which DDP has to know.
        looks_elsewhere: Whether it looks at times of its own, for which a batch needs further draws ``u``.
        reads_ratio: Whether the generator's loss reads density ratios off the discriminator's logits.
        gives_ratio: Whether its discriminator learns logits that are such ratios, at all times of the path.
        differentiates: Whether the fake model's loss holds derivatives of the fake model itself, which do not go
            with compiled networks.

    Example:
        >>> class Still(Objective):
        ...     def fake(self, game):
        ...         return 0 * game.fake(game.generated).sum()
        ...     def generator(self, game):
        ...         return 0 * game.x1.sum()
        >>> Still().needs_real
        True
    """

    needs_real: bool = True
    trains_partly: bool = False
    looks_elsewhere: bool = False
    reads_ratio: bool = False
    gives_ratio: bool = False
    differentiates: bool = False

    @abstractmethod
    def fake(self, game: Game) -> Tensor:
        """Return what the fake model minimises; no gradient may reach the generator."""

    @abstractmethod
    def generator(self, game: Game) -> Tensor:
        """Return what the generator minimises; gradients flow through ``game.x1``."""

    def prepare_fake(self, game: Game) -> None:  # noqa: B027 - nothing is a good answer
        """Tell ``game.expect`` what ``fake`` will ask for; nothing by default."""

    def prepare_generator(self, game: Game) -> None:  # noqa: B027 - likewise
        """Tell ``game.expect`` what ``generator`` will ask for; nothing by default."""

    def head(self, network: nn.Module) -> nn.Module | None:
        """Return the discriminator's head for a fake model of this network; None, as here, without a discriminator.

        Args:
            network: The fake model. The head is called with its ``Encoding`` of some rows, and returns their logits.

        Raises:
            UserError: If the network can carry none.
        """
        del network
        return None

    def faults(self, path: MatchingPath) -> Iterator[str]:
        """Yield what keeps the objective from working on a path, one message a fault; nothing by default."""
        del path
        yield from ()
