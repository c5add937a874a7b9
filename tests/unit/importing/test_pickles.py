"""Pickles are read as data: nothing that they call is called, and nothing that they ask for is allocated."""

import copyreg
import datetime
import fractions
import io
import pickle
import pickletools
import struct
import tracemalloc
from collections import OrderedDict
from typing import Any

import pytest

from realuid_lightning.importing import pickles
from realuid_lightning.importing.pickles import Call, Name, Reference, read_pickle


def read(program: bytes) -> Any:
    return read_pickle(io.BytesIO(program))


# --------------------------------------------------------------------------------------------------- what is plain

PLAIN = [
    *(
        None,
        True,
        False,
        0,
        255,
        65_535,
        -1,
        2**31,
        2**200,
        1.5,
        float("inf"),
        "text",
        "\u00e9\ud83d\ude00" * 200,
        b"bytes" * 100,
    ),
    *(
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        [],
        [1, [2]],
        {},
        {"a": {1: None}},
        {True: 0, None: 1, b"x": 2, 1.5: 3},
    ),
    [{"a": (1, "b"), "c": [b"d", 2.5]}] * 3,
    bytearray(b"xy"),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", PLAIN[:-1])
def test_plain_values_are_themselves(value: Any, protocol: int) -> None:
    found = read(pickle.dumps(value, protocol))
    if isinstance(value, bytes) and protocol < 3:  # there is no instruction for them, but a call
        assert found.calls("_codecs.encode")
    elif not (isinstance(value, (dict, list)) and protocol < 3):
        assert found == value
        assert type(found) is type(value)


def test_sets_are_lists_and_one_object_stays_one() -> None:
    shared = [1]
    found = read(pickle.dumps([shared, shared, {3}, frozenset([4])], 4))
    assert found == [[1], [1], [3], [4]]
    assert found[0] is found[1]


def test_containers_may_hold_themselves() -> None:
    ring: list[Any] = []
    ring.append(ring)
    found = read(pickle.dumps(ring))
    assert found[0] is found


def test_two_pickles_in_a_row() -> None:
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps("two"))
    assert [read_pickle(stream), read_pickle(stream)] == [1, "two"]


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_what_they_would_be_made_of(protocol: int) -> None:
    found = read(pickle.dumps(OrderedDict(a=1, b=[2]), protocol))
    assert found.calls("collections.OrderedDict")
    if protocol >= 2:
        assert found.entries == {"a": 1, "b": [2]}
    moment = read(pickle.dumps(datetime.date(2026, 1, 2), protocol))
    assert moment.calls("datetime.date")
    assert read(pickle.dumps(datetime.date, protocol)) == Name("datetime", "date")


