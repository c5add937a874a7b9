"""Checkpoints: reading files safely, official ones included, loading weights strictly, exporting generators."""

from realuid_lightning.checkpoints.diffusers_folders import (
    is_diffusers_folder,
    load_diffusers,
    load_diffusers_network,
)
from realuid_lightning.checkpoints.export import export_generator, load_generator
from realuid_lightning.checkpoints.export_diffusers import export_diffusers
from realuid_lightning.checkpoints.files import RECORD, DamagedCheckpointError, read_checkpoint
from realuid_lightning.checkpoints.io import AtomicCheckpointIO
from realuid_lightning.checkpoints.official import load_official
from realuid_lightning.checkpoints.records import check_path_record, check_run, record_of
from realuid_lightning.checkpoints.runs import find_checkpoint
from realuid_lightning.checkpoints.strict import check_state, load_strictly, ties
from realuid_lightning.checkpoints.weights import load_weights

__all__ = [
    "RECORD",
    "AtomicCheckpointIO",
    "DamagedCheckpointError",
    "check_path_record",
    "check_run",
    "check_state",
    "export_diffusers",
    "export_generator",
    "find_checkpoint",
    "is_diffusers_folder",
    "load_diffusers",
    "load_diffusers_network",
    "load_generator",
    "load_official",
    "load_strictly",
    "load_weights",
    "read_checkpoint",
    "record_of",
    "ties",
]
