"""Objects that remember how they were built, so that a checkpoint can build them again."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from realuid_lightning.errors import Faults, UserError

T = TypeVar("T")
R = TypeVar("R", bound="Recorded")

_KEYS = {"class_path", "init_args"}
_PLAIN = (int, float, str, bool, type(None))


class Recorded:
    """Mixin that remembers the arguments of the constructor; networks and paths derive from it.

    The arguments are noted before ``__init__`` runs, defaults included, and follow the object through ``deepcopy`` and
    ``pickle``. A subclass adds nothing: it names its arguments in ``__init__`` as usual.

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
                or if the class can not be imported or called by name.
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


def rebuild(record: Mapping[str, Any], expected: type[T]) -> T:
    """Build the object that ``Recorded.recorded`` described.

    A record may come from a stranger's file: whatever it names is imported, but called only when it is a subclass of
    ``expected`` (of ``Recorded``, for records nested in the arguments).

    Args:
        record: ``{"class_path": ..., "init_args": {...}}``.
        expected: Class that the result must be an instance of.

    Returns:
        A freshly constructed object, with fresh weights if it is a network.

    Raises:
        UserError: If the record is malformed, or its class is absent, of another kind, or refuses its arguments.
    """
    if not _is_record(record):
        raise UserError(
            "a record must be {class_path: package.module.Class, init_args: {name: value}}, "
            f"got {str(record)[:80]}; use what recorded() returned"
        )
    path = record["class_path"]
    cls = _import_class(path)
    if not issubclass(cls, expected):
        raise UserError(f"{path} must be a subclass of {expected.__module__}.{expected.__qualname__}, but it is not")
    arguments = {name: _revive(value) for name, value in record["init_args"].items()}
    try:
        built: T = cls(**arguments)
    except Exception as error:
        raise UserError(f"{path} can not be built from its recorded arguments: {error}") from error
    return built


def _walk(tree: Any, leaf: Callable[[str, Any], Any], name: str = "") -> Any:
    """Copy nested lists, tuples and dictionaries, mapping everything else through ``leaf(name, value)``."""
    if type(tree) is dict and all(type(key) is str for key in tree):
        return {key: _walk(value, leaf, f"{name}.{key}" if name else key) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_walk(value, leaf, f"{name}[{index}]") for index, value in enumerate(tree))
    return leaf(name, tree)


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and set(value) == _KEYS
        and isinstance(value["class_path"], str)
        and isinstance(value["init_args"], Mapping)
        and all(isinstance(name, str) for name in value["init_args"])
    )


def _revive(value: Any) -> Any:
    """Build the records inside an argument."""
    if _is_record(value):
        return rebuild(value, Recorded)
    if isinstance(value, dict):
        return {key: _revive(item) for key, item in value.items()}
    return type(value)(map(_revive, value)) if type(value) in (list, tuple) else value


def _import_class(path: str) -> type:
    """Import ``package.module.Class`` (or ``...Class.Nested``) without calling anything."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module)
            for name in parts[cut:]:
                found = getattr(found, name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module}.".startswith(f"{error.name}."):
                continue  # this much of the path is no module: perhaps a class that holds the class
            raise UserError(f"{path} can not be imported ({error}); install what it needs") from error
        except Exception as error:
            raise UserError(f"{path} can not be imported ({error}); was it renamed or moved?") from error
        if not isinstance(found, type):
            raise UserError(f"{path} must be a class, got {type(found).__name__}")
        return found
    raise UserError(f"{path} can not be imported; install its package or add its folder to PYTHONPATH")
