"""What a kind of teacher is: how its files are told from others, and how they are read."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from realuid_lightning.checkpoints import DamagedCheckpointError
from realuid_lightning.errors import UserError
from realuid_lightning.importing.stored import Stored, entries_of, is_tensor, open_stored, tensor_of
from realuid_lightning.paths import MatchingPath

T = TypeVar("T")

_DEPTH = 3
"""How deep in dictionaries weights are looked for: RealUID keeps averages in one by decay."""

_WRAPPERS = ("module.", "_orig_mod.")
"""What data-parallel wrappers and torch.compile put before the names of weights."""


class Found(NamedTuple):
    """A teacher, as its file describes it.

    Attributes:
        build: Makes its network.
        path: What the network's time, input and output mean.
        weights: Weights under the keys of that network.
        chosen: Name of the set of weights in the file.
        dropped: Keys that no prediction depends on, with the reason.
    """

    build: Callable[[], nn.Module]
    path: MatchingPath
    weights: Mapping[str, Tensor]
    chosen: str
    dropped: Mapping[str, str] = {}


class Kind(NamedTuple):
    """A row of the table of kinds; a new kind of file or folder is a new row.

    Attributes:
        name: What ``--kind`` calls it.
        what: What it is, for messages.
        options: What the user may tell, since files of this kind do not.
        is_mine: Says whether an origin is of this kind; it changes nothing and refuses nothing.
        read: Reads it.
    """

    name: str
    what: str
    options: frozenset[str]
    is_mine: Callable[["Origin"], bool]
    read: Callable[["Origin", "Told"], Found]


class Told:
    """What the user tells of a file.

    Args:
        given: Options by name; None stands for what is not given.

    Attributes:
        assumed: What has been taken for granted, since neither file nor user told it.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = {name: value for name, value in given.items() if value is not None}
        self.assumed: list[str] = []

    def get(self, name: str, otherwise: T) -> T:
        """Return an option, or what is assumed without it."""
        if name not in self.given:
            self.assumed.append(f"{name} {otherwise}")
        value: T = self.given.get(name, otherwise)
        return value

    def need(self, name: str, why: str) -> Any:
        """Return an option that nothing stands in for.

        Raises:
            UserError: Without it.
        """
        if name not in self.given:
            raise UserError(f"{why}: say --{name}")
        return self.given[name]

    def choose(self, sets: Mapping[str, T]) -> tuple[str, T]:
        """Return the set of weights that ``weights`` names; without it the only one, or the only average.

        Raises:
            UserError: If there is none of that name, or the choice is open.
        """
        names = [self.given["weights"]] if "weights" in self.given else list(sets)
        if len(names) > 1:
            names = [name for name in names if "ema" in name.lower()]
        if len(names) != 1 or names[0] not in sets:
            what = (
                f"there is no {names[0]!r}" if "weights" in self.given else "which one is meant, the file leaves open"
            )
            raise UserError(f"the file has the weights {', '.join(sets)[:300]}, and {what}: say --weights NAME")
        return names[0], sets[names[0]]


class Origin:
    """The file or folder that is imported; it is read when its content is asked for.

    Args:
        path: Where it lies.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def stored(self) -> Stored:
        """The file's content.

        Raises:
            UserError: If it cannot be read, or is a folder.
        """
        return open_stored(self.path)

    @property
    def tree(self) -> Any:
        """What the file holds, as data."""
        return self.stored.tree

    @cached_property
    def sets(self) -> dict[str, dict[str, Any]]:
        """Every set of weights in the file by its name there (``file`` for the file itself), by key, none made."""
        return {name: dict(_unwrapped(part)) for name, part in _sets(self.tree, "", _DEPTH, set())}

    def sets_with(self, key: str) -> dict[str, dict[str, Any]]:
        """Return the sets of weights that have a key; none of a folder."""
        return {} if self.path.is_dir() else {name: each for name, each in self.sets.items() if key in each}

    def made(self, nodes: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return tensors of parts of the tree.

        Raises:
            UserError: If one is malformed, of another kind than numbers with a point, or not finite.
        """
        made = {}
        for key, node in nodes.items():
            try:
                made[key] = tensor_of(node, self.stored)
            except Exception as error:  # whatever a broken or evil file makes a reader raise
                line = next(iter(str(error).splitlines()), type(error).__name__)[:120]
                raise DamagedCheckpointError(f"{self.path}: {key[:200]} cannot be read: {line}") from error
        strange = [key for key, value in made.items() if not (value.is_floating_point() and value.isfinite().all())]
        if strange:
            raise UserError(
                f"{self.path}: expected weights that are finite numbers, but {len(strange)} of {len(made)} are not: "
                f"{', '.join(key[:200] for key in strange[:3])}; look at the run that wrote it"
            )
        return made

    def sha256(self) -> str:
        """Return the file's hash; of a folder, that of its files' hashes in the order of their names."""
        if not self.path.is_dir():
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        parts = sorted(each for each in self.path.rglob("*") if each.is_file())
        hashes = [f"{each.relative_to(self.path).as_posix()} {Origin(each).sha256()}\n" for each in parts]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _sets(node: Any, name: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the dictionaries of tensors in a tree, each once, by the names under which they lie."""
    entries = entries_of(node)
    if id(entries) in seen:
        return
    seen.add(id(entries))
    if entries and all(isinstance(key, str) for key in entries) and any(map(is_tensor, entries.values())):
        yield name or "file", {key: value for key, value in entries.items() if is_tensor(value)}
    elif depth:
        for key, value in entries.items():
            yield from _sets(value, f"{name}.{key}" if name else str(key), depth - 1, seen)


def _unwrapped(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    pattern = re.compile(f"({'|'.join(map(re.escape, _WRAPPERS))})+")
    for key, value in entries.items():
        found = pattern.match(key)
        yield key[found.end() :] if found else key, value


def shape_of(weights: Mapping[str, Tensor], key: str, dimensions: int) -> torch.Size:
    """Return the shape of a weight from which an argument of the network follows.

    Raises:
        UserError: If there is none of that key and number of dimensions.
    """
    if key not in weights or weights[key].ndim != dimensions:
        raise UserError(f"expected a weight {key} of {dimensions} dimensions, by which the architecture is told")
    return weights[key].shape
