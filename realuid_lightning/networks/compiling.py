"""Compiling networks without a trace in their checkpoints."""

from torch import nn

from realuid_lightning.lightning_internals import allow_recompilations
from realuid_lightning.networks import Frozen, Generator

# Each network has a handful of variants: training or not, with weights frozen or not, at two or three batch sizes. They
# are counted together, for all networks of a module; past the limit, torch would silently run uncompiled.
_VARIANTS = 64


def compile_in_place(network: nn.Module) -> None:
    """Compile a network's calls, for fixed shapes; weights, keys and hooks stay as they are.

    Args:
        network: The network, or a wrapper around one (``Frozen``, ``Generator``): what these do beside calling
            it is cheap, and depends on Python values.
    """
    while isinstance(network, Frozen | Generator):
        network = network.network
    allow_recompilations(_VARIANTS)
    network.compile(dynamic=False)
