"""Training on several processes: each network under a DDP of its own, or divided among them.

Lightning knows both by their names (``realuid_lightning.registration``).
"""

from realuid_lightning.strategies.ddp import PerNetworkDDP
from realuid_lightning.strategies.fsdp import PerNetworkFSDP

__all__ = ["PerNetworkDDP", "PerNetworkFSDP"]
