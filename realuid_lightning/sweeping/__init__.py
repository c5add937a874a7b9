"""Sweeps: a grid of runs, done one by one or many at a time, and the figures of its cells over seeds."""

from realuid_lightning.sweeping.grid import Factor, Sweep, Task, parse_factors
from realuid_lightning.sweeping.record import check_unchanged, read_state, state_of, write_state
from realuid_lightning.sweeping.runner import Runner
from realuid_lightning.sweeping.table import SweepTable, draw, tables

__all__ = [
    "Factor",
    "Runner",
    "Sweep",
    "SweepTable",
    "Task",
    "check_unchanged",
    "draw",
    "parse_factors",
    "read_state",
    "state_of",
    "tables",
    "write_state",
]