class Slotted(list[int]):
    """A list with attributes, made by its class alone."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return copyreg.__newobj__, (Slotted,), {"name": "x"}, iter([1, 2]), iter([("k", "v")])  # type: ignore[attr-defined]

    def __setitem__(self, key: Any, value: Any) -> None: ...


def test_attributes_members_and_entries_are_kept_apart() -> None:
    found = read(pickle.dumps(Slotted(), 4))
    assert (found.state, found.members, found.entries) == ({"name": "x"}, [1, 2], {"k": "v"})
    assert found.function.name == "Slotted"


# ------------------------------------------------------------------------------------------------ what is never run


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def touch(file: Any) -> dict[str, bytes]:
    """A program for every instruction that calls, imports or asks; each would make ``file``."""
    path, state = text(str(file)), b"}(" + text("file") + text(str(file)) + b"u"
    touched = f"{__name__}\nspring\n".encode()
    loaded = f"{__name__}\nSpring\n".encode()
    return {
        "REDUCE": b"c" + touched + path + b"\x85R.",
        "REDUCE of STACK_GLOBAL": b"\x80\x04" + text(__name__) + text("spring") + b"\x93" + path + b"\x85R.",
        "REDUCE of a dotted name": b"\x80\x04" + text(__name__) + text("Spring.spring") + b"\x93" + path + b"\x85R.",
        "REDUCE of os.system": b"cos\nsystem\n" + text(f"touch {file}") + b"\x85R.",
        "REDUCE of eval": b"cbuiltins\neval\n" + text(f"open({str(file)!r}, 'w')") + b"\x85R.",
        "INST": b"(" + path + b"i" + touched + b".",
        "OBJ": b"(c" + touched + path + b"o.",
        "NEWOBJ": b"c" + loaded + path + b"\x85\x81.",
        "NEWOBJ_EX": b"c" + loaded + b")" + state + b"\x92.",
        "BUILD with __setstate__": b"c" + loaded + b")\x81" + state + b"b.",
        "BUILD of a plain object": b"c" + loaded + b")\x81N" + state + b"\x86b.",
        "APPEND": b"c" + loaded + b")\x81" + path + b"a.",
        "APPENDS": b"c" + loaded + b")\x81(" + path + b"e.",
        "ADDITEMS": b"c" + loaded + b")\x81(" + path + b"\x90.",
        "SETITEM": b"c" + loaded + b")\x81" + path + path + b"s.",
        "SETITEMS": b"c" + loaded + b")\x81(" + path + path + b"u.",
        "a key that hashes": b"}c" + loaded + path + b"\x85\x81Ns.",
        "EXT1": b"\x82\x01" + path + b"\x85R.",
        "EXT2": b"\x83\x01\x01" + path + b"\x85R.",
        "EXT4": b"\x84\x01\x01\x01\x00" + path + b"\x85R.",
        "PERSID": b"P" + str(file).encode() + b"\n.",
        "BINPERSID": path + b"Q.",
        "GLOBAL of a module that runs": b"cthis\ns\n.",
        "GLOBAL of a name in a name": f"c{__name__}\nspring.__globals__\n.".encode(),
    }


def spring(file: str) -> None:
    open(file, "w").close()


class Spring(list[Any]):
    """Springs at whatever is done with it."""

    def __new__(cls, *words: Any, **options: Any) -> Any:
        for file in (*words, *options.values()):
            spring(file)
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        spring(state["file"])

    def append(self, file: Any) -> None:
        spring(file)

    def extend(self, files: Any) -> None:
        spring(*files)

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        spring(value)

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("code", touch("x"))
def test_nothing_is_called_whatever_the_instruction(code: str, tmp_path: Any, capsys: Any) -> None:
    extensions = {0x01: spring, 0x101: spring, 0x10101: spring}
    copyreg._extension_cache.update(extensions)  # type: ignore[attr-defined]
    try:
        program = touch(tmp_path / "sprung")[code]
        names = {step.name for step, *_ in pickletools.genops(program)}
        assert code.split()[0] in names | {"a", "REDUCE"}
        found = read(program)
    finally:
        for key in extensions:
            del copyreg._extension_cache[key]  # type: ignore[attr-defined]
    assert isinstance(found, (Call, Name, Reference, dict))
    assert not (tmp_path / "sprung").exists()
    assert capsys.readouterr().out == ""  # nor is a module imported that prints


def test_python_itself_would_run_them(tmp_path: Any) -> None:
    """The programs above do what they say: those of the calls, at least."""
    for code in ("REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD with __setstate__", "APPEND", "SETITEMS"):
        pickle.loads(touch(tmp_path / code.replace(" ", ""))[code])
        assert (tmp_path / code.replace(" ", "")).exists(), code


def test_every_instruction_of_pickle_is_known_or_refused() -> None:
    refused = {"NEXT_BUFFER", "READONLY_BUFFER"}
    known = pickles._VALUES | pickles._LITERALS.keys() | pickles._STEPS.keys() | pickles._STEPS_WITH.keys() | {"STOP"}
    assert {code.name for code in pickletools.opcodes} == known | refused
    with pytest.raises(ValueError, match="NEXT_BUFFER, which no file of weights needs"):
        read(b"\x80\x05\x97.")


# ---------------------------------------------------------------------------------------------- what is not believed

BOMBS = {
    "a text of 4 GB": b"X\xff\xff\xff\xffabc",
    "a text of 2**62": b"\x8d" + struct.pack("<Q", 2**62) + b"abc",
    "a text of more than all memory": b"\x8d" + b"\xff" * 8 + b"abc",
    "bytes of 4 GB": b"B\xff\xff\xff\xffabc",
    "bytes of 2**62": b"\x8e" + struct.pack("<Q", 2**62) + b"abc",
    "a byte array of 2**62": b"\x96" + struct.pack("<Q", 2**62) + b"abc",
    "an integer of 2 GB": b"\x8b\xff\xff\xff\x7fabc",
    "an integer of negative length": b"\x8b\xff\xff\xff\xffabc",
    "a text of negative length": b"T\xff\xff\xff\xffabc",
    "a frame of 2**62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N",
    "an integer of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "a place in memory of a million digits": b"Np" + b"9" * 1_000_000 + b"\n.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_lengths_that_are_declared_are_not_allocated(bomb: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"."):
            read(BOMBS[bomb])
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_far_place_in_the_memo_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        assert read(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff.") is None  # Python's own would take 64 GB
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_number_of_instructions_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(pickles, "MOST_STEPS", 1000)
    read(b"}" * 999 + b".")
    with pytest.raises(ValueError, match="more than 1000 instructions"):
        read(b"}" * 1001 + b".")


def test_deep_nests_neither_overflow_the_stack_nor_are_hashed() -> None:
    deep = b")" + b"\x85" * 200_000
    tower = read(deep + b".")
    assert isinstance(tower, tuple)
    assert read(b"}" + deep + b"Ns.") == {}  # as a key: left out
    del tower
    nest = read(b"]" * 100_000 + b"a" * 99_999 + b".")
    assert len(nest) == 1


def test_doubling_takes_no_memory() -> None:
    """Each level holds the one below twice: 2**60 leaves, and 60 tuples."""
    read(b")" + b"2\x86" * 60 + b".")


MALFORMED = {
    "nothing": b"",
    "no end": b"N",
    "an empty stack": b".",
    "no mark": b"t.",
    "too few for a call": b"NR.",
    "too few for a tuple": b"N\x87.",
    "an odd number of keys": b"}(NNNu.",
    "append to a number": b"K\x01K\x02a.",
    "a key for a list": b"]NNs.",
    "what was never kept": b"h\x05.",
    "a name that is no text": b"\x80\x04NN\x93.",
    "an unknown instruction": b"\xff.",
    "no number": b"Iabc\n.",
    "no float": b"Fabc\n.",
    "no unicode": b"X\x02\x00\x00\x00\xff\xfe.",
    "a protocol alone": b"\x80\x09",
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_what_is_malformed_is_a_value_error(fault: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(MALFORMED[fault])


def test_any_cut_is_a_value_error() -> None:
    whole = pickle.dumps({"a": [1, (2.5, "text"), fractions.Fraction(1, 3)], "b": OrderedDict(c=b"bytes")})
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"."):
            read(whole[:length])


def test_no_changed_byte_is_anything_but_a_value_error() -> None:
    whole = pickle.dumps({"a": [1, (2.5, "text")], "b": OrderedDict(c=b"bytes")}, 2)
    for place in range(len(whole)):
        for byte in range(0, 256, 5):
            try:
                read(whole[:place] + bytes([byte]) + whole[place + 1 :])
            except ValueError:
                continue
