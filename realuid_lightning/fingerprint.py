"""A text that changes with what an object computes: its class, code, attributes and weights.

What is kept under such a text is found again only by an object that computes the same. Telling two objects apart that
compute the same (under another Python, say) costs one more computation; what might confuse two that differ is refused.
"""

import dis
import functools
import hashlib
import importlib
import site
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)})
_MAPPINGS = (dict, types.MappingProxyType)
_OWN = Path(__file__).resolve().parent
_INSTALLED = tuple(
    Path(folder).resolve()
    for folder in (
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    )
)
_NO_CODE = frozenset(
    {"__doc__", "__module__", "__qualname__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"}
    | {"__annotations__", "__annotations_cache__", "__annotate_func__", "__abstractmethods__", "_abc_impl"}
)
"""What a class holds beside its code; some of it differs between processes."""


class NoFingerprintError(ValueError):
    """Something cannot be read, such as an open file; the message says what and where."""


def fingerprint(value: object) -> str:
    """Return a hash of what ``value`` computes, 64 hexadecimal digits; the same in every process.

    Seen are attributes, tensors, closures, default arguments, and the bytecode of classes and functions with the
    globals that it mentions: what runs, whatever has become of its file. Installed libraries are known by their files'
    hashes alone, and classes of this package by name.

    Raises:
        NoFingerprintError: If something that belongs to it cannot be read.
    """
    return _Walk().digest(value, type(value).__name__).hex()


class _Walk:
    """One walk over all that an object refers to."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[bytes, object]] = {}  # the objects as well: an id is that of a living one
        self._depth = 0

    def digest(self, value: Any, place: str) -> bytes:
        """Return the hash of ``value``, which was found at ``place``."""
        if type(value) in _PLAIN:
            return _hashed([type(value).__name__.encode(), repr(value).encode(errors="backslashreplace")])
        if id(value) not in self._found:
            self._found[id(value)] = (b"circle to level %d" % self._depth, value)
            self._depth += 1
            try:
                found = _hashed(self._parts(value, place))
            except NoFingerprintError:
                raise
            except Exception as error:  # whatever an object raises that is not made to be read
                raise NoFingerprintError(f"{place}: {error}") from error
            self._depth -= 1
            self._found[id(value)] = (found, value)
        return self._found[id(value)][0]

    def _parts(self, value: Any, place: str) -> Iterator[bytes]:
        yield f"{type(value).__module__}.{type(value).__qualname__}".encode()
        if isinstance(value, Tensor):
            yield f"{value.dtype} {tuple(value.shape)}".encode()
            yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            yield f"{value.dtype} {value.shape}".encode()
            yield value.tobytes()
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.CodeType):
            yield from self._code(value, place)
        elif isinstance(value, types.ModuleType):
            yield _library(value.__name__, _file(value)) or self._named(vars(value), value.__name__)
        elif type(value) in (set, frozenset):
            yield from sorted(self.digest(item, place) for item in value)
        elif type(value) in (list, tuple):
            for index, item in enumerate(value):
                yield self.digest(item, f"{place}[{index}]")
        elif type(value) in _MAPPINGS:
            for key, item in value.items():
                yield self.digest(key, place)
                yield self.digest(item, f"{place}.{key}")
        else:
            yield from self._object(value, place)

    def _object(self, value: Any, place: str) -> Iterator[bytes]:
        """Describe an object as ``copy`` and ``pickle`` take it apart."""
        yield self.digest(type(value), place)
        if hasattr(value, "__wrapped__"):  # functools.lru_cache and its like
            yield self.digest(value.__wrapped__, place)
        taken = value.__reduce_ex__(4)
        if isinstance(taken, str):  # a global of this name
            yield taken.encode()
            return
        make, arguments, state, items, pairs = (*taken, None, None, None)[:5]
        yield self.digest(make, place)
        yield self.digest(arguments, place)
        yield self.digest(state, place)
        yield self.digest([*(items or ()), *(pairs or ())], place)

    def _class(self, value: type) -> Iterator[bytes]:
        yield f"{value.__module__}.{value.__qualname__}".encode()
        library = _library(value.__module__, _file(sys.modules.get(value.__module__)))
        if library:
            yield library
            return
        for base in value.__bases__:
            yield self.digest(base, base.__qualname__)
        yield self._named({k: v for k, v in vars(value).items() if k not in _NO_CODE}, value.__qualname__)

    def _named(self, members: dict[str, Any], place: str) -> bytes:
        """Describe the members of a class or module, in the order of their names."""
        parts = []
        for name, member in sorted(members.items()):
            if not (name.startswith("__") and isinstance(member, (types.ModuleType, str, type(None)))):
                parts += [name.encode(), self.digest(_bare(member), f"{place}.{name}")]
        return _hashed(parts)

    def _function(self, value: types.FunctionType) -> Iterator[bytes]:
        code, place = value.__code__, value.__qualname__
        if code.co_filename.startswith("<") and hasattr(value, "__wrapped__"):
            yield self.digest(value.__wrapped__, place)  # generated anew in each process, by a type checker say
            return
        yield place.encode()
        library = _library(value.__module__ or "", code.co_filename)
        if library:  # a decorator, perhaps, that holds a function of the user's
            yield library
        else:
            yield self.digest(code, place)
            yield self.digest((value.__defaults__, value.__kwdefaults__), place)
            for name, mentioned in _mentioned(value):
                yield name.encode()
                yield self.digest(_bare(mentioned), f"{place}: {name}")
        for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
            yield self.digest(cell.cell_contents, f"{place}: {name}")
        yield self.digest({k: v for k, v in vars(value).items() if k != "__wrapped__"}, place)

    def _code(self, value: types.CodeType, place: str) -> Iterator[bytes]:
        """Describe what runs; not where it was written."""
        yield value.co_code
        yield value.co_exceptiontable
        yield repr((value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags)).encode()
        yield repr((value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)).encode()
        for constant in value.co_consts:
            yield self.digest(constant, place)


def _hashed(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def _bare(member: Any) -> Any:
    """Return the functions in a method that is none by itself."""
    if isinstance(member, (staticmethod, classmethod)):
        return member.__func__
    if isinstance(member, property):
        return (member.fget, member.fset, member.fdel)
    return member.func if isinstance(member, functools.cached_property) else member


def _mentioned(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the globals that a function names, through modules of the user's own, and what it imports by itself."""
    names, imports = _names(function.__code__, function.__globals__.get("__package__") or "")
    modules: list[types.ModuleType] = []
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            modules.append(value)
        else:
            yield name, value
    modules += [importlib.import_module(name) for name in sorted(imports)]
    seen: set[str] = set()
    while modules:
        module = modules.pop()
        if module.__name__ in seen:
            continue
        seen.add(module.__name__)
        library = _library(module.__name__, _file(module))
        if library:
            yield module.__name__, library
            continue
        for name in sorted(names & vars(module).keys()):
            value = vars(module)[name]
            if isinstance(value, types.ModuleType):
                modules.append(value)
            else:
                yield f"{module.__name__}.{name}", value


