"""Networks that are divided among devices (FSDP2), and what all processes hold alike."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard(networks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Divide networks among processes, the elements of ``ModuleList``s and ``ModuleDict``s one by one, then the rest.

    A network, or such an element, is whole from the beginning to the end of its call, and must be called as a module.

    Args:
        networks: The networks, which share no weights; divided in place.
        mesh: Processes, in one dimension.
    """
    for network in networks:
        for stage in _stages(network):
            fully_shard(stage, mesh=mesh, reshard_after_forward=True)
        fully_shard(network, mesh=mesh, reshard_after_forward=True)  # also where no backward pass would do it


def _stages(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the elements of the outermost lists and dictionaries of modules."""
    for child in network.children():
        yield from child.children() if isinstance(child, (nn.ModuleList, nn.ModuleDict)) else _stages(child)


def to_local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: all of it, unless it is divided."""
    mine: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return mine


def full(tensor: Tensor) -> Tensor:
    """Return a tensor whose sum over processes may still be due; all processes must call this."""
    made: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return made


@torch.no_grad()
def share(tensors: Iterable[Tensor]) -> None:
    """Give every process the values of process 0, by one message for each dtype.

    Args:
        tensors: Of the same shapes on all processes; changed in place.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    alike: dict[torch.dtype, list[Tensor]] = {}
    for tensor in map(to_local, tensors):
        alike.setdefault(tensor.dtype, []).append(tensor)
    for group in alike.values():
        sent = torch.cat([tensor.flatten() for tensor in group])
        distributed.broadcast(sent, 0)
        for tensor, part in zip(group, torch.split(sent, [tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view_as(tensor))


def share_buffers(networks: Iterable[nn.Module]) -> None:
    """Give every process the buffers of process 0, such as the running statistics of batch normalisation.

    Forward passes move them, each process' by its own samples. Averages, checkpoints and evaluation then agree.

    Args:
        networks: The same on all processes; those without buffers cost nothing.
    """
    share(buffer for network in networks for buffer in network.buffers())
