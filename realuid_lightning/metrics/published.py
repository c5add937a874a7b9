"""Mean and covariance of features as other implementations keep them: ``.npz`` files with ``mu`` and ``sigma``."""

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from realuid_lightning.atomic import replacing
from realuid_lightning.data.folders import folder_at
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.metrics.frechet import moments
from realuid_lightning.metrics.sums import FeatureStatistics

NEGATIVE = 1e-3
"""Part of a covariance's greatest eigenvalue by which its least may be below 0, as of statistics in half precision."""

Moments = tuple[Float64[Tensor, "f f"], Float64[Tensor, " f"]]


def read_moments(file: str) -> Moments:
    """Read covariance and mean of published reference statistics; nothing in the file is executed.

    Args:
        file: A ``.npz`` file with ``mu`` ``(F,)`` and ``sigma`` ``(F, F)``, ``~`` included.

    Raises:
        UserError: If there is no such file, or it holds something else.
    """
    path = folder_at(file)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            mean, covariance = (_reals(arrays[name]) for name in ("mu", "sigma"))
    except OSError as error:
        raise UserError(f"statistics: {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged archive raises whatever zipfile, zlib or numpy's parser of headers does
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"statistics: {path} must be an .npz file of numbers mu and sigma ({reason})") from error
    faults, width = Faults("statistics"), len(mean) if mean.ndim == 1 else 0
    shapes = f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
    faults.unless(
        width > 0 and tuple(covariance.shape) == (width, width),
        f"mu and sigma in {path} must have shapes (F,) and (F, F), got {shapes}",
    )
    faults.raise_any()
    sound = bool(mean.isfinite().all() and covariance.isfinite().all()) and torch.allclose(covariance, covariance.T)
    faults.unless(sound, f"mu and sigma in {path} must be finite numbers, and sigma symmetric")
    faults.raise_any()
    values = torch.linalg.eigvalsh(covariance)
    faults.unless(
        bool(values[0] >= -NEGATIVE * values[-1].clamp(min=0)),
        f"sigma in {path} must be a covariance, but has the eigenvalue {values[0]:.3g} beside {values[-1]:.3g}",
    )
    faults.raise_any()
    return covariance, mean


def _reals(array: NDArray[np.generic]) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"an array of type {array.dtype}")
    return torch.from_numpy(array.astype(np.float64))


def write_moments(file: str | Path, sums: FeatureStatistics) -> None:
    """Write mean and covariance, which torch-fidelity, EDM and others read, atomically.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_moments(f"{folder}/real.npz", FeatureStatistics.of(torch.tensor([[0.0], [2.0]])))
        ...     read_moments(f"{folder}/real.npz")
        (tensor([[2.]], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    covariance, mean = moments(sums)
    with replacing(folder_at(str(file))) as place, place.open("wb") as stream:
        np.savez(stream, mu=mean.cpu().numpy(), sigma=covariance.cpu().numpy())
