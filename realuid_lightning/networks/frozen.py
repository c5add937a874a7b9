"""Networks that are read but not trained."""

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from realuid_lightning.conditions import Condition
from realuid_lightning.networks.unconditional import unconditional


class Frozen(nn.Module):
    """Wraps a network that never trains: always in evaluation mode, no parameter asks for gradients.

    Gradients still flow through it to its inputs. ``train()``, also that of a module around it, leaves it as it is.

    Args:
        network: The network; it is frozen in place and called as before.

    Example:
        >>> Frozen(nn.BatchNorm1d(2)).train().training
        False
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Frozen":  # noqa: ARG002
        """Stay in evaluation mode, whatever ``mode`` says."""
        return super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network."""
        return self.network(*args, **kwargs)

    def unconditional(self, y: Condition) -> Condition:
        """Return what stands for no condition, as the network has it."""
        return unconditional(self.network, y)


@contextmanager
def frozen_weights(network: nn.Module) -> Iterator[None]:
    """Spare the gradients of a network's weights inside a ``with`` block.

    Gradients still flow through the network to its inputs. On leaving, also by an exception, every parameter gets
    back the exact ``requires_grad`` it had.

    Args:
        network: The network; its mode, values and stored gradients stay untouched.

    Example:
        >>> network, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
        >>> with frozen_weights(network):
        ...     network(x).sum().backward()
        >>> network.weight.grad is None, x.grad is None
        (True, False)
    """
    before = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def freeze(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Keep weights from training whose names match a pattern, and return what is wrong with the patterns.

    Args:
        network: The network, changed in place.
        patterns: Shell-style patterns of parameter names, such as ``input_blocks.*`` or ``*.qkv.*``.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> freeze(network, ["0.*"])
        []
        >>> [name for name, weight in network.named_parameters() if weight.requires_grad]
        ['1.weight', '1.bias']
    """
    if isinstance(patterns, str):  # whose letters would be the patterns
        return [f"patterns must be a list, such as [{patterns!r}], got {patterns!r}"]
    names = [name for name, weight in network.named_parameters() if weight.requires_grad]
    frozen = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
    faults = [f"no weight is called {each!r}" for each in patterns if not fnmatch.filter(names, each)]
    if faults:
        return [f"{fault}; there are {', '.join(names[:3])}, ..." for fault in faults]
    if names and len(frozen) == len(names):
        return [f"{', '.join(patterns)} leaves no weight to train: freeze fewer"]
    for name, weight in network.named_parameters():
        weight.requires_grad_(weight.requires_grad and name not in frozen)
    return []


def trainable(network: nn.Module) -> nn.Module:
    """Let a network train that may have been made ready to evaluate, and return it; of a ``Frozen`` one, what it wraps.

    From evaluation mode it goes to training mode, and if none of its weights train, all do. Where some parts train and
    others do not, that is left as it is.

    Args:
        network: The network, changed in place.
    """
    made = network
    while isinstance(made, Frozen):
        made = made.network
    if not made.training:
        made.train()
    if not any(weight.requires_grad for weight in made.parameters()):
        for weight in made.parameters():
            weight.requires_grad_(weight.is_floating_point() or weight.is_complex())
    return made
