"""What a source gives, held against what a source promises: a user's own may fail in any way."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from realuid_lightning.data.source import Labels, Samples, Source
from realuid_lightning.errors import UserError
from realuid_lightning.fingerprint import NoFingerprintError

PART = 1 << 16
"""Samples in memory that are looked at at once."""


@contextmanager
def told(source: Source, method: str) -> Iterator[None]:
    """Turn whatever a method of ``source`` raises into a ``UserError`` that names it and its line."""
    try:
        yield
    except (UserError, NoFingerprintError):
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        line = f"{Path(last.filename).name}, line {last.lineno}"
        raise UserError(
            f"{type(source).__name__}.{method} raised {reason} ({line}): mend the source, or name another one"
        ) from error


def shape_of(source: Source) -> tuple[int, ...]:
    """Return the shape of a sample.

    Raises:
        UserError: If it is none.
    """
    with told(source, "shape"):
        shape = source.shape
    if not (isinstance(shape, tuple) and shape and all(isinstance(side, int) and side > 0 for side in shape)):
        raise UserError(f"{type(source).__name__}.shape must be a tuple of positive integers, got {shape!r}")
    return shape


def set_up(source: Source, labels: bool = False) -> None:
    """Set a source up and look at its first sample, at all samples that are in memory, and at labels if wanted.

    Raises:
        UserError: If it fails, is empty, or gives something else than a source must.
    """
    with told(source, "setup"):
        source.setup()
    with told(source, "__len__"):
        count = len(source)
    if count == 0:
        raise UserError(f"{type(source).__name__}: expected samples, but it is empty: look at its arguments and files")
    first, _ = samples_at(source, torch.tensor([0]), labels)
    if source.in_memory and first.is_floating_point():
        for start in range(0, count, PART):
            samples_at(source, torch.arange(start, min(start + PART, count)))
    if labels:
        with told(source, "labels"):
            y = source.labels()
        _check_labels(source, "labels", y, count)


def samples_at(source: Source, index: Int64[Tensor, "b"], labels: bool = False) -> tuple[Samples, Labels | None]:
    """Return what ``source.get(index)`` gives; labels are looked at only if wanted.

    Raises:
        UserError: If it fails, or gives samples of another shape or type, numbers that are not finite, or labels that
            are not those of its classes.
    """
    with told(source, "get"):
        x, y = source.get(index)
    expected, name = (len(index), *shape_of(source)), type(source).__name__
    fitting = isinstance(x, Tensor) and tuple(x.shape) == expected
    if not fitting or x.dtype not in (torch.float32, *([torch.uint8] if len(expected) == 4 else [])):
        came = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise UserError(
            f"{name}.get must give images as torch.uint8 or vectors as torch.float32, here of shape {expected}, got "
            f"{came}"
        )
    if x.is_floating_point() and not bool(x.isfinite().all()):
        bad = index[~x.flatten(1).isfinite().all(1)]
        raise UserError(
            f"{name}: samples must be finite numbers, but NaN or infinite ones are in {len(bad)} of {len(index)} that "
            f"were read, the first of them sample {int(bad[0])}: mend or remove them"
        )
    if labels:
        _check_labels(source, "get", y, len(index))
    return x, y


def _check_labels(source: Source, method: str, y: object, count: int) -> None:
    name, classes = f"{type(source).__name__}.{method}", source.num_classes
    if not (isinstance(y, Tensor) and y.dtype == torch.int64 and tuple(y.shape) == (count,)):
        came = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise UserError(f"{name} must give labels as torch.int64 of shape ({count},), got {came}")
    wrong = y[(y < 0) | (y >= (classes or 0))]
    if len(wrong):
        raise UserError(
            f"{name} must give labels from 0 to {(classes or 0) - 1}, for num_classes is {classes}, got "
            f"{int(wrong[0])}: mend num_classes or the labels"
        )
