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
def share_buffers(networks: Iterable[nn.Module]) -> None:
    """Give every process the buffers of process 0, such as the running statistics of batch normalisation.

    Forward passes move them, each process' by its own samples. Averages, checkpoints and evaluation then agree.

    Args:
        networks: The same on all processes; those without buffers cost nothing.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    alike: dict[torch.dtype, list[Tensor]] = {}
    for buffer in (to_local(buffer) for network in networks for buffer in network.buffers()):
        alike.setdefault(buffer.dtype, []).append(buffer)
    for buffers in alike.values():
        sent = torch.cat([buffer.flatten() for buffer in buffers])
        distributed.broadcast(sent, 0)
        for buffer, part in zip(buffers, torch.split(sent, [buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))
