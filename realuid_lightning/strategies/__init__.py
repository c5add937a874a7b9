"""Training on several processes: each network under a DDP of its own, or divided among them."""

from lightning.pytorch.strategies import StrategyRegistry

from realuid_lightning.strategies.ddp import PerNetworkDDP
from realuid_lightning.strategies.fsdp import PerNetworkFSDP

__all__ = ["PerNetworkDDP", "PerNetworkFSDP"]

StrategyRegistry.register(
    PerNetworkDDP.name,
    PerNetworkDDP,
    description="DDP for each trained network on its own, the idle ones sending nothing",
)
StrategyRegistry.register(
    PerNetworkFSDP.name,
    PerNetworkFSDP,
    description="All networks divided among the processes (FSDP2)",
)
