"""Files as other projects write them, made of the small networks in ``reference/values``."""

import argparse
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

VALUES = Path(__file__).parent / "reference" / "values"

_SIZES: dict[str, Any] = {"img_resolution": 16, "num_blocks": 1, "channel_mult": [1, 2], "attn_resolutions": [8]}
_SONG = {**_SIZES, "in_channels": 3, "out_channels": 3, "label_dim": 0, "dropout": 0.0, "model_channels": 16}
_NCSNPP = {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2}
_NCSNPP |= {"resample_filter": [1, 3, 3, 1], "decoder_type": "standard"}

EDM: dict[str, tuple[str, dict[str, Any], str, str, dict[str, Any]]] = {
    # Class and attributes of the preconditioning, name and class of the network inside, arguments of that.
    "edm_ddpmpp_cond": (
        "EDMPrecond",
        {"sigma_min": 0, "sigma_max": float("inf"), "sigma_data": 0.5},
        "model",
        "SongUNet",
        {**_SONG, "label_dim": 10, "augment_dim": 9},
    ),
    "edm_adm_cond": (
        "EDMPrecond",
        {"sigma_min": 0, "sigma_max": float("inf"), "sigma_data": 0.5},
        "model",
        "DhariwalUNet",
        {**_SONG, "label_dim": 10, "model_channels": 32},
    ),
    "vp_ddpmpp_uncond": (
        "VPPrecond",
        {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5, "sigma_min": 0.001, "sigma_max": 152.2},
        "model",
        "SongUNet",
        _SONG,
    ),
    "ve_ncsnpp_uncond": (
        "VEPrecond",
        {"sigma_min": 0.02, "sigma_max": 100},
        "model",
        "SongUNet",
        {**_SONG, **_NCSNPP},
    ),
    "edm2_cond": (
        "Precond",
        {"sigma_data": 0.5, "_init_kwargs": {"logvar_channels": 16}},
        "unet",
        "UNet",
        {**_SIZES, "img_channels": 4, "label_dim": 10, "model_channels": 16, "channels_per_head": 16},
    ),
}


def values(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of a small network under the original's keys, and what it makes of some inputs."""
    stored = load_file(VALUES / f"{name}.safetensors")
    return (
        {key: value for key, value in stored.items() if not key.startswith("__")},
        {key.removeprefix("__"): value for key, value in stored.items() if key.startswith("__")},
    )


class Persistent:
    """A module of EDM, which pickles as a call that would run ``module_src``."""

    source = ""

    def __init__(self, name: str, **attributes: Any) -> None:
        self.name = name
        self.state: dict[str, Any] = {"training": False, "_parameters": OrderedDict(), "_buffers": OrderedDict()}
        self.state |= {"_non_persistent_buffers_set": {"unsaved"}, "_modules": OrderedDict(), "_init_args": ()}
        self.state |= {"_init_kwargs": {}, **attributes}

    def __reduce__(self) -> Any:
        about = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.name, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (about,)

    def put(self, key: str, value: Tensor) -> None:
        """Put a weight where it belongs; modules on the way are made."""
        first, _, rest = key.partition(".")
        if not rest:
            still = first in ("resample_filter", "freqs", "phases")
            self.state["_buffers" if still else "_parameters"][first] = value if still else nn.Parameter(value)
        elif first in ("enc", "dec"):
            holder = self.state["_modules"].setdefault(first, nn.ModuleDict())
            name, _, rest = rest.partition(".")
            holder._modules.setdefault(name, Persistent("Block")).put(rest, value)
        else:
            self.state["_modules"].setdefault(first, Persistent("Layer")).put(rest, value)


def edm_module(name: str, **changes: Any) -> Persistent:
    """Return a network of EDM or EDM2 as its pickles hold it; ``changes`` are other arguments of the inner one."""
    outer_name, attributes, inside, inner_name, arguments = EDM[name]
    outer = Persistent(outer_name, **attributes)
    inner = Persistent(inner_name, _init_kwargs={**arguments, **changes})
    outer.state["_modules"][inside] = inner
    inner.state["_buffers"]["unsaved"] = torch.zeros(1)
    for key, value in values(f"foreign/{name}")[0].items():
        outer.put(key, value)
    return outer


def write_pickle(content: Any, file: Path, dump: Callable[[Any, BinaryIO], object] = pickle.dump) -> Path:
    """Write a pickle as EDM does: with the library there by which modules are found."""
    library = types.ModuleType("torch_utils.persistence")

    def reconstruct(about: Any) -> None:
        raise AssertionError("executed")

    reconstruct.__module__, reconstruct.__qualname__ = library.__name__, "_reconstruct_persistent_obj"
    library._reconstruct_persistent_obj = reconstruct  # type: ignore[attr-defined]
    names = {"torch_utils": types.ModuleType("torch_utils"), library.__name__: library}
    sys.modules.update(names)
    try:
        with file.open("wb") as stream:
            dump(content, stream)
    finally:
        for each in names:
            del sys.modules[each]
    return file


def write_edm(name: str, file: Path, **changes: Any) -> Path:
    """Write a pickle of EDM or EDM2."""
    return write_pickle({"ema": edm_module(name, **changes), "dataset_kwargs": {"resolution": 16}}, file)


def write_torchcfm(file: Path, prefix: str = "") -> Path:
    """Write a checkpoint of torchcfm's CIFAR-10 example, whose average is the small network."""
    weights, _ = values("unet_uncond")
    average = {f"{prefix}{key}": value for key, value in weights.items()}
    raw = {key: value + 1 for key, value in average.items()}
    torch.save({"net_model": raw, "ema_model": average, "sched": {"last_epoch": 3}, "optim": {}, "step": 3}, file)
    return file


def write_transformer(file: Path, kind: str = "SiT", **options: Any) -> Path:
    """Write a checkpoint of SiT's or DiT's training, with its options."""
    weights, _ = values("foreign/sit")
    raw = {key: value + 1 for key, value in weights.items()}
    args = argparse.Namespace(model=f"{kind}-XL/2", num_classes=10, image_size=256, **options)
    torch.save({"model": raw, "ema": weights, "opt": {"state": {0: {"step": torch.ones(1)}}}, "args": args}, file)
    return file


def write_flow_matching(file: Path, network: nn.Module, width: int) -> Path:
    """Write a checkpoint of flow_matching's image example, whose average is ``network`` with heads of ``width``."""
    state = network.state_dict()
    for key, value in state.items():  # there, queries, keys and values of all heads come one after the other
        if ".qkv." in key:
            state[key] = value.unflatten(0, (-1, 3, width)).transpose(0, 1).flatten(0, 2)
    model = {f"model.{key}": value + 1 for key, value in state.items()} | {"num_updates": torch.tensor(3)}
    model |= {f"shadow_params.{index}": value for index, value in enumerate(state.values())}
    torch.save({"model": model, "optimizer": {}, "epoch": 3, "args": argparse.Namespace(dataset="cifar10")}, file)
    return file
