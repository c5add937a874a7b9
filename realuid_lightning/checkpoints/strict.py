"""Loading weights into a network: all of them, or none and a report."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor

from realuid_lightning.errors import UserError
from realuid_lightning.networks.lora import ADAPTER

_LABELS = "label_emb.weight"
_SHOWN, _LONGEST = 3, 200
"""How many keys a message names as examples, and how many letters of each."""


def load_strictly(network: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load a state dict whose keys and shapes are exactly those of the network.

    Args:
        network: The network to fill, which may be divided among devices; it is left untouched unless everything fits.
        state: Tensors by name; they are cast to the types of the network's own. A single value may have one dimension
            or none.
        source: Where the weights come from, for the message: a file name.

    Raises:
        UserError: If a key is missing, unexpected, of another shape, or unlike the one that it is tied to, with counts,
            examples and a hint; or if a parameter is not finite.
    """
    check_state(network, state, source)
    _check_finite(network, state, source)
    own = network.state_dict()
    fitting = {
        key: value.reshape(own[key].shape) if isinstance(value, Tensor) else value for key, value in state.items()
    }
    if any(isinstance(weight, DTensor) for weight in network.parameters()):
        set_model_state_dict(network, fitting, options=StateDictOptions(full_state_dict=True))
    else:
        network.load_state_dict(fitting, strict=True)


def check_state(module: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Compare the keys and shapes of a state dict with a module's own, and change nothing.

    Args:
        module: The module that is about to load ``state``.
        state: Tensors by name.
        source: Where the weights come from, for the message.

    Raises:
        UserError: If a key is missing, unexpected, or of another shape, with counts, examples and a hint.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and _shape(state[key]) != _shape(own[key])]
    untied = [] if misshapen else [pair for pair in ties(module) if _differ(*(state.get(key) for key in pair))]
    if not (missing or unexpected or misshapen or untied):
        return
    apart = [f"{key} differs from {first}" for first, key in untied]
    wrong = [f"{key} {_shape(state[key])}, expected {_shape(own[key])}" for key in misshapen]
    lines = [
        f"{source}: the weights do not fit {type(module).__name__}, nothing was loaded",
        *_examples("missing", missing, len(own)),
        *_examples("unexpected", unexpected, len(state)),
        *_examples("of another shape", wrong, len(own)),
        *_examples("tied in the network, but not there", apart, len(own)),
        f"  {_hint(own, state, [*missing, *unexpected, *misshapen])}",
    ]
    raise UserError("\n".join(lines))


def _check_finite(network: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Refuse parameters that a training without bounds has left behind; buffers, such as masks, may be infinite."""
    own = dict(network.named_parameters())
    lost = [name for name, weight in own.items() if not state[name].to(weight.dtype).isfinite().all()]
    if lost:
        lines = [
            f"{source}: weights are no finite numbers, nothing was loaded",
            *_examples("not finite", lost, len(own)),
            "  its run has diverged: take an earlier checkpoint of it, or one of its averages (ema)",
        ]
        raise UserError("\n".join(lines))


def ties(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of weights that have several: the first one, and each other one."""
    names: dict[int, str] = {}
    for name, weight in module.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(weight), name)
        if first != name:
            yield first, name


def _differ(one: Any, other: Any) -> bool:
    if one is other or not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    return one.data_ptr() != other.data_ptr() and not torch.equal(one, other)


def _shape(value: Any) -> tuple[int, ...] | str:
    """Return the shape of a tensor, or what else it is; a single value without dimensions is as good as with one."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    kinds = {"empty": value.is_meta, "quantized": value.is_quantized, "complex": value.is_complex()}
    kinds["sparse"] = value.layout is not torch.strided
    kind = next((name for name, holds in kinds.items() if holds), None)
    return tuple(value.shape) or (1,) if kind is None else f"{kind} {tuple(value.shape)}"


def _examples(kind: str, keys: list[str], total: int) -> list[str]:
    """Return a line with the count and the first few keys, or nothing."""
    if not keys:
        return []
    rest = ", ..." if len(keys) > _SHOWN else ""
    return [f"  {len(keys)} of {total} {kind}: {', '.join(key[:_LONGEST] for key in keys[:_SHOWN])}{rest}"]


def _hint(own: Mapping[str, Any], state: Mapping[str, Any], wrong: Collection[str]) -> str:
    """Guess what the user should change."""
    if all(key.endswith(_LABELS) for key in wrong):
        labels = next((state[key] for key in wrong if key in state), None)
        if labels is None:
            return f"the checkpoint looks unconditional (it has no {_LABELS}): set num_classes: null and labels: false"
        rows = len(labels)
        return (
            f"the checkpoint looks class-conditional ({_LABELS} has {rows} rows): set num_classes: {rows} and "
            f"null_label: false, or num_classes: {rows - 1} and null_label: true"
        )
    if any(f".{ADAPTER}." in key for key in wrong):
        return (
            "adapters (LoRA) of another rank or target, or on one side alone: to resume, set model.fake_network and "
            "model.generator_network as in the run that wrote the file; to begin there, name a whole network's file"
        )
    if _headed(own) != _headed(state):
        return "one of both has a discriminator (fake.head): set model.gan as in the run that wrote the file"
    if not any(key in own for key in state):
        return (
            "no key is shared: another kind of network, or a whole checkpoint in place of one network's weights; "
            "look at the class and at the file"
        )
    return (
        "another architecture: compare image_size, model_channels, num_res_blocks, channel_mult and "
        "attention_resolutions (width, depth for an MLP) and condition_channels with the run that wrote the file"
    )


def _headed(keys: Collection[str]) -> bool:
    return any(key.startswith("fake.head.") for key in keys)
