"""Exponential moving averages of a network's weights."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from realuid_lightning.networks import Frozen
from realuid_lightning.sharding import to_local


def average_key(decay: float) -> str:
    """Return the key of an average among a module's weights, which may hold no dot."""
    return str(float(decay)).replace(".", "_")


def ema_name(decay: float) -> str:
    """Return the name of an average in metrics and options, ``ema_0.999``."""
    return f"ema_{float(decay)}"


class EMA(nn.Module):
    """Frozen copies of a network, one a decay, that follow it.

    Args:
        network: The network to follow; it is copied.
        decays: Weight of the old average at each update, each in [0, 1). No ramp at the start (as the official recipe).
        shared: Weights that never train: where the network holds one, the copies hold it too, not a copy of it.

    Example:
        >>> network = nn.Linear(1, 1, bias=False).requires_grad_(False)
        >>> network.weight[:] = 0.0
        >>> ema = EMA(network, [0.5])
        >>> network.weight[:] = 1.0
        >>> ema.update(network)
        >>> ema.named()["ema_0.5"](torch.ones(1, 1))
        tensor([[0.5000]])
    """

    def __init__(self, network: nn.Module, decays: list[float], shared: Iterable[nn.Parameter] = ()) -> None:
        super().__init__()
        self.decays = list(decays)
        kept = {id(weight): weight for weight in shared}
        copies = {average_key(decay): Frozen(copy.deepcopy(network, dict(kept))) for decay in decays}
        self.copies = nn.ModuleDict(copies)

    def __getitem__(self, decay: float) -> Frozen:
        """Return the averaged network of ``decay``."""
        return self.copies[average_key(decay)]  # type: ignore[return-value]

    def named(self) -> dict[str, nn.Module]:
        """Return the averaged networks under their public names, in the order of ``decays``."""
        return {ema_name(decay): self[decay] for decay in self.decays}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move every average towards ``network``; buffers are copied."""
        for decay in self.decays:
            move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            average = self[decay].network
            pairs = zip(average.parameters(), network.parameters(), strict=True)
            apart = [(_values(mine), _values(theirs)) for mine, theirs in pairs if mine is not theirs]
            move(*map(list, zip(*apart, strict=True)), None)  # whatever the number of updates
            for mine, theirs in zip(average.buffers(), network.buffers(), strict=True):
                mine.copy_(theirs)

    @torch.no_grad()
    def reset(self, network: nn.Module) -> None:
        """Set every average to ``network``."""
        for decay in self.decays:
            self[decay].network.load_state_dict(network.state_dict())


def _values(weight: nn.Parameter) -> Tensor:
    return to_local(weight.detach())


def ema_faults(decays: list[float]) -> list[str]:
    """Return what is wrong with a list of decays, one message a fault."""
    faults = [f"every ema decay must be in [0, 1), got {decay}" for decay in decays if not 0 <= decay < 1]
    if len(set(map(average_key, decays))) < len(decays):
        faults.append(f"ema decays must differ, got {decays}")
    return faults
