"""Words and config files of a command, and clear lines where they are wrong."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

from realuid_lightning.cli.building import origin
from realuid_lightning.errors import UserError
from realuid_lightning.lightning_internals import preferred_classes

HELP = "see realuid COMMAND --help, or --print_config for the whole config"
NOISE = re.compile(
    r"Problem with given class_path|Does not validate|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value"
    rf"|Expected a path but .* either not accessible|Parser key \"(model|data)\":$|{HELP}"
    r"|Subclass types expect one of|a class path \(str\)|a dict with"
)
GROUPS = ("trainer", "model", "data", "grid", "checkpoint", "writer")
"""Groups of options; jsonargparse would take a number or a list for no options at all."""

LONGEST = 300
"""Characters of a line after which it is cut: values can be of any length."""

# jsonargparse hands null of the command line on to a class within a class as the word None.
NONE_MEANT = "where an option may be none, that is null, and for one within a class null in a config, --config FILE"
WHOLE_MEANT = "name one that has all methods of its kind, by class_path: NAME in a config, =NAME on the command line"

IN_PLAIN_WORDS = (
    (r"<class '([\w.]+)'>", r"\1"),
    (r"collections\.abc\.Sequence", "list"),
    (r"a typing\.Literal\[(.*)\]", r"one of \1"),
    (r"^Expected a dot import path string: None$", f"no class None is known; {NONE_MEANT}"),
    (r"^Expected a dot import path string: (.*)", r"no class \1 is known; name it as package.module.Class"),
    (r"^Expected an instantiatable class, but ([\w.]+) is abstract$", rf"\1 is abstract: {WHOLE_MEANT}"),
    (r"^Expected an instantiatable class, but is abstract$", f"an abstract class is named: {WHOLE_MEANT}"),
    (r"^Not a valid subclass of (\w+)$", r"expected class_path: NAME, of the kind \1, and init_args: its options"),
    (r"Expected (an? )?", "expected "),
    (r"\. Got value: ", ", got "),
    (r"Not of type Path: expected .*, not (\w+)", r"expected str, got \1"),
    (r"(required: |, )(fit|validate|test|predict)\.", r"\1"),
    (
        r"(does not accept option 'fid\b.*)",
        r"\1: the options are --features, --metrics, --bounds, --cache and --statistics now, with no fid before them",
    ),
)


class Clear(ArgumentParser):
    """A parser whose errors are a few clear lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as ``UserError``, without usage text."""
        hint = f"see {self.prog} --help" if re.fullmatch(r"realuid \w+", self.prog) else HELP
        raise UserError("\n".join([*clear(message, ex), hint])) from ex


OURS = re.compile(r"realuid_lightning\.(\w+\.)?\w+")
"""Classes that this package offers: by itself, or by one of its rooms."""


def ours_first() -> AbstractContextManager[None]:
    """Let a short name that others bear, too, mean the class of this package: ``MLP`` is also one of torchvision."""
    return preferred_classes(lambda path: OURS.fullmatch(path) is not None)


def clear(message: str, error: BaseException | None = None) -> list[str]:
    """Return the telling lines of jsonargparse's nested messages, each below the option that it is about."""
    lines = [line.strip(" -\t") for line in message.splitlines() if line.strip(" -\t")]
    found: list[str] = []
    option = named = given = ""
    for line in lines:
        header = re.fullmatch(r'Parser key "(.*)":', line)
        problem = re.fullmatch(r"Problem with given class_path '(.*)':", line)
        if header is not None and header[1] not in ("model", "data"):
            option = f"{header[1]}: "
        elif problem is not None:
            named = f"{problem[1]}: "
        elif line.startswith("Given value: ") and not given:
            given = line.removeprefix("Given value: ")
        elif not NOISE.match(line):
            for pattern, plain in IN_PLAIN_WORDS:
                line = re.sub(pattern, plain, line)
            found.append((named if re.search("No module named|has no attribute", line) else "") + line)
    place = origin(error)
    told = _most_telling(found or lines, given)
    if place and place not in told[-1]:
        told[-1] += f" ({place})"
    cut = (f"{line[:LONGEST]}..." if len(line) > LONGEST else line for line in told)
    return [
        f"{option}{line}{'; put it in quotes' if '; put' not in line and 'expected str, got' in line else ''}"
        for line in cut
    ]


def _most_telling(lines: list[str], given: str) -> list[str]:
    """Return the lines that say more than which kinds of values an option takes; those in one line, if all are such."""
    kinds = [line for line in lines if re.fullmatch(r"expected (one of ((?!, got ).)*|[\w.]+)", line)]
    others = [line for line in lines if line not in kinds and "does not correspond to a subclass" not in line]
    if others:
        return list(dict.fromkeys(others))
    alternatives = " or ".join(dict.fromkeys(kind.removeprefix("expected ") for kind in kinds))
    mended = f"; {NONE_MEANT}" * (given == "None")
    return [f"expected {alternatives}, got {given[:80]}{mended}"] if kinds else lines


def check_configs(words: Sequence[str]) -> None:
    """Name the config file that is no YAML, or says what no config can say; jsonargparse names only the line.

    Raises:
        UserError: With the file, and what is wrong where in it.
    """
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, _, attached = word.partition("=")
        file = Path(os.path.expanduser(attached or following))
        if name in ("-c", "--config") and file.is_file():
            try:
                text = file.read_text()
                faults = list(_faults(yaml.compose(text, yaml.SafeLoader)))
                yaml.safe_load(text)
            except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
                raise UserError(f"{file}: no valid YAML: {' '.join(str(error).split())}") from error
            except OSError as error:
                raise UserError(f"{file}: cannot be read: {error.strerror}") from error
            if faults:
                raise UserError("\n".join(f"{file}: {fault}" for fault in faults))


def _faults(document: yaml.Node | None) -> Iterator[str]:
    if not isinstance(document, yaml.MappingNode):
        kind = "nothing" if document is None else "a list" if isinstance(document, yaml.SequenceNode) else "one value"
        yield f"expected options by their names, such as 'trainer: {{max_steps: 100}}', got {kind}"
        return
    for key, _ in document.value:
        if key.tag != "tag:yaml.org,2002:str":
            yield f"expected the name of an option in line {key.start_mark.line + 1}, got {key.value}"
    for key, value in document.value:
        wrong = not isinstance(value, yaml.MappingNode) and value.tag != "tag:yaml.org,2002:str"
        if key.value in GROUPS and wrong:
            yield f"expected {key.value}'s options by their names in line {value.start_mark.line + 1}"
    yield from _repeated(document, [], set())


def _repeated(node: yaml.Node, above: list[yaml.Node], seen: set[int]) -> Iterator[str]:
    """Yield what is named twice, of which YAML would take the last, and what holds itself, without end."""
    if any(node is each for each in above):
        yield f"what begins in line {node.start_mark.line + 1} holds itself"
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, line) != line:
                yield f"{key.value} is given twice, in lines {lines[key.value]} and {line}; leave one of them out"
        parts = [value for _, value in node.value]
    for part in parts:
        yield from _repeated(part, [*above, node], seen)


def at_home(value: Any) -> Any:
    """Return options with the user's home folder for a leading ``~``, which no shell expands after ``=``."""
    if isinstance(value, str):
        return os.path.expanduser(value) if value == "~" or value.startswith("~/") else value
    if isinstance(value, Namespace):
        return Namespace(**{name: at_home(part) for name, part in vars(value).items()})  # type: ignore[no-untyped-call]
    if isinstance(value, dict):
        return {name: at_home(part) for name, part in value.items()}
    return [at_home(part) for part in value] if isinstance(value, list) else value
