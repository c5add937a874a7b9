"""What a source gives, held against what a source promises: a user's own may fail in any way."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int64
from torch import Tensor

from realuid_lightning.conditions import Condition
from realuid_lightning.data.source import Samples, Source
from realuid_lightning.errors import UserError
from realuid_lightning.fingerprint import NoFingerprintError

PART = 1 << 16
"""Samples in memory that are looked at at once."""

Form = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""Type and shape of one sample's condition, by key; the key is empty where the condition is a tensor."""

_FORMS: WeakKeyDictionary[Source, Form] = WeakKeyDictionary()
"""The form of the first condition that a source gave, which all others must have."""


@contextmanager
def as_user_errors(source: Source, method: str) -> Iterator[None]:
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
    with as_user_errors(source, "shape"):
        shape = source.shape
    if not (isinstance(shape, tuple) and shape and all(isinstance(side, int) and side > 0 for side in shape)):
        raise UserError(f"{type(source).__name__}.shape must be a tuple of positive integers, got {shape!r}")
    return shape


def set_up(source: Source, labels: bool = False) -> None:
    """Set a source up and look at its first sample, and at all samples and class labels that are in memory.

    Args:
        source: The source.
        labels: Look at conditions, too.

    Raises:
        UserError: If it fails, is empty, or gives something else than a source must.
    """
    with as_user_errors(source, "setup"):
        source.setup()
    with as_user_errors(source, "__len__"):
        count = len(source)
    if count == 0:
        raise UserError(f"{type(source).__name__}: expected samples, but it is empty: look at its arguments and files")
    first, _ = samples_at(source, torch.tensor([0]), labels)
    if labels and source.num_classes is not None:
        with as_user_errors(source, "labels"):
            y = source.labels()
        check_labels(source, "labels", y, count)
    elif labels:
        conditions_at(source, torch.tensor([0]))
    for start in range(0, count, PART) if source.in_memory else ():
        index = torch.arange(start, min(start + PART, count))
        if first.is_floating_point():  # any may be NaN
            samples_at(source, index)
        if labels and source.num_classes is None:
            conditions_at(source, index)


def samples_at(source: Source, index: Int64[Tensor, "b"], labels: bool = False) -> tuple[Samples, Condition | None]:
    """Return what ``source.get(index)`` gives; conditions are looked at only if ``labels``.

    Raises:
        UserError: If it fails, or gives samples of another shape or type, numbers that are not finite, labels that are
            not those of its classes, or conditions that are missing or of another form.
    """
    with as_user_errors(source, "get"):
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
        check_condition(source, "get", y, index)
    return x, y


def conditions_at(source: Source, index: Int64[Tensor, "b"]) -> Condition:
    """Return what ``source.conditions(index)`` gives.

    Raises:
        UserError: If it fails, or gives none, labels that are not those of its classes, or another form.
    """
    with as_user_errors(source, "conditions"):
        y = source.conditions(index)
    return check_condition(source, "conditions", y, index)


def gives_conditions(source: Source) -> bool:
    """Return whether a source that has been set up gives conditions; its first sample tells, unless it has classes."""
    return source.num_classes is not None or samples_at(source, torch.tensor([0]))[1] is not None


def check_condition(source: Source, method: str, y: object, index: Int64[Tensor, "b"]) -> Condition:
    """Return ``y`` if it is the condition of the samples at ``index``.

    Raises:
        UserError: If it is none, has another number of samples, numbers that are not finite, another form than the
            first one that came from this source, or labels that are not those of its classes.
    """
    if source.num_classes is not None:
        return check_labels(source, method, y, len(index))
    name = type(source).__name__
    if y is None and source not in _FORMS:
        raise UserError(
            f"MatchingDataModule: labels: true needs a source with classes or other conditions, but {name} has "
            "none here"
        )
    parts: dict[Any, Any] = y if isinstance(y, dict) and y else {"": y}
    for key, part in parts.items():
        if not isinstance(key, str) or not isinstance(part, Tensor) or part.shape[:1] != index.shape:
            came = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise UserError(
                f"{name}.{method} must give conditions as a tensor, or as a dict of tensors, whose first side is the "
                f"number of samples, here {len(index)}, got {came}" + (f" under {key!r}" if key != "" else "")
            )
        if part.is_floating_point() and not bool(part.isfinite().all()):
            bad = index[~part.reshape(len(index), -1).isfinite().all(1)]
            raise UserError(
                f"{name}.{method}: conditions must be finite numbers, but NaN or infinite ones came"
                + (f" under {key!r}" if key != "" else "")
                + f", the first of them with sample {int(bad[0])}: mend or remove them"
            )
    came_as, first = _form(parts), _FORMS.setdefault(source, _form(parts))
    if came_as != first:
        raise UserError(
            f"{name}.{method} must give conditions of one form: {_written(first)} came first, got {_written(came_as)}"
        )
    return y  # type: ignore[return-value]


def check_labels(source: Source, method: str, y: object, count: int) -> Tensor:
    """Return ``y`` if it is ``count`` class labels.

    Raises:
        UserError: If it is not.
    """
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
    return y


def form_faults(source: Source, other: Source) -> Iterator[str]:
    """Yield what differs between the conditions of two sources that have been set up."""
    labels: Form = {"": (torch.int64, ())}
    one, two = (labels if each.num_classes is not None else _FORMS[each] for each in (source, other))
    if one != two:
        yield (
            f"{type(other).__name__}, whose conditions evaluation takes, must give such as {type(source).__name__}, "
            f"{_written(one)}, got {_written(two)}"
        )


def _form(parts: dict[str, Tensor]) -> Form:
    return {key: (part.dtype, tuple(part.shape[1:])) for key, part in sorted(parts.items())}


def _written(form: Form) -> str:
    """Return a form as text, such as ``mask: torch.bool (77,), text: torch.float32 (77, 768)``."""
    return ", ".join(f"{key}: {dtype} {shape}" if key else f"{dtype} {shape}" for key, (dtype, shape) in form.items())
