"""What lies where in the tar archives of WebDataset: read once, and nothing unpacked or unpickled."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from realuid_lightning.data.files import EXTENSIONS, regular
from realuid_lightning.errors import UserError, printable

PICKLES = frozenset({"pickle", "pkl", "pt", "pth", "pyd", "ckpt", "joblib"})
"""Last parts of names whose content is made to be unpickled."""

_BLOCK = 512
_LONGEST = 32
"""Bytes of a class label, with its white space."""


class Entry(NamedTuple):
    """One sample of an archive.

    Attributes:
        key: Its name: that of its members up to the first dot.
        spans: Offset and size of each member's content, by the rest of the name: ``jpg``, ``cls``, ``text.npy``.
        label: What the member ``cls`` says; None without one.
    """

    key: str
    spans: dict[str, tuple[int, int]]
    label: int | None

    @property
    def image(self) -> list[str]:
        """The members that are images by their names."""
        return [kind for kind in self.spans if f".{kind.rpartition('.')[2]}" in EXTENSIONS]


def entries(archive: Path) -> list[Entry]:
    """Return the samples of an archive in the order of their first members.

    Raises:
        UserError: If it is no uncompressed tar archive, is cut off, holds pickles or sparse files, or names a member
            twice.
    """
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    labels: dict[str, int] = {}
    try:
        size = archive.stat().st_size
        with regular(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                if not member.isreg() or name.startswith((".", "__")):
                    continue
                key, _, kind = name.partition(".")
                key, kind = f"{folder}/{key}" if folder else key, kind.lower()
                _check(archive, member, kind, size)
                if kind in spans.setdefault(key, {}):
                    raise _fault(archive, f"names {member.name!r} twice: pack it anew")
                spans[key][kind] = member.offset_data, member.size
                if kind == "cls":
                    labels[key] = _label(archive, member.name, _content(tar, member))
            end = tar.offset
        with regular(archive) as file:
            file.seek(end)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise _fault(archive, f"is cut off or damaged at byte {end}: copy it again")
    except UserError:
        raise
    except Exception as error:  # whatever a broken archive makes tarfile raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _fault(archive, f"cannot be read as an uncompressed tar archive ({reason}): copy or unpack it") from error
    return [Entry(key, found, labels.get(key)) for key, found in spans.items()]


def _check(archive: Path, member: tarfile.TarInfo, kind: str, size: int) -> None:
    if kind.rpartition(".")[2] in PICKLES:
        raise _fault(archive, f"holds {member.name!r}, a pickle, and nothing is unpickled: pack tensors as .npy")
    if member.issparse() or any(sign in member.name for sign in ("\n", "\0")):
        raise _fault(archive, f"holds {member.name!r}, a sparse file or a name of several lines: pack it anew")
    if member.offset_data + member.size > size:
        raise _fault(archive, f"is cut off in {member.name!r}: copy it again")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read(_LONGEST + 1)


def _label(archive: Path, name: str, content: bytes) -> int:
    text = content.strip()
    if len(content) > _LONGEST or not text.isdigit() or len(text) > 9:
        raise _fault(archive, f"{name!r} must hold a class, a number from 0, got {content[:40]!r}")
    return int(text)


def _fault(archive: Path, what: str) -> UserError:
    return UserError(f"Shards: {archive} {printable(what)}")


def content(archive: Path, span: tuple[int, int]) -> bytes:
    """Return the content of a member.

    Raises:
        OSError: If the archive is gone, or shorter than it was.
    """
    offset, size = span
    with regular(archive) as file:
        found = os.pread(file.fileno(), size, offset)
    if len(found) != size:
        raise OSError(f"{archive} is shorter than it was")
    return found


def tensor(content: bytes) -> Tensor:
    """Return the tensor of a ``.npy`` member.

    Raises:
        ValueError: If it is broken, or holds objects.
    """
    array: Any = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return torch.from_numpy(np.ascontiguousarray(array)).clone()


def written(archive: str, entry: Entry, kinds: list[str]) -> str:
    """Return where members of a sample are as a text, which ``parsed`` takes apart."""
    spans = ",".join(f"{kind}={entry.spans[kind][0]}+{entry.spans[kind][1]}" for kind in kinds)
    return f"{archive}:{entry.key}:{spans}"


def parsed(text: str) -> tuple[str, str, list[tuple[int, int]]]:
    """Return archive, key and spans of what ``written`` returned."""
    head, _, spans = text.rpartition(":")
    archive, _, key = head.partition(".tar:")
    return f"{archive}.tar", key, [_span(each.rpartition("=")[2]) for each in spans.split(",")]


def _span(text: str) -> tuple[int, int]:
    offset, _, size = text.partition("+")
    return int(offset), int(size)


def archives(pattern: Path) -> Iterator[Path]:
    """Yield the archives that a pattern means, in order: ``*`` and ``?`` as in a shell, ``{0000..0127}`` all of these.

    Raises:
        UserError: If there are none, one of a range is missing, or one is no ``.tar`` file.
    """
    found: list[Path] = []
    for each in _ranges(str(pattern)):
        some = sorted(Path(each).parent.glob(Path(each).name)) if any(sign in each for sign in "*?[") else [Path(each)]
        if not some or not all(path.is_file() for path in some):
            raise UserError(f"Shards: pattern must name archives, but there is no {each}")
        found += some
    strange = [path for path in found if path.suffix != ".tar"]
    if strange:
        raise UserError(f"Shards: expected uncompressed archives, .tar, got {strange[0]}: unpack it, or pack it anew")
    yield from found


def _ranges(text: str) -> Iterator[str]:
    """Yield the text with each number of its range in place of ``{0000..0127}``; itself without one."""
    before, opening, rest = text.partition("{")
    span, closing, after = rest.partition("}")
    first, dots, last = span.partition("..")
    if not (opening and closing and dots and first.isdecimal() and last.isdecimal()) or len(last) > 7:
        yield text
        return
    for number in range(int(first), int(last) + 1):
        yield f"{before}{number:0{len(first)}}{after}"
