"""The roles of a distillation: which networks play them, and what they aim at."""

import copy
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import nn

from realuid_lightning.errors import Faults
from realuid_lightning.networks import Frozen, Generator, HeadedNetwork, LoRA, freeze, shares_weights, trainable
from realuid_lightning.objectives import Adversarial, Divergence, Objective, RealUID
from realuid_lightning.paths import MatchingPath


class Role(NamedTuple):
    """What the options say of the fake model or the generator.

    Attributes:
        name: ``fake`` or ``generator``.
        network: Its architecture; the teacher's when None, and the teacher itself under adapters when ``LoRA``.
        start: Where its weights come from: the teacher, its network as it was built, or a file.
        frozen: Patterns of names of weights that do not train.
    """

    name: str
    network: nn.Module | LoRA | None
    start: Literal["teacher", "random", "file"]
    frozen: Sequence[str]


def objective_of(
    objective: Objective | None,
    alpha: float,
    beta: float,
    gamma: float | None,
    divergence: Divergence | None,
    gan: Objective | None,
) -> Objective:
    """Return an objective, or the one that the shorthands stand for.

    Raises:
        UserError: If both are given, or arguments are out of range.
    """
    if objective is None:
        chosen = RealUID(alpha, beta, gamma, divergence)
        return chosen if gan is None else Adversarial(chosen, gan)
    shorthands = {"alpha": alpha != 1, "beta": beta != 1, "gamma": gamma is not None}
    shorthands |= {"divergence": divergence is not None, "gan": gan is not None}
    given = [name for name, value in shorthands.items() if value]
    faults = Faults("RealUIDModule")
    faults.unless(not given, f"objective is the whole method, so {', '.join(given)} must be left out beside it")
    faults.raise_any()
    return objective


def cast_roles(
    network: nn.Module,
    roles: tuple[Role, Role],
    objective: Objective,
    path: MatchingPath,
    steps: int,
    teacher_given: bool,
) -> tuple[Frozen, nn.Module, Generator]:
    """Return teacher, fake model (with its discriminator's head, if there is one) and generator.

    All are copies of what is given; ``LoRA`` roles share the weights of the teacher's.

    Args:
        network: The teacher's network, and that of the others unless they have their own.
        roles: The fake model and the generator.
        objective: May ask for a head.
        path: The framework.
        steps: Network calls of the generator.
        teacher_given: Whether the teacher's weights come from a file; else ``network`` holds them.

    Raises:
        UserError: If networks do not go with their starts, patterns or the objective, listing all of it.
    """
    faults = Faults("RealUIDModule")
    teacher = Frozen(trainable(copy.deepcopy(network)))
    fake, generator = (_played(role, network, teacher.network, teacher_given, faults) for role in roles)
    faults.extend(objective.faults(path))
    faults.unless(
        objective.gives_ratio or not objective.reads_ratio,
        f"{_reader(objective)} reads density ratios off a discriminator that has learnt them at all times: set gan, "
        "here or in an Adversarial objective, to GAN with t_range [0, 1]",
    )
    fake = faults.attempt(lambda: _headed(fake, objective)) or fake
    faults.raise_any()
    return teacher, fake, Generator(generator, path, max(steps, 1))


def _played(role: Role, given: nn.Module, teacher: nn.Module, teacher_given: bool, faults: Faults) -> nn.Module:
    """Return a role's network, and note what keeps it from its start; ``given`` is what the teacher is a copy of."""
    if isinstance(role.network, LoRA):
        return _adapted(role, role.network, teacher, faults)
    # A network that has been evaluated may be frozen.
    network = trainable(copy.deepcopy(given if role.network is None else role.network))
    faults.unless(
        role.start != "teacher" or alike(network, teacher),
        f"{role.name}_init: teacher needs a {role.name}_network with the teacher's weights, got another architecture: "
        f"set {role.name}_init: random" + (", or name a generator_ckpt" if role.name == "generator" else ""),
    )
    faults.unless(
        role.start != "random" or teacher_given or role.network is not None,
        f"{role.name}_init: random needs a teacher_ckpt or a {role.name}_network, since without them the network's own "
        "weights are the teacher's",
    )
    faults.extend(f"{role.name}_frozen: {fault}" for fault in freeze(network, role.frozen))
    return network


def _adapted(role: Role, lora: LoRA, teacher: nn.Module, faults: Faults) -> nn.Module:
    faults.unless(
        role.start == "teacher",
        f"{role.name}_network: LoRA begins as the teacher, whose weights it shares: leave "
        + (f"{role.name}_init: random out" if role.start == "random" else "generator_ckpt out"),
    )
    network = faults.attempt(lambda: lora.adapt(teacher))
    if network is None:
        return teacher
    faults.extend(f"{role.name}_frozen: {fault}" for fault in freeze(network, role.frozen))
    return network


def _headed(fake: nn.Module, objective: Objective) -> nn.Module:
    head = objective.head(fake)
    return fake if head is None else HeadedNetwork(fake, head)


def _reader(objective: Objective) -> str:
    while isinstance(objective, Adversarial):
        objective = objective.objectives[0]
    divergence = getattr(objective, "divergence", None)
    return "the objective" if divergence is None else f"divergence {type(divergence).__name__}"


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two networks have weights of the same names and shapes."""
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (one, other)]
    return shapes[0] == shapes[1]


def begin_at(teacher: nn.Module, network: nn.Module) -> None:
    """Give a role the teacher's weights and buffers; weights that it shares with the teacher are there."""
    if not shares_weights(network, teacher):
        network.load_state_dict(teacher.state_dict())
        return
    for mine, theirs in zip(network.buffers(), teacher.buffers(), strict=True):
        mine.copy_(theirs)
