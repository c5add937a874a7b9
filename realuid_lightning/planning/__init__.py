"""What a run will need, found out without memory, data or training: ``realuid plan``."""

from realuid_lightning.planning.plan import Evaluation, Plan
from realuid_lightning.planning.rehearsal import NetworkSize, Pass, Rehearsal

__all__ = ["Evaluation", "NetworkSize", "Pass", "Plan", "Rehearsal"]
