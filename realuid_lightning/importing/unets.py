"""UNets of guided-diffusion's layout, as torchcfm, the official RealUID and flow_matching have them: our ``UNet``."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from realuid_lightning.errors import UserError
from realuid_lightning.importing.flows import OPTIONS, flow_path
from realuid_lightning.importing.kinds import Found, Kind, Origin, Told, shape_of
from realuid_lightning.importing.stored import entries_of
from realuid_lightning.networks import UNet
from realuid_lightning.paths import FlowMatchingPath

_FIRST = "input_blocks.0.0.weight"
_LABELS = "label_emb.weight"
_GAN_HEAD = "cls_pred_branch."
_SHADOW = "shadow_params."

# ------------------------------------------------------------------------------------------------- torchcfm and RealUID


def is_unet(origin: Origin) -> bool:
    """Say whether a file holds such a network."""
    return bool(origin.sets_with(_FIRST)) and not is_flow_matching(origin)


def read_unet(origin: Origin, told: Told) -> Found:
    """Read one; sizes and blocks follow from the shapes of weights.

    Raises:
        UserError: If it is no teacher, not of this layout, or more must be told.
    """
    sets = origin.sets_with(_FIRST)
    if {"gen", "ema_gens"} & {name.partition(".")[0] for name in sets}:
        raise UserError("it holds a distilled generator, not a teacher: name it in model.generator_ckpt")
    chosen, nodes = told.choose(sets)
    dropped = {key: "a GAN head" for key in nodes if key.startswith(_GAN_HEAD)}
    weights = origin.made({key: node for key, node in nodes.items() if key not in dropped})
    arguments = _arguments(weights, told) | {"num_head_channels": told.get("num_head_channels", 64)}
    return Found(partial(UNet, **arguments), flow_path(told), weights, chosen, dropped)


# ------------------------------------------------------------------------------------------------------- flow_matching


def is_flow_matching(origin: Origin) -> bool:
    """Say whether a file is a checkpoint of the image example of flow_matching."""
    return bool(_averaged(origin)) and "args" in entries_of(origin.tree)


def _averaged(origin: Origin) -> dict[str, dict[str, Any]]:
    """Return the weights under ``model``, and their average, which the original keeps as a list in their order."""
    nodes = {} if origin.path.is_dir() else origin.sets.get("model", {})
    inner = {key.removeprefix("model."): node for key, node in nodes.items() if not key.startswith(_SHADOW)}
    inner.pop("num_updates", None)
    if _FIRST not in inner:
        return {}
    shadows = [nodes[key] for key in (f"{_SHADOW}{index}" for index in range(len(inner))) if key in nodes]
    average = {"ema": dict(zip(inner, shadows, strict=True))} if len(shadows) == len(inner) else {}
    return {"model": inner, **average}


def read_flow_matching(origin: Origin, told: Told) -> Found:
    """Read such a checkpoint; its attention has queries, keys and values one after the other, ours head by head.

    Raises:
        UserError: If it is not of this layout, or more must be told.
    """
    chosen, nodes = told.choose(_averaged(origin))
    weights = origin.made(nodes)
    arguments = _arguments(weights, told)
    if arguments["num_classes"] is not None:  # the last row is for no label
        arguments |= {"num_classes": arguments["num_classes"] - 1, "null_label": True}
    width = told.need("num_head_channels", "the file does not tell the channels of an attention head")
    weights = {key: _by_heads(value, width) if ".qkv." in key else value for key, value in weights.items()}
    build = partial(UNet, **arguments, num_head_channels=width)
    return Found(build, FlowMatchingPath(), weights, chosen)


def _by_heads(weight: Tensor, width: int) -> Tensor:
    """Bring queries, keys and values of each head together."""
    if width < 1 or len(weight) % (3 * width):
        raise UserError(f"num_head_channels must divide the {len(weight) // 3} channels under attention, got {width}")
    parts = weight.reshape(3, -1, width, *weight.shape[1:])
    return parts.transpose(0, 1).reshape(weight.shape)


# -------------------------------------------------------------------------------------------------------- architecture


def _arguments(weights: Mapping[str, Tensor], told: Told) -> dict[str, Any]:
    """Return the arguments of ``UNet``, as far as shapes tell them, and what the user does."""
    first_channels, in_channels = shape_of(weights, _FIRST, 4)[:2]
    channels = shape_of(weights, "time_embed.0.weight", 2)[1]
    resample, downs, count = _resampling(weights)
    levels: list[list[tuple[int, bool]]] = [[]]  # of each resolution, width and attention of its blocks
    scales = set()
    for index in range(1, count):
        stage = f"input_blocks.{index}"
        if index in downs:
            levels.append([])
        else:
            width = shape_of(weights, f"{stage}.0.in_layers.2.weight", 4)[0]
            scales.add(shape_of(weights, f"{stage}.0.emb_layers.1.weight", 2)[0] == 2 * width)
            levels[-1].append((width, f"{stage}.1.qkv.weight" in weights))
    alike = all(len(set(level)) == 1 for level in levels) and len({len(level) for level in levels}) == len(scales) == 1
    if not alike or any(level[0][0] % channels for level in levels):
        raise UserError("its blocks are not those of UNet: alike at each resolution, and as many")
    size = told.need("image_size", "the file does not tell how large its images are")
    return {
        "image_size": size,
        "in_channels": in_channels,
        "model_channels": channels,
        "num_res_blocks": len(levels[0]),
        "channel_mult": [level[0][0] // channels for level in levels],
        "attention_resolutions": [size >> depth for depth, level in enumerate(levels) if level[0][1]],
        "num_classes": shape_of(weights, _LABELS, 2)[0] if _LABELS in weights else None,
        "first_channels": None if first_channels == channels else first_channels,
        "scales": scales.pop(),
        "resample": resample,
    }


def _resampling(weights: Mapping[str, Tensor]) -> tuple[str, set[int], int]:
    """Return what halves the resolution, the numbers of the input blocks that do, and the number of all of them."""
    there = {key.split(".")[1] for key in weights if key.startswith("input_blocks.")}
    count = max((int(each) for each in there if each.isdecimal() and len(each) < 5), default=0) + 1
    convolutions = {index for index in range(count) if f"input_blocks.{index}.0.op.weight" in weights}
    empty = {index for index in range(count) if str(index) not in there}
    if convolutions or empty:
        return ("convolution", convolutions, count) if convolutions else ("pooling", empty, count)
    # A block that halves looks like any other; one that doubles is the second one of its stage, the last of its level.
    ends = (index for index in range(count) for place in (1, 2) if _is_block(weights, index, place))
    period = next(ends, count) + 1
    return "block" if period < count else "convolution", set(range(period, count, period)), count


def _is_block(weights: Mapping[str, Tensor], index: int, place: int) -> bool:
    return f"output_blocks.{index}.{place}.in_layers.2.weight" in weights


UNETS = Kind(
    "unet",
    "a UNet of torchcfm or the official RealUID (net_model, ema_model, ema_models, or its weights alone)",
    OPTIONS | {"image_size", "num_head_channels"},
    is_unet,
    read_unet,
)
FLOW_MATCHING = Kind(
    "flow_matching",
    "a checkpoint of flow_matching's image example (model and args)",
    frozenset({"image_size", "num_head_channels"}),
    is_flow_matching,
    read_flow_matching,
)
