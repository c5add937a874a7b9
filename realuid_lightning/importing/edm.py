"""Pickles of EDM and EDM2: networks in their preconditioning, with the arguments that they were built from."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from realuid_lightning.errors import UserError
from realuid_lightning.importing.kinds import Found, Kind, Origin, Told
from realuid_lightning.importing.persistence import ANY, Module, arguments_of, module_of, weights_of
from realuid_lightning.importing.stored import entries_of
from realuid_lightning.networks import DhariwalUNet, EDM2UNet, SongUNet, VENetwork, VPNetwork
from realuid_lightning.paths import DiffusionPath, KarrasSchedule

_SAME = ("model_channels", "channel_mult", "channel_mult_emb", "num_blocks", "attn_resolutions", "dropout")
_SONG = ("augment_dim", "embedding_type", "channel_mult_noise", "encoder_type", "resample_filter")
_SIZES = {"img_resolution": "image_size", "in_channels": "in_channels", "label_dim": "num_classes"}


def _bare_network(module: Module) -> Callable[[], nn.Module]:
    """Return what builds the network of EDM that a module describes."""
    networks: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
        "SongUNet": (SongUNet, (*_SAME, *_SONG)),
        "DhariwalUNet": (DhariwalUNet, (*_SAME, "augment_dim")),
    }
    if module.name not in networks:
        raise UserError(f"expected a {' or '.join(networks)}, got {module.name[:80]}, which no network here stands for")
    network, same = networks[module.name]
    # Labels were dropped in training, which is over.
    fixed = {"out_channels": ANY, "label_dropout": ANY, "decoder_type": "standard"}
    arguments = arguments_of(module, {**_SIZES, **dict(zip(same, same, strict=True))}, fixed)
    return partial(network, **_classes(arguments))


def _classes(arguments: dict[str, Any]) -> dict[str, Any]:
    """Let None stand for no classes."""
    return {**arguments, "num_classes": arguments.get("num_classes") or None}


def _number(module: Module, name: str, otherwise: float | None = None) -> float:
    value: Any = module.attributes.get(name, otherwise)
    if type(value) not in (int, float):
        raise UserError(f"expected a number {name} of {module.name}, got {type(value).__name__}")
    number: float = value
    return number


def _karras(outer: Module) -> KarrasSchedule:
    """Return the noise levels at which EDM samples the network: the usual ones, as far as it was made for them."""
    usual = KarrasSchedule()
    least, greatest = (_number(outer, f"sigma_{end}", getattr(usual, f"sigma_{end}")) for end in ("min", "max"))
    return KarrasSchedule(max(usual.sigma_min, least), min(usual.sigma_max, greatest))


# ---------------------------------------------------------------------------------------------------------------- EDM


def _networks(origin: Origin) -> dict[str, Module]:
    """Return the networks of a file by their names there: ``ema``, and ``net`` in states of a training."""
    found = ((name, module_of(node)) for name, node in _top(origin) if isinstance(name, str))
    return {name: module for name, module in found if module is not None and module.name in _READERS}


def _top(origin: Origin) -> Iterator[tuple[Any, Any]]:
    if not origin.path.is_dir():
        yield from entries_of(origin.tree).items()


def _edm(module: Module) -> tuple[Callable[[], nn.Module], DiffusionPath, str]:
    path = DiffusionPath(_karras(module), _number(module, "sigma_data"))
    return _bare_network(_inner(module, "model")), path, "model."


def _vp(module: Module) -> tuple[Callable[[], nn.Module], DiffusionPath, str]:
    build, least = _bare_network(_inner(module, "model")), _number(module, "beta_min")
    greatest, steps = least + _number(module, "beta_d"), _number(module, "M")
    if not isinstance(steps, int):
        raise UserError(f"expected a whole number M of {module.name}, got {steps}")
    path = DiffusionPath(_karras(module), 1.0)
    return lambda: VPNetwork(build(), least, greatest, steps), path, ""


def _ve(module: Module) -> tuple[Callable[[], nn.Module], DiffusionPath, str]:
    build = _bare_network(_inner(module, "model"))
    return lambda: VENetwork(build()), DiffusionPath(_karras(module), 1.0), ""


def _edm2(module: Module) -> tuple[Callable[[], nn.Module], DiffusionPath, str]:
    same = (*_SAME, "channel_mult_noise", "channels_per_head")
    names = {**_SIZES, "img_channels": "in_channels", **dict(zip(same, same, strict=True))}
    balances = {"label_balance": 0.5, "concat_balance": 0.5, "res_balance": 0.3, "attn_balance": 0.3}
    fixed = {**balances, "clip_act": 256, "resample_filter": [1, 1]}
    arguments = _classes(arguments_of(_inner(module, "unet"), names, fixed))
    linear = module_of(entries_of(module.attributes.get("_modules")).get("logvar_linear"))
    width = None if linear is None else entries_of(module.attributes.get("_init_kwargs")).get("logvar_channels", 128)
    build = partial(EDM2UNet, **arguments, logvar_channels=width)
    return build, DiffusionPath(sigma_data=_number(module, "sigma_data")), "unet."


def _inner(module: Module, name: str) -> Module:
    inner = module_of(entries_of(module.attributes.get("_modules")).get(name))
    if inner is None:
        raise UserError(f"expected a network {name} within {module.name}")
    return inner


_READERS = {"EDMPrecond": _edm, "VPPrecond": _vp, "VEPrecond": _ve, "Precond": _edm2}


def read_edm(origin: Origin, told: Told) -> Found:
    """Read a network of EDM or EDM2, with its preconditioning.

    Raises:
        UserError: If it was built with something that no network here has.
    """
    chosen, module = told.choose(_networks(origin))
    build, path, prefix = _READERS[module.name](module)
    weights = {key.removeprefix(prefix): value for key, value in weights_of(module).items()}
    return Found(build, path, origin.made(weights), chosen)


EDMS = Kind(
    "edm",
    "a pickle of EDM or EDM2 (.pkl)",
    frozenset(),
    lambda origin: bool(_networks(origin)),
    read_edm,
)
