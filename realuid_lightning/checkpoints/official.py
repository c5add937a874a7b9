"""Checkpoints of the official RealUID implementation (arXiv 2509.22459)."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from realuid_lightning.checkpoints.files import read_checkpoint
from realuid_lightning.errors import UserError

# Raw weights and averaged weights: of a teacher, and of the generator of a distillation.
_LAYOUTS = (("net_model", "ema_models"), ("gen", "ema_gens"))
_GAN_HEAD = "cls_pred_branch."


def is_official(content: Mapping[str, Any]) -> bool:
    """Say whether the content of a checkpoint has one of the two official layouts."""
    return _layout(content) is not None


def load_official(path: str | Path, ema: float | None = None) -> dict[str, Tensor]:
    """Read the network of an official checkpoint: a teacher, or the one-step generator of a distillation.

    The weights of the official GAN head (``cls_pred_branch.*``), which no prediction depends on, are dropped. A
    generator is the UNet ``u`` of ``G(z) = z + u(0, z)``.

    Args:
        path: An official ``.pt`` file, of either layout.
        ema: Decay of the averaged weights to read, such as 0.999; None for the raw weights.

    Returns:
        A state dict that a ``UNet`` of the same architecture loads strictly.

    Raises:
        UserError: If the file cannot be read (see ``read_checkpoint``), has another layout, or lacks that average.
    """
    return official_weights(read_checkpoint(path), ema, path)


def official_weights(content: Mapping[str, Any], ema: float | None, path: str | Path) -> dict[str, Tensor]:
    """Return what ``load_official`` does, of a file that has been read; ``path`` names it in messages."""
    layout = _layout(content)
    if layout is None:
        keys = ", ".join(map(str, list(content)[:5]))
        raise UserError(
            f"{path}: expected an official checkpoint, with keys net_model and ema_models (teacher) or gen and "
            f"ema_gens (distilled), got {keys or 'no keys'}; load other files as this package's own checkpoints"
        )
    raw, averages = layout
    state = content[raw] if ema is None else _average(content[averages], ema, path)
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise UserError(f"{path}: expected tensors by name under {raw} and {averages}; is it an official checkpoint?")
    # Networks that were saved inside a data-parallel wrapper carry its prefix.
    named = {key.removeprefix("module."): value for key, value in state.items()}
    return {key: value for key, value in named.items() if not key.startswith(_GAN_HEAD)}


def _layout(content: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((keys for keys in _LAYOUTS if all(key in content for key in keys)), None)


def _average(averages: Any, ema: float, path: str | Path) -> Any:
    """Pick the average whose key, a number or a text that ends in one, equals ``ema``."""
    decays = {_decay(key): state for key, state in averages.items()} if isinstance(averages, Mapping) else {}
    for decay, state in decays.items():
        if math.isclose(decay, ema, rel_tol=0, abs_tol=1e-9):
            return state
    available = ", ".join(str(decay) for decay in sorted(decays)) or "none"
    raise UserError(f"{path}: no average of decay {ema}; available: {available}, or null for the raw weights")


def _decay(key: object) -> float:
    number = re.search(r"\d*\.?\d+$", str(key)[-24:])  # the time that it takes grows with the cube of the length
    return float(number.group()) if number else math.nan