def _names(code: types.CodeType, package: str) -> tuple[set[str], set[str]]:
    """Return the names in a function and in those inside it, and the modules that they import."""
    names, imports = set(code.co_names), set()
    loaded: list[Any] = []
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":  # of so many folders up, which names: loaded just before
            imports.add(resolve_name("." * loaded[-2] + step.argval, package))
        elif step.opname.startswith("LOAD"):
            loaded.append(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner, more = _names(constant, package)
            names, imports = names | inner, imports | more
    return names, imports


def _file(module: types.ModuleType | None) -> str:
    """Return a module's file, or the folder of a package without one; or ``built-in`` or ``frozen``."""
    spec = getattr(module, "__spec__", None)
    return (
        getattr(module, "__file__", None)
        or next(iter(getattr(module, "__path__", ())), None)
        or getattr(spec, "origin", None)
        or ""
    )


@functools.cache
def _library(module: str, file: str) -> bytes:
    """Return a text that changes with an installed library; nothing for code of the user's own."""
    path = Path(file).resolve()
    if path.is_relative_to(_OWN):
        return b"realuid_lightning"
    part_of_python = file == "built-in" or file.startswith(("frozen", "<frozen"))
    if not part_of_python and not any(path.is_relative_to(folder) for folder in _INSTALLED):
        return b""
    package = module.partition(".")[0]
    if not part_of_python and package not in _distributions() and package not in sys.stdlib_module_names:
        return b""  # copied there by hand: nothing tells when it changes
    return _release(package)


@functools.cache
def _release(package: str) -> bytes:
    """Return name and files' hashes of an installed package; the name alone if nothing else is known, as of Python."""
    names = sorted(set(_distributions().get(package, [])))
    records = [metadata.distribution(name).read_text("RECORD") or metadata.version(name) for name in names]
    return package.encode() + b" " + _hashed(record.encode() for record in records)


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())
