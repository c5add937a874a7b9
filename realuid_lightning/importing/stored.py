"""Files of other projects: what they hold as data, and their tensors, which are made when they are asked for."""

import io
import math
import mmap
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from realuid_lightning.checkpoints import DamagedCheckpointError, read_checkpoint
from realuid_lightning.checkpoints.files import refuse_packed
from realuid_lightning.errors import UserError
from realuid_lightning.importing.pickles import Call, Name, Reference, read_pickle

_STORAGES = {
    "HalfStorage": torch.float16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_LEGACY = 0x1950A86A20F9469CFC6C
"""What a file of torch before 1.6 begins with, and so does a storage inside a pickle."""


class Stored(NamedTuple):
    """A file's content.

    Attributes:
        tree: What the pickle holds (see ``read_pickle``), or tensors by name.
        storage: Returns the bytes of a storage by its key, for files that keep them apart from the pickle.
    """

    tree: Any
    storage: Callable[[str], Any]


def open_stored(path: Path) -> Stored:
    """Read a file as data, whoever wrote it: ``.safetensors``, ``torch.save`` of any version, or a pickle.

    Raises:
        DamagedCheckpointError: If the file is empty, cut off or of another format.
        UserError: If it is missing.
    """
    if path.suffix == ".safetensors":
        return Stored(read_checkpoint(path), _nothing)
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "there is no such file"
        raise UserError(f"{path}: expected a file of weights, but {found}; check the path")
    if path.stat().st_size == 0:
        raise DamagedCheckpointError(f"{path}: expected weights, but the file is empty; copy or download it again")
    try:
        if zipfile.is_zipfile(path):
            return _open_archive(path)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _open_stream(cast(BinaryIO, content))
    except Exception as error:  # whatever a broken or evil file makes a reader raise
        line = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        raise DamagedCheckpointError(
            f"{path}: expected a pickle, or what torch.save wrote, but it is cut off or of another format ({line}); "
            "copy or download it again"
        ) from error


def entries_of(node: Any) -> dict[Any, Any]:
    """Return what a dictionary, or an object of a class made from one, holds; nothing of all else."""
    return node.entries if isinstance(node, Call) else node if isinstance(node, dict) else {}


def is_tensor(node: Any) -> bool:
    """Say whether a part of a file's tree stands for a tensor, without making it."""
    node = _bare(node)
    return isinstance(node, Tensor) or (isinstance(node, Call) and node.calls("torch._utils._rebuild_tensor_v2"))


def tensor_of(node: Any, stored: Stored) -> Tensor:
    """Return the tensor that a part of a file's tree stands for (``is_tensor``), without copying its numbers.

    Raises:
        ValueError: If it claims more than its storage holds, or is no dense tensor of plain numbers.
    """
    node = _bare(node)
    if isinstance(node, Tensor):
        return node
    if not (is_tensor(node) and isinstance(node.arguments, tuple) and len(node.arguments) >= 4):
        raise ValueError("something is no tensor")
    storage, offset, shape, strides = node.arguments[:4]
    for sizes in ((offset,), shape, strides):
        if not (isinstance(sizes, tuple) and all(type(size) is int and 0 <= size < 2**62 for size in sizes)):
            raise ValueError("the shape of a tensor is malformed")
    flat, numbers = _flat(storage, stored), math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if numbers > len(flat) or (numbers > 0 and last >= len(flat)):
        raise ValueError(f"a tensor of shape {shape} claims more than its storage holds")
    return flat.as_strided(shape, strides, offset) if numbers else flat.new_empty(shape)


def _bare(node: Any) -> Any:
    """Return a parameter's tensor, or what else there is."""
    is_parameter = isinstance(node, Call) and node.calls("torch._utils._rebuild_parameter")
    return node.arguments[0] if is_parameter and isinstance(node.arguments, tuple) and node.arguments else node


def _nothing(key: str) -> Any:
    raise ValueError(f"there is no storage {key}")


# ------------------------------------------------------------------------------------------------------------ formats


def _open_archive(path: Path) -> Stored:
    """Read what torch.save writes since 1.6: a pickle, and a file for each storage."""
    refuse_packed(path)
    with zipfile.ZipFile(path) as archive:
        (pickle,) = [name for name in archive.namelist() if name.endswith("/data.pkl")] or [""]
        if not pickle:
            raise ValueError("an archive without data.pkl")
        folder = pickle.removesuffix("data.pkl")
        tree = read_pickle(io.BytesIO(archive.read(pickle)))
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in archive.namelist() else b"little"
    _refuse_big_endian(order == b"little")
    storages: dict[str, bytes] = {}

    def storage(key: str) -> bytes:
        if key not in storages:
            with zipfile.ZipFile(path) as archive:
                storages[key] = archive.read(f"{folder}data/{key}")
        return storages[key]

    return Stored(tree, storage)


def _open_stream(stream: BinaryIO) -> Stored:
    """Read a pickle, or what torch.save wrote before 1.6: five pickles, then the storages."""
    first = read_pickle(stream)
    if first != _LEGACY:
        return Stored(first, _nothing)
    _, about, tree, keys = (read_pickle(stream) for _ in range(4))
    _refuse_big_endian(bool(entries_of(about).get("little_endian", True)))
    # Each storage: the number of its elements, of a size that only its users know, then these.
    rest, at, sizes = stream.read(), 0, _element_sizes(tree)
    storages: dict[str, memoryview] = {}
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise ValueError("its list of storages is malformed")
    for key in keys:
        count = int.from_bytes(rest[at : at + 8], "little") * sizes.get(key, 1)
        storages[key] = memoryview(rest)[at + 8 : at + 8 + count]
        if len(storages[key]) < count:
            raise ValueError("its storages are cut off")
        at += 8 + count
    return Stored(tree, lambda key: storages[key])


def _element_sizes(tree: Any) -> dict[str, int]:
    """Return the size of an element of every storage that a tree refers to, in bytes."""
    sizes: dict[str, int] = {}
    waiting, seen = [tree], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Reference):
            kind, key = _storage_of(node)
            sizes[key] = kind.itemsize
        elif isinstance(node, Call):
            waiting += [node.arguments, node.state, node.entries, node.members]
        elif isinstance(node, (dict, list, tuple)):
            waiting += node.values() if isinstance(node, dict) else node
    return sizes


