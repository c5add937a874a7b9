"""RealUID on PyTorch Lightning: distil any matching model into a one-step generator (arXiv 2509.22459)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from realuid_lightning.registration import register_strategies

if TYPE_CHECKING:
    from realuid_lightning.checkpoints import load_generator, load_teacher
    from realuid_lightning.data import MatchingDataModule
    from realuid_lightning.modules import RealUIDModule, TeacherModule
    from realuid_lightning.running import default_callbacks

__version__ = "0.1.0"
__all__ = [
    "MatchingDataModule",
    "RealUIDModule",
    "TeacherModule",
    "default_callbacks",
    "load_generator",
    "load_teacher",
]

_HOMES = {
    "MatchingDataModule": "data",
    "RealUIDModule": "modules",
    "TeacherModule": "modules",
    "default_callbacks": "running",
    "load_generator": "checkpoints",
    "load_teacher": "checkpoints",
}

register_strategies()


def __getattr__(name: str) -> Any:
    # On demand: importing torch and Lightning takes seconds, and `realuid --help` needs neither.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
