"""Adapters in checkpoints: added to the weights that they adapt, so that a generator leaves as a plain network."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from realuid_lightning.checkpoints.bounds import is_dense
from realuid_lightning.networks.lora import ADAPTER

_A, _B, _BASE = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight", ".base_layer"


def merged(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with ``W + B A`` under the name of each layer that has adapters (``networks.LoRA``).

    What does not fit together stays as it is, for strict loading to name; without adapters, all does.

    Args:
        state: Weights of a network, by name; they are left alone.
    """
    plain = dict(state)
    for layer in [key.removesuffix(_A) for key in state if key.endswith(_A)]:
        keys = layer + _BASE + ".weight", layer + _B, layer + _A
        if _fit(*map(state.get, keys)):
            weight, b, a = (state[key] for key in keys)
            for key in (*keys, layer + _BASE + ".bias"):
                plain.pop(key, None)
            plain[f"{layer}.weight"] = weight + (b.flatten(1) @ a.flatten(1)).view_as(weight)
            if layer + _BASE + ".bias" in state:
                plain[f"{layer}.bias"] = state[layer + _BASE + ".bias"]
    return plain


def _fit(weight: Any, b: Any, a: Any) -> bool:
    """Tell whether three values are the tensors of an adapted layer, of which none claims more than it holds."""
    return (
        all(isinstance(each, Tensor) and is_dense(each) and each.is_floating_point() for each in (weight, b, a))
        and all(each.untyped_storage().nbytes() >= each.nbytes for each in (weight, b, a))
        and weight.dtype == b.dtype == a.dtype
        and min(weight.ndim, a.ndim, b.ndim) >= 2
        and weight.shape[0] == b.shape[0]
        and weight.shape[1:] == a.shape[1:]
        and b.shape[1:].numel() == a.shape[0]
    )
