"""Bytes of weights, gradients, optimizer states and checkpoints, from a module that may lie on the meta device."""

import copy
import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from lightning.pytorch.core.optimizer import _configure_optimizers
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from realuid_lightning.modules import MatchingModule

# Lengths of the dimensions of a miniature weight: all different, so that a dimension of a state tells whose it is.
_LENGTHS = (2, 3, 5, 7, 11, 13, 17, 19)


class NetworkSize(NamedTuple):
    """What one network takes on a device that holds all of it.

    Attributes:
        name: Attribute of the module, or the name of an average.
        parameters: Number of weights.
        weights: Bytes of weights and buffers.
        gradients: Bytes of their gradients; 0 for a frozen network.
        states: Bytes of what optimizers keep for them.
    """

    name: str
    parameters: int
    weights: int
    gradients: int
    states: int


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def refilled(module: MatchingModule, make: Callable[[Tensor], Tensor]) -> MatchingModule:
    """Return a copy of ``module`` whose weights and buffers are what ``make`` makes of them; shared ones stay shared.

    Args:
        module: Module without a trainer, which would be copied along.
        make: Returns the data of a new weight or buffer.
    """
    # Tensors are replaced, not copied; what makes optimizers is shared, for it may hold the whole command line.
    shared = [*module.parameters(), *module.buffers(), *(value for value in vars(module).values() if callable(value))]
    copied = copy.deepcopy(module, {id(value): value for value in shared})
    copied._device = torch.device("cpu")  # where it draws, whatever it was built on
    made: dict[int, Tensor] = {}
    for part in copied.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    data = make(tensor)
                    weight = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(data, tensor.requires_grad) if weight else data
                table[name] = made[id(tensor)]  # type: ignore[assignment]
    return copied


def miniature(module: MatchingModule) -> tuple[list[Optimizer], list[Any], dict[int, str]]:
    """Return the module's real optimizers and schedules on weights of a few numbers each, after one update.

    So it is measured, not guessed, what an optimizer class keeps. It sees weights of the true number of dimensions;
    what it keeps is assumed to grow with them dimension by dimension, as all of ``torch.optim`` does.

    Returns:
        Optimizers and schedules, and the names of the weights by the ``id`` of their miniatures.
    """

    def tiny(tensor: Tensor) -> Tensor:
        shape = [length if full > 1 else 1 for full, length in zip(tensor.shape, _LENGTHS, strict=False)]
        return torch.zeros(shape, dtype=tensor.dtype)

    small = refilled(module, tiny)
    names = {id(weight): name for name, weight in small.named_parameters()}
    optimizers, schedules, _ = _configure_optimizers(small.configure_optimizers())  # type: ignore[arg-type]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = torch.zeros_like(weight)
        optimizer.step()
    return optimizers, [_schedule(entry) for entry in schedules], names


def _schedule(entry: Any) -> Any:
    return entry["scheduler"] if isinstance(entry, dict) else getattr(entry, "scheduler", entry)


def state_sizes(module: MatchingModule) -> dict[str, int]:
    """Return the bytes that optimizers keep, by the name of the weight; those that none of them moves are left out."""
    optimizers, _, names = miniature(module)
    weights = dict(module.named_parameters())
    sizes: dict[str, int] = {}
    for optimizer in optimizers:
        for small, states in optimizer.state.items():
            name = names[id(small)]
            kept = (value for value in states.values() if isinstance(value, Tensor))
            sizes[name] = sum(_grown(value, small, weights[name]) * value.element_size() for value in kept)
    return sizes


def _grown(state: Tensor, small: Tensor, weight: Tensor) -> int:
    """Return the number of elements that a state has for the real weight, given that for its miniature."""
    if state.shape == small.shape:
        return weight.numel()
    real = dict(zip(small.shape, weight.shape, strict=True))
    count = 1
    for length in state.shape:
        count *= 1 if length == 1 else real.get(length, length)
    return count


def network_sizes(module: MatchingModule) -> list[NetworkSize]:
    """Return the size of every network of a module, its averages one by one."""
    states = state_sizes(module)
    names = {id(weight): name for name, weight in module.named_parameters()}
    sizes = []
    for name, network in module.networks.items():
        weights = list(network.parameters())
        trained = [weight for weight in weights if weight.requires_grad]
        sizes.append(
            NetworkSize(
                name=name,
                parameters=sum(weight.numel() for weight in weights),
                weights=size_of([*weights, *network.buffers()]),
                gradients=size_of(trained),
                states=sum(states.get(names[id(weight)], 0) for weight in trained),
            )
        )
    return sizes


def checkpoint_size(module: MatchingModule) -> int:
    """Return the bytes of a checkpoint: of its tensors, and of a real file of the same structure with empty ones."""
    optimizers, schedules, _ = miniature(module)
    content = {
        "state_dict": dict(module.state_dict()),
        "optimizer_states": [optimizer.state_dict() for optimizer in optimizers],
        "lr_schedulers": [schedule.state_dict() for schedule in schedules],
    }
    hollow = tree_map_only(Tensor, lambda tensor: torch.empty(0, dtype=tensor.dtype), content)
    file = io.BytesIO()
    torch.save(hollow, file)
    tensors = size_of(module.state_dict(keep_vars=True).values()) + sum(state_sizes(module).values())
    return len(file.getbuffer()) + tensors
