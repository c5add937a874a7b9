"""Transformers of DiT and SiT, whose weights have the same names: the file's arguments tell them apart, or the user."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from realuid_lightning.errors import UserError
from realuid_lightning.importing.flows import OPTIONS, flow_path
from realuid_lightning.importing.kinds import Found, Kind, Origin, Told, shape_of
from realuid_lightning.importing.pickles import Call
from realuid_lightning.importing.stored import entries_of
from realuid_lightning.networks import DiT
from realuid_lightning.paths import DDPMSteps, DiffusionPath, MatchingPath, Noise, VPSchedule

_FIRST = "x_embedder.proj.weight"
_HEADS = {(1152, 28): 16, (1024, 24): 16, (768, 12): 12, (384, 12): 6}
"""Attention heads of the published networks (XL, L, B and S), by width and depth, which weights tell."""


def _is(name: str, origin: Origin) -> bool:
    """Say whether a file holds such a transformer, which another name is not written on."""
    model = str(_trained_with(origin).get("model", name)) if origin.sets_with(_FIRST) else ""
    return model.startswith(name)


def _trained_with(origin: Origin) -> dict[str, Any]:
    """Return the options of the original's training, which its own checkpoints keep under ``args``."""
    options = entries_of(origin.tree).get("args")
    state = options.state if isinstance(options, Call) else None
    return state if isinstance(state, dict) else {}


def _read(origin: Origin, told: Told, path: MatchingPath) -> Found:
    chosen, nodes = told.choose(origin.sets_with(_FIRST))
    weights = origin.made(nodes)
    return Found(partial(DiT, **_arguments(weights, told)), path, weights, chosen)


def read_dit(origin: Origin, told: Told) -> Found:
    """Read a DiT: it predicts the noise of 1000 steps of DDPM (arXiv 2212.09748).

    Raises:
        UserError: If it is not of the original's layout, or more must be told.
    """
    _take(origin, told, "num_classes")
    path = DiffusionPath(VPSchedule(), told.get("sigma_data", 0.5), parameterisation=Noise(time=DDPMSteps()))
    return _read(origin, told, path)


def read_sit(origin: Origin, told: Told) -> Found:
    """Read a SiT: noise is at 0 and data at 1, as in the original's code (arXiv 2401.08740).

    Raises:
        UserError: If it is not of the original's layout, more must be told, or its path is not known here.
    """
    _take(origin, told, "num_classes", *OPTIONS)
    return _read(origin, told, flow_path(told))


def _take(origin: Origin, told: Told, *names: str) -> None:
    """Take what the file tells in place of the user, and refuse what he tells otherwise."""
    options = _trained_with(origin)
    for name in names:
        value = options.get(name)
        if isinstance(value, (str, int)):
            given = told.given.setdefault(name, value)
            if str(given).lower() != str(value).lower():
                raise UserError(f"{name} is {str(value)[:80]} by the file's own args, got {given}: leave it out")


def _arguments(weights: Mapping[str, Tensor], told: Told) -> dict[str, Any]:
    """Return the arguments of ``DiT``, as far as shapes tell them, and what the user does."""
    width, in_channels, patch, _ = shape_of(weights, _FIRST, 4)
    side = math.isqrt(shape_of(weights, "pos_embed", 3)[1])
    depth = 0
    while f"blocks.{depth}.attn.qkv.weight" in weights:
        depth += 1
    heads = _HEADS.get((width, depth))
    if "num_heads" in told.given or heads is None:
        heads = told.need("num_heads", f"the file does not tell the attention heads of its {depth} blocks")
    rows = shape_of(weights, "y_embedder.embedding_table.weight", 2)[0]
    classes = told.get("num_classes", rows - 1)
    if classes not in (rows, rows - 1):
        raise UserError(f"num_classes must be {rows - 1}, and a row for no label, or {rows}, got {classes}")
    return {
        "image_size": side * patch,
        "patch_size": patch,
        "in_channels": in_channels,
        "hidden_size": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": shape_of(weights, "blocks.0.mlp.fc1.weight", 2)[0] / width,
        "num_classes": classes,
        "null_label": classes < rows,
        "learn_sigma": shape_of(weights, "final_layer.linear.weight", 2)[0] == 2 * in_channels * patch**2,
    }


_COMMON = frozenset({"num_heads", "num_classes"})
DITS = Kind(
    "dit", "a DiT (its ema, model, or its weights alone)", _COMMON | {"sigma_data"}, partial(_is, "DiT"), read_dit
)
SITS = Kind("sit", "a SiT (its ema, model, or its weights alone)", _COMMON | OPTIONS, partial(_is, "SiT"), read_sit)
