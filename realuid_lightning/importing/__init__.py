"""Importing: teachers of other projects, read without running anything, made into teachers that describe themselves."""

from realuid_lightning.importing.kinds import Found, Kind, Origin, Told
from realuid_lightning.importing.teacher import KINDS, Report, import_teacher

__all__ = ["KINDS", "Found", "Kind", "Origin", "Report", "Told", "import_teacher"]