def _refuse_big_endian(little: bool) -> None:
    if not little:
        raise ValueError("its numbers are of big-endian byte order; save it anew on a usual machine")


# ----------------------------------------------------------------------------------------------------------- storages


def _storage_of(reference: Reference) -> tuple[torch.dtype, str]:
    """Return the kind of numbers and the key that a reference to a storage names."""
    about = reference.of
    if not (isinstance(about, tuple) and len(about) >= 3 and about[0] == "storage" and isinstance(about[2], str)):
        raise ValueError("it refers to something that is no storage of a tensor")
    if any(more is not None for more in about[5:]):
        raise ValueError("a storage that is part of another one is not known")
    kind = about[1]
    if not (isinstance(kind, Name) and kind.module in ("torch", "torch.storage") and kind.name in _STORAGES):
        raise ValueError(f"a storage of kind {kind.path if isinstance(kind, Name) else '?'} is not known")
    return _STORAGES[kind.name], about[2]


def _flat(node: Any, stored: Stored) -> Tensor:
    """Return all numbers of a storage, in one dimension."""
    if isinstance(node, Call) and node.calls("torch.storage._load_from_bytes"):  # a file of torch inside the pickle
        (content,) = node.arguments
        if not isinstance(content, bytes):
            raise ValueError("a storage without bytes")
        stored = _open_stream(io.BytesIO(content))
        node = stored.tree
    if not isinstance(node, Reference):
        raise ValueError("a tensor without a storage")
    kind, key = _storage_of(node)
    numbers = stored.storage(key)
    if len(numbers) % kind.itemsize:
        raise ValueError(f"storage {key} is cut off")
    if not len(numbers):
        return torch.empty(0, dtype=kind)
    with warnings.catch_warnings():  # that it must not be written to, and nobody does
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(numbers, dtype=kind)
