"""Statistics of real features, computed once and kept on disk."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from realuid_lightning.atomic import write_tensors
from realuid_lightning.data.folders import folder_at, user_cache

FORMAT = 2
"""Raise when the meaning of a cached file changes."""


class FeatureStatistics(NamedTuple):
    """Sums over feature vectors, as torchmetrics' FID keeps them.

    Attributes:
        total: Sum of the vectors, ``(F,)`` float64.
        outer: Sum of their outer products, ``(F, F)`` float64.
        count: Number of vectors, int64 scalar.
    """

    total: Tensor
    outer: Tensor
    count: Tensor  # type: ignore[assignment]

    def sound(self, width: int) -> bool:
        """Return whether these are finite sums over two or more vectors of length ``width``."""
        shapes = [tuple(part.shape) for part in self]
        fitting = shapes == [(width,), (width, width), ()] and bool(self.count >= 2)
        return fitting and bool(self.total.isfinite().all() and self.outer.isfinite().all())


@torch.no_grad()
def feature_statistics(
    features: nn.Module, batches: Iterable[Tensor], width: int, device: torch.device
) -> FeatureStatistics:
    """Sum features over batches of samples; zeros without any batch.

    Args:
        features: Extractor with ``width`` features.
        batches: Samples ``(B, *D)``, in the range that the model generates.
        width: Number of features ``F``.
        device: Where the sums are kept.

    Example:
        >>> from realuid_lightning.metrics import RawFeatures
        >>> feature_statistics(RawFeatures([2]), [torch.ones(3, 2)], 2, torch.device("cpu")).count
        tensor(3)
    """
    total = torch.zeros(width, dtype=torch.float64, device=device)
    outer = torch.zeros(width, width, dtype=torch.float64, device=device)
    count = torch.zeros((), dtype=torch.int64, device=device)
    for batch in batches:
        vectors = features(batch).double()
        total += vectors.sum(0)
        outer += vectors.T @ vectors
        count += len(vectors)
    return FeatureStatistics(total, outer, count)


class ReferenceCache:
    """A folder of feature statistics, one file a protocol: the name is a hash of everything the statistics depend on.

    Args:
        folder: Where files are kept, ``~`` included; ``user_cache()`` when None.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = user_cache() if folder is None else folder_at(folder)

    def file(self, protocol: str) -> Path:
        """Return where the statistics of ``protocol`` are or will be."""
        return self.folder / f"{hashlib.sha256(f'{FORMAT} {protocol}'.encode()).hexdigest()[:32]}.safetensors"

    def read(self, protocol: str, width: int) -> FeatureStatistics | None:
        """Return cached statistics of ``width`` features; None when there are no sound ones, and they must be made."""
        try:
            known = FeatureStatistics(**load_file(self.file(protocol)))
        except (OSError, SafetensorError, TypeError):
            return None
        return known if known.sound(width) else None

    def write(self, protocol: str, statistics: FeatureStatistics) -> None:
        """Store sound statistics; a reader sees all of them or none. An unwritable folder costs a warning."""
        tensors = {name: tensor.cpu() for name, tensor in statistics._asdict().items()}
        try:
            write_tensors(tensors, self.file(protocol), {"protocol": protocol})
        except OSError as error:
            rank_zero_warn(
                f"FID: statistics of the real data are not kept ({error}); name another folder by --fid.cache"
            )
