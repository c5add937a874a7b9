"""Modules in pickles of EDM and EDM2, as data.

Every module in them is a call of ``torch_utils.persistence``, which would run source text that the file brings along.
Here its arguments are read: the name of the class, and the module's attributes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from realuid_lightning.errors import UserError
from realuid_lightning.importing.pickles import Call
from realuid_lightning.importing.stored import entries_of, is_tensor

ANY = object()
"""Stands for any value of an argument."""

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
            raise UserError(
                f"it has more than {_MOST_MODULES} modules, or {_DEEPEST} within each other; is it an EDM pickle?"
            )
        passing = _members(each.attributes.get("_non_persistent_buffers_set"))
        for kind in ("_parameters", "_buffers"):
            for key, node in entries_of(each.attributes.get(kind)).items():
                if is_tensor(node) and key not in passing:
                    found[f"{prefix}{key}"] = node
        for key, node in entries_of(each.attributes.get("_modules")).items():
            inner = module_of(node)
            if inner is not None:
                waiting.append((f"{prefix}{key}.", depth + 1, inner))
    return found


def _members(node: Any) -> list[Any]:
    """Return the members of a set, which older pickles make by a call; none of all else."""
    if isinstance(node, Call) and isinstance(node.arguments, tuple) and len(node.arguments) == 1:
        node = node.arguments[0]
    return node if isinstance(node, list) else []


def arguments_of(module: Module, names: Mapping[str, str], fixed: Mapping[str, Any]) -> dict[str, Any]:
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
        name = str(name)
        plain = list(value) if isinstance(value, tuple) else value
        parts = plain if isinstance(plain, list) else [plain]
        if not all(type(part) in (int, float, str, bool, type(None)) for part in parts):
            strange.append(f"{name[:60]}, which is no plain value")
        elif name in names:
            arguments[names[name]] = plain
        elif name not in fixed or (fixed[name] is not ANY and plain != fixed[name]):
            strange.append(f"{name[:60]}={str(plain)[:60]}")
    if strange:
        raise UserError(f"{module.name} was built with {', '.join(strange)}, which no network here has")
    return arguments
