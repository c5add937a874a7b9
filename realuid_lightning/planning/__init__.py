"""What a run will need, found out without memory, data or training: ``realuid plan``."""

from realuid_lightning.planning.plan import Alternative, Evaluation, Plan, Setting, alternatives, make_plan
from realuid_lightning.planning.simulation import Simulation, Step
from realuid_lightning.planning.sizes import NetworkSize, checkpoint_size, miniature, network_sizes

__all__ = [
    "Alternative",
    "Evaluation",
    "NetworkSize",
    "Plan",
    "Setting",
    "Simulation",
    "Step",
    "alternatives",
    "checkpoint_size",
    "make_plan",
    "miniature",
    "network_sizes",
]
