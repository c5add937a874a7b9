"""Pickles read as data: what a file would call is written down, and nothing is called.

A pickle is a program for a small stack machine. Python's own machine imports the functions that the program names and
calls them; the one here keeps their names and arguments (``Call``), so no file can make it run anything.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

MOST_STEPS = 5_000_000
"""Most instructions of one pickle: a byte can ask for a container, so memory is bounded by their number."""

_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"})
_VALUES |= {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_VALUES |= {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}


class Name(NamedTuple):
    """A function or class that a pickle names; it is not looked up."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The two in one, such as ``collections.OrderedDict``."""
        return f"{self.module}.{self.name}"


class Reference(NamedTuple):
    """What a pickle leaves to its reader: the storage of a tensor, in files of torch."""

    of: Any


class Call:
    """An object that a pickle would have made by calling something.

    Attributes:
        function: What it would have called: a ``Name``, or whatever else the file has put there.
        arguments: With which arguments.
        state: What it would have set its attributes from; None without any.
        entries: What it would have put into the object as into a dictionary.
        members: What it would have appended or added to it.
    """

    __slots__ = ("arguments", "entries", "function", "members", "state")

    def __init__(self, function: Any, arguments: Any) -> None:
        self.function, self.arguments = function, arguments
        self.state: Any = None
        self.entries: dict[Any, Any] = {}
        self.members: list[Any] = []

    def calls(self, path: str) -> bool:
        """Say whether it calls what is called so."""
        return isinstance(self.function, Name) and self.function.path == path


def read_pickle(stream: BinaryIO) -> Any:
    """Return the object of a pickle as data; the stream then stands behind it.

    Numbers, texts, bytes, lists, tuples and dictionaries are themselves, sets are lists, all else is a ``Call``, a
    ``Name`` or a ``Reference``. Entries of dictionaries whose keys are no plain values are left out: to hash a
    stranger's tuples takes as long, and as much stack, as he likes. Containers may hold themselves.

    Args:
        stream: Binary, and best one whose ``read`` takes no memory ahead, as ``mmap`` and ``io.BytesIO``.

    Raises:
        ValueError: If it is cut off, malformed, or longer than ``MOST_STEPS`` instructions.
    """
    return _Machine().run(stream)


class _Machine:
    """The stack machine of a pickle, whose calls write down."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks beneath marks
        self.memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> Any:
        try:
            for steps, (code, argument, _) in enumerate(pickletools.genops(stream)):
                if steps >= MOST_STEPS:
                    raise ValueError(f"it has more than {MOST_STEPS} instructions")
                if code.name == "STOP":
                    return self.stack.pop()
                self.step(code.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"it is malformed ({type(error).__name__})") from error
        raise ValueError("it has no end")  # genops ends with STOP, or raises

    def step(self, code: str, argument: Any) -> None:
        if code in _VALUES:
            self.push(argument)
        elif code in _LITERALS:
            self.push(_LITERALS[code])
        elif code in _STEPS:
            _STEPS[code](self)
        elif code in _STEPS_WITH:
            _STEPS_WITH[code](self, argument)
        else:
            raise ValueError(f"it uses {code}, which no file of weights needs")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def take(self, count: int) -> tuple[Any, ...]:
        """Take the uppermost objects."""
        if len(self.stack) < count:
            raise IndexError
        above = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return above

    # ------------------------------------------------------------------------------------------------- containers

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def fill(self, pairs: list[Any]) -> None:
        """Put keys and values into the uppermost object."""
        holder = self.stack[-1]
        target = holder.entries if isinstance(holder, Call) else holder
        if not isinstance(target, dict):
            raise TypeError
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if key is None or isinstance(key, (str, bytes, int, float)):
                target[key] = value

    def extend(self, members: list[Any]) -> None:
        """Append to the uppermost object, or add."""
        holder = self.stack[-1]
        target = holder.members if isinstance(holder, Call) else holder
        if not isinstance(target, list):
            raise TypeError
        target += members

    def make_dict(self) -> None:
        pairs = self.marked()
        self.push({})
        self.fill(pairs)

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    # ------------------------------------------------------------------------------------------------------ calls

    def call(self) -> None:
        self.push(Call(*self.take(2)))

    def call_with_keywords(self) -> None:
        function, arguments, keywords = self.take(3)
        self.push(Call(function, (arguments, keywords)))

    def call_marked(self) -> None:
        function, *arguments = self.marked()
        self.push(Call(function, tuple(arguments)))

    def call_named(self, name: str) -> None:
        self.push(Call(_named(name), tuple(self.marked())))

    def build(self) -> None:
        holder, state = self.take(2)
        if isinstance(holder, Call):  # of plain containers and names, nothing has attributes
            holder.state = state
        self.push(holder)

    def name(self) -> None:
        module, name = self.take(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError
        self.push(Name(module, name))


def _named(words: str) -> Name:
    """Return what one argument names: module and name, between them a space."""
    module, _, name = words.partition(" ")
    return Name(module, name)


_STEPS: dict[str, Callable[[_Machine], Any]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.marked,
    "DUP": lambda it: it.push(it.stack[-1]),
    "MEMOIZE": lambda it: it.memo.__setitem__(len(it.memo), it.stack[-1]),
    "EMPTY_LIST": lambda it: it.push([]),
    "EMPTY_SET": lambda it: it.push([]),
    "EMPTY_TUPLE": lambda it: it.push(()),
    "EMPTY_DICT": lambda it: it.push({}),
    "TUPLE1": lambda it: it.push(it.take(1)),
    "TUPLE2": lambda it: it.push(it.take(2)),
    "TUPLE3": lambda it: it.push(it.take(3)),
    "TUPLE": lambda it: it.push(tuple(it.marked())),
    "LIST": lambda it: it.push(it.marked()),
    "FROZENSET": lambda it: it.push(it.marked()),
    "DICT": _Machine.make_dict,
    "APPEND": lambda it: it.extend([*it.take(1)]),
    "APPENDS": lambda it: it.extend(it.marked()),
    "ADDITEMS": lambda it: it.extend(it.marked()),
    "SETITEM": lambda it: it.fill([*it.take(2)]),
    "SETITEMS": lambda it: it.fill(it.marked()),
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "OBJ": _Machine.call_marked,
    "BUILD": _Machine.build,
    "BINPERSID": lambda it: it.push(Reference(*it.take(1))),
}
_STEPS_WITH: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda _, __: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda it, at: it.memo.__setitem__(at, it.stack[-1])),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda it, at: it.push(it.memo[at])),
    # Short for a name that a table of the reading program would hold.
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda it, at: it.push(Name("extension", str(at)))),
    "GLOBAL": lambda it, words: it.push(_named(words)),
    "INST": _Machine.call_named,
    "PERSID": lambda it, of: it.push(Reference(of)),
}
