"""What runs have measured: read from their folders, compared by protocol, as tables and as a page."""

from realuid_lightning.reporting.comparison import Comparison, Series, Value, comparisons, mean_of_seeds
from realuid_lightning.reporting.page import render, write_page
from realuid_lightning.reporting.reading import Measurement, Run, TimeBins, read_fits, read_runs, read_times
from realuid_lightning.reporting.standing import standings

__all__ = [
    "Comparison",
    "Measurement",
    "Run",
    "Series",
    "TimeBins",
    "Value",
    "comparisons",
    "mean_of_seeds",
    "read_fits",
    "read_runs",
    "read_times",
    "render",
    "standings",
    "write_page",
]
