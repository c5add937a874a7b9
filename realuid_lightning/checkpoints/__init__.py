"""Checkpoints: reading files safely, loading weights strictly, official files, exported generators, teachers."""

from realuid_lightning.checkpoints.diffusers_folders import (
    is_diffusers_folder,
    load_diffusers,
    load_diffusers_network,
)
from realuid_lightning.checkpoints.export import export_generator, load_generator, load_teacher, write_generator
from realuid_lightning.checkpoints.export_diffusers import export_diffusers
from realuid_lightning.checkpoints.export_program import export_onnx, export_program
from realuid_lightning.checkpoints.files import RECORD, DamagedCheckpointError, read_checkpoint
from realuid_lightning.checkpoints.io import AtomicCheckpointIO
from realuid_lightning.checkpoints.official import load_official
from realuid_lightning.checkpoints.records import check_decoder_record, check_path_record, check_run, record_of
from realuid_lightning.checkpoints.runs import find_checkpoint
from realuid_lightning.checkpoints.strict import check_state, load_strictly, ties
from realuid_lightning.checkpoints.teachers import Teacher, describe_teacher, read_teacher, write_teacher
from realuid_lightning.checkpoints.weights import load_weights

__all__ = [
    "RECORD",
    "AtomicCheckpointIO",
    "DamagedCheckpointError",
    "Teacher",
    "check_decoder_record",
    "check_path_record",
    "check_run",
    "check_state",
    "describe_teacher",
    "export_diffusers",
    "export_generator",
    "export_onnx",
    "export_program",
    "find_checkpoint",
    "is_diffusers_folder",
    "load_diffusers",
    "load_diffusers_network",
    "load_generator",
    "load_official",
    "load_strictly",
    "load_teacher",
    "load_weights",
    "read_checkpoint",
    "read_teacher",
    "record_of",
    "ties",
    "write_generator",
    "write_teacher",
]
