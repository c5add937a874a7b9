"""Pickles of EDM and EDM2: networks in their preconditioning, with the arguments that they were built from.

Every module in them is a call of ``torch_utils.persistence``, which would run source text that the file brings along.
Here its arguments are read: the name of the class, and the module's attributes.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from realuid_lightning.errors import UserError
from realuid_lightning.importing.kinds import Found, Kind, Origin, Told
from realuid_lightning.importing.pickles import Call
from realuid_lightning.importing.stored import entries_of, is_tensor
from realuid_lightning.networks import DhariwalUNet, EDM2UNet, SongUNet, VENetwork, VPNetwork
from realuid_lightning.paths import DiffusionPath, KarrasSchedule

_MOST_MODULES, _DEEPEST = 20_000, 20


class Module(NamedTuple):
    """A module that a pickle describes: the name of its class, and its attributes."""

    name: str
    attributes: dict[str, Any]


def module_of(node: Any) -> Module | None:
    """Return the module that a part of a tree describes; None if it is something else."""
    if not isinstance(node, Call):
        return None
    attributes, name = node.state, getattr(node.function, "name", "")
    if node.calls("torch_utils.persistence._reconstruct_persistent_obj"):
        about = entries_of(node.arguments[0]) if isinstance(node.arguments, tuple) and node.arguments else {}
        attributes, name = about.get("state"), about.get("class_name")
    return Module(name, attributes) if isinstance(attributes, dict) and isinstance(name, str) else None


def weights_of(module: Module) -> dict[str, Any]:
    """Return what ``state_dict`` would, none of it made.

    Raises:
        UserError: If it has more modules, or modules in modules, than any network.
    """
    found: dict[str, Any] = {}
    waiting, count = [("", 0, module)], 0
    while waiting:
        prefix, depth, each = waiting.pop()
        count += 1
        if count > _MOST_MODULES or depth > _DEEPEST:
            raise UserError(f"it has more than {_MOST_MODULES} modules, or {_DEEPEST} within each other; is it an EDM pickle?")
        passing = entries_of(each.attributes).get("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers"):
            for key, node in entries_of(each.attributes.get(kind)).items():
                if is_tensor(node) and not (isinstance(passing, list) and key in passing):
                    found[f"{prefix}{key}"] = node
        for key, node in entries_of(each.attributes.get("_modules")).items():
            inner = module_of(node)
            if inner is not None:
                waiting.append((f"{prefix}{key}.", depth + 1, inner))
    return found


# ---------------------------------------------------------------------------------------------------------- arguments


def _arguments_of(module: Module, names: Mapping[str, str], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a module was built from, under our names.

    Args:
        module: The module.
        names: Our name of each argument of the original that we have.
        fixed: Further arguments of the original, and the only values that our networks stand for.

    Raises:
        UserError: If there are others, or they are no plain values.
    """
    given = entries_of(module.attributes.get("_init_kwargs"))
    if not given or module.attributes.get("_init_args"):
        raise UserError(f"expected the arguments that {module.name} was built from, by name, but the file has none")
    arguments, strange = {}, []
    for name, value in given.items():
        plain = list(value) if isinstance(value, tuple) else value
        if not all(type(each) in (int, float, str, bool, type(None)) for each in _listed(plain)):
            strange.append(f"{name}, which is no plain value")
        elif name in names:
            arguments[names[name]] = plain
        elif name not in fixed or (fixed[name] is not _ANY and plain != fixed[name]):
            strange.append(f"{name}={str(plain)[:60]}")
    if strange:
        raise UserError(f"{module.name} was built with {', '.join(strange)}, which no network here has")
    return arguments


_ANY = object()
_SAME = ("model_channels", "channel_mult", "channel_mult_emb", "num_blocks", "attn_resolutions", "dropout")
_SONG = ("augment_dim", "embedding_type", "channel_mult_noise", "encoder_type", "resample_filter")
_SIZES = {"img_resolution": "image_size", "in_channels": "in_channels", "label_dim": "num_classes"}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


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
    fixed = {"out_channels": _ANY, "label_dropout": _ANY, "decoder_type": "standard"}
    arguments = _arguments_of(module, {**_SIZES, **dict(zip(same, same, strict=True))}, fixed)
    return partial(network, **_classes(arguments))


def _classes(arguments: dict[str, Any]) -> dict[str, Any]:
    """Let None stand for no classes."""
    return {**arguments, "num_classes": arguments.get("num_classes") or None}


def _number(module: Module, name: str, otherwise: float | None = None) -> float:
    value = module.attributes.get(name, otherwise)
    if type(value) not in (int, float):
        raise UserError(f"expected a number {name} of {module.name}, got {type(value).__name__}")
    number: float = value
    return number


def _karras(outer: Module) -> KarrasSchedule:
    """Return the noise levels at which EDM samples the network: its own usual ones, but none that it was not made for."""
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
    greatest, steps = least + _number(module, "beta_d"), int(_number(module, "M"))
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
    arguments = _classes(_arguments_of(_inner(module, "unet"), names, fixed))
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
