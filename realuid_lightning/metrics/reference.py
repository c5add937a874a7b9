"""What is known of real data: measured once and kept on disk."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open

from realuid_lightning.atomic import write_tensors
from realuid_lightning.data.folders import folder_at, user_cache
from realuid_lightning.metrics.base import Sample
from realuid_lightning.metrics.sums import FeatureStatistics

FORMAT = 3
"""Raise when the meaning of a cached file changes."""

Figures = dict[str, float]


class Reference(NamedTuple):
    """Real samples as metrics see them, and between what figures of generated ones lie.

    Attributes:
        sample: The real samples.
        floor: What real samples that are not among them score; empty if that is not known.
        gaussian: What samples of a Gaussian with the data's mean and covariance score; empty if that is not known.
        floor_samples: Number of samples behind ``floor``.
    """

    sample: Sample
    floor: Figures
    gaussian: Figures
    floor_samples: int


class ReferenceCache:
    """A folder of references, one file a protocol: the name is a hash of everything that the reference depends on.

    Args:
        folder: Where files are kept, ``~`` included; ``user_cache()`` when None.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = user_cache() if folder is None else folder_at(folder)

    def file(self, protocol: str) -> Path:
        """Return where the reference of ``protocol`` is or will be."""
        return self.folder / f"{hashlib.sha256(f'{FORMAT} {protocol}'.encode()).hexdigest()[:32]}.safetensors"

    def read(self, protocol: str, width: int) -> Reference | None:
        """Return a cached reference of ``width`` features; None when there is no sound one, and it must be made."""
        try:
            with safe_open(self.file(protocol), "pt") as file:
                parts = {name: file.get_tensor(name) for name in ("total", "outer", "count", "vectors", "logits")}
                bounds = json.loads(file.metadata()["bounds"])
            vectors, logits = parts.pop("vectors"), parts.pop("logits")
            known = Reference(Sample(FeatureStatistics(**parts), vectors, logits), **bounds)
        except (OSError, SafetensorError, TypeError, ValueError, LookupError):
            return None
        sound = known.sample.sums.sound(width) and known.sample.vectors.ndim == known.sample.logits.ndim == 2
        return known if sound else None

    def write(self, protocol: str, reference: Reference) -> None:
        """Store a sound reference; a reader sees all of it or nothing. An unwritable folder costs a warning."""
        sample = reference.sample
        tensors = {**sample.sums._asdict(), "vectors": sample.vectors, "logits": sample.logits}
        bounds = json.dumps({name: getattr(reference, name) for name in ("floor", "gaussian", "floor_samples")})
        try:
            kept = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            write_tensors(kept, self.file(protocol), {"protocol": protocol, "bounds": bounds})
        except OSError as error:
            rank_zero_warn(
                f"metrics: what is known of the real data is not kept ({error}); name another folder by --cache"
            )
