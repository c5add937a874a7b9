"""UNets of guided-diffusion's layout, as torchcfm and the official RealUID have them: our ``UNet``."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from realuid_lightning.errors import UserError
from realuid_lightning.importing.flows import OPTIONS, flow_path
from realuid_lightning.importing.kinds import Found, Kind, Origin, Told, shape_of
from realuid_lightning.networks import UNet

_FIRST = "input_blocks.0.0.weight"
_GAN_HEAD = "cls_pred_branch."


def is_unet(origin: Origin) -> bool:
    """Say whether a file holds such a network."""
    return bool(origin.sets_with(_FIRST))


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
    arguments = _arguments(weights, told)
    return Found(partial(UNet, **arguments), flow_path(told), weights, chosen, dropped)


def _arguments(weights: Mapping[str, Tensor], told: Told) -> dict[str, Any]:
    """Return the arguments of ``UNet``, as far as shapes tell them, and what the user does."""
    channels, in_channels = shape_of(weights, _FIRST, 4)[:2]
    levels: list[list[tuple[int, bool]]] = [[]]  # of each resolution, width and attention of its blocks
    index = 1
    while f"input_blocks.{index}.0.in_layers.2.weight" in weights or f"input_blocks.{index}.0.op.weight" in weights:
        stage = f"input_blocks.{index}"
        if f"{stage}.0.op.weight" in weights:
            levels.append([])
        else:
            width = shape_of(weights, f"{stage}.0.in_layers.2.weight", 4)[0]
            if shape_of(weights, f"{stage}.0.emb_layers.1.weight", 2)[0] != width:
                raise UserError(
                    "its blocks scale their norms by the embedding (use_scale_shift_norm), which UNet does not"
                )
            levels[-1].append((width, f"{stage}.1.qkv.weight" in weights))
        index += 1
    blocks = {len(level) for level in levels}
    alike = all(len(set(level)) == 1 for level in levels)
    if len(blocks) != 1 or not alike or any(level[0][0] % channels for level in levels):
        raise UserError(
            "its blocks are not those of UNet: as many and as wide at each resolution, from the first width on"
        )
    size = told.need("image_size", "the file does not tell how large its images are")
    labels = "label_emb.weight"
    return {
        "image_size": size,
        "in_channels": in_channels,
        "model_channels": channels,
        "num_res_blocks": blocks.pop(),
        "channel_mult": [level[0][0] // channels for level in levels],
        "attention_resolutions": [size >> depth for depth, level in enumerate(levels) if level[0][1]],
        "num_head_channels": told.get("num_head_channels", 64),
        "num_classes": shape_of(weights, labels, 2)[0] if labels in weights else None,
    }


UNETS = Kind(
    "unet",
    "a UNet of torchcfm or the official RealUID (net_model, ema_model, ema_models, or its weights alone)",
    OPTIONS | {"image_size", "num_head_channels"},
    is_unet,
    read_unet,
)
