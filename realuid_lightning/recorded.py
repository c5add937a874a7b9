"""Objects that remember how they were built, so that a checkpoint can build them again."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

from realuid_lightning.errors import Faults, UserError

T = TypeVar("T")
R = TypeVar("R", bound="Recorded")

_KEYS = {"class_path", "init_args"}
_PLAIN = (int, float, str, bool, type(None))
_PACKAGE = __name__.partition(".")[0]


class Recorded:
    """Mixin that remembers the arguments of the constructor; networks and paths derive from it.

    The arguments are noted before ``__init__`` runs, defaults included, and follow the object through ``deepcopy`` and
    ``pickle``. A subclass adds nothing: it names its arguments in ``__init__`` as usual. That may be called with any
    arguments, by a stranger's file, so it reads, writes and downloads nothing.

    Example:
        >>> class Ramp(Recorded):
        ...     def __init__(self, start: float, stop: float = 1.0) -> None: ...
        >>> Ramp(0.5).recorded()["init_args"]
        {'start': 0.5, 'stop': 1.0}
    """

    _arguments: dict[str, Any]

    def __new__(cls: type[R], *args: Any, **kwargs: Any) -> R:  # noqa: D102
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:  # copies and unpickled objects come without arguments; a wrong call is __init__'s to refuse
            return self
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        # Past __setattr__: a torch module or a frozen dataclass is not ready to be written to.
        object.__setattr__(self, "_arguments", _walk(arguments, lambda _, leaf: leaf))
        return self

    def recorded(self) -> dict[str, Any]:
        """Describe this object by plain values.

        Returns:
            ``{"class_path": "package.module.Class", "init_args": {...}}``, the layout that YAML configs use too.
            Arguments that are themselves ``Recorded`` appear as such dictionaries. Tuples stay tuples.

        Raises:
            UserError: If an argument is not made of numbers, strings, booleans, None, lists, tuples and dictionaries,
                or if the class cannot be found or called by name.
        """
        cls = type(self)
        faults = Faults(cls.__qualname__)
        faults.unless("<locals>" not in cls.__qualname__, "a class to record must be defined at the top of a module")

        def plain(name: str, leaf: Any) -> Any:
            if isinstance(leaf, Recorded):
                return leaf.recorded()
            faults.unless(
                isinstance(leaf, _PLAIN),
                f"argument {name} must be made of plain values (numbers, str, bool, None, lists, tuples, dicts) or of "
                f"Recorded objects to go into a checkpoint, got {type(leaf).__name__}",
            )
            return leaf

        init_args = _walk(self._named_arguments(faults), plain)
        faults.raise_any()
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": init_args}

    def _named_arguments(self, faults: Faults) -> dict[str, Any]:
        """Return the arguments as ``__init__`` takes them by keyword; note those that it does not."""
        named: dict[str, Any] = {}
        parameters = inspect.signature(type(self).__init__).parameters
        for name, value in self._arguments.items():
            kind = parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                named |= value
            elif kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
                nameable = kind is inspect.Parameter.VAR_POSITIONAL and not value
                faults.unless(
                    nameable, f"argument {name} must have a name of its own, it can be passed by position only"
                )
            else:
                named[name] = value
        return named


def rebuild(record: Mapping[str, Any], expected: type[T], trust: Sequence[str] = ()) -> T:
    """Build the object that ``Recorded.recorded`` described.

    A record may come from a stranger's file, and importing is executing: nothing is imported but modules of this
    package and what ``trust`` names, and nothing is called but subclasses of ``Recorded``. Classes that are there
    already, defined or imported by the caller, are found without importing. The same holds for records nested in the
    arguments.

    Args:
        record: ``{"class_path": ..., "init_args": {...}}``.
        expected: Class that the result must be an instance of.
        trust: Names of modules, packages or classes that may be imported for it, such as ``["arc_path"]``.

    Returns:
        A freshly constructed object, with fresh weights if it is a network.

    Raises:
        UserError: If the record is malformed, or its class is unknown, of another kind, or refuses its arguments.
    """
    if not is_record(record):
        raise UserError(
            "a record must be {class_path: package.module.Class, init_args: {name: value}}, "
            f"got {str(record)[:80]}; use what recorded() returned"
        )
    path = record["class_path"]
    cls = _find_class(path, [_PACKAGE, *trust])
    for kind in (Recorded, expected):
        if not issubclass(cls, kind):
            raise UserError(f"{path} must be a subclass of {kind.__module__}.{kind.__qualname__}, but it is not")
    arguments = {name: _revive(value, trust) for name, value in record["init_args"].items()}
    try:
        built: T = cls(**arguments)
    except Exception as error:
        raise UserError(f"{path} cannot be built from its recorded arguments: {error}") from error
    return built


def is_record(value: Any) -> bool:
    """Say whether a value has the form of what ``Recorded.recorded`` returns."""
    return (
        isinstance(value, Mapping)
        and set(value) == _KEYS
        and isinstance(value["class_path"], str)
        and all(part.isidentifier() for part in value["class_path"].split("."))
        and isinstance(value["init_args"], Mapping)
        and all(isinstance(name, str) for name in value["init_args"])
    )


def _walk(tree: Any, leaf: Callable[[str, Any], Any], name: str = "") -> Any:
    """Copy nested lists, tuples and dictionaries, mapping everything else through ``leaf(name, value)``."""
    if type(tree) is dict and all(type(key) is str for key in tree):
        return {key: _walk(value, leaf, f"{name}.{key}" if name else key) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_walk(value, leaf, f"{name}[{index}]") for index, value in enumerate(tree))
    return leaf(name, tree)


def _revive(value: Any, trust: Sequence[str]) -> Any:
    """Build the records inside an argument."""
    if is_record(value):
        return rebuild(value, Recorded, trust)
    if isinstance(value, dict):
        return {key: _revive(item, trust) for key, item in value.items()}
    return type(value)(_revive(item, trust) for item in value) if type(value) in (list, tuple) else value


def _find_class(path: str, trust: Sequence[str]) -> type:
    """Find ``package.module.Class`` (or ``...Class.Nested``); only what ``trust`` covers is imported for it.

    Names are looked up where they are kept: ``getattr`` would run what modules and classes do on access.
    """
    parts = path.split(".")
    trusted = any(f"{path}.".startswith(f"{name}.") for name in trust)
    for cut in range(len(parts) - 1, 0, -1):  # all but the last name, or less: a class may hold the class
        module = _module(".".join(parts[:cut]), trusted)
        if module is not None:
            break
    else:
        raise UserError(_unknown(path, trusted))
    found: Any = module
    for name in parts[cut:]:
        found = (object if found is module else type).__getattribute__(found, "__dict__").get(name)
        if not issubclass(type(found), type):
            raise UserError(f"{path} must be a class, but there is none of that name; was it renamed or moved?")
    cls: type = found
    return cls


def _module(name: str, trusted: bool) -> ModuleType | None:
    """Return a module that is imported already, or one that may be imported now; None if there is none."""
    if not trusted or name.endswith("__main__"):
        found = sys.modules.get(name)
        return found if issubclass(type(found), ModuleType) else None
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return None  # this much of the path is no module
        raise UserError(f"{name} cannot be imported ({error}); install what it needs") from error
    except Exception as error:
        raise UserError(f"{name} cannot be imported ({type(error).__name__}: {error})") from error


def _unknown(path: str, trusted: bool) -> str:
    if trusted:
        return f"{path} cannot be imported; install its package or add its folder to PYTHONPATH"
    module = path.rpartition(".")[0] or path
    return (
        f"{path} is neither of this package nor imported here, and opening a file imports nothing by itself, for that "
        f'would run code. If you trust {module}, say so: load_generator(file, trust=["{module}"]), or realuid export '
        f"--trust {module} in its folder; or import it first"
    )
