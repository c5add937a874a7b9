"""``realuid init``: the configs that come with the package, copied to be edited."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import realuid_lightning
from realuid_lightning.atomic import replacing
from realuid_lightning.cli.parsing import Clear
from realuid_lightning.errors import UserError

FOLDER = Path("configs")
"""Where configs are copied to, below the current folder; their run folders are named after their place in it."""

RUN = re.compile(r"\bruns/(\S+)/checkpoints/")
"""A checkpoint of the run of another config."""

NAMED = re.compile(r"--config configs/(\S+)\.yaml")
"""A config in a command."""


def init(words: Sequence[str]) -> None:
    """Copy a config, with those whose runs it begins with; without a name, print them all.

    Raises:
        UserError: If there is no such config, or a file of another content is there already.
    """
    name = parser_of().parse_args(list(words)).name
    if name is None:
        found = {each: _title(_file(each)) for each in names()}
        width = max(map(len, found))
        print("\n".join(f"{each:{width}}  {title}".rstrip() for each, title in found.items()))
        return
    chosen = list(dict.fromkeys(_with_needed(_known(name))))
    texts = {FOLDER / f"{each}.yaml": _file(each).read_text() for each in chosen}
    _refuse_changed(texts)
    for target, text in texts.items():
        if target.is_file():
            print(f"{target}: there already")
            continue
        with replacing(target) as file:
            file.write_text(text)
        print(f"{target}: written")
    print("\n".join(line for text in texts.values() for line in _commands(text)))


def parser_of() -> Clear:
    """Return the parser of the command."""
    parser = Clear(prog="realuid init", description="Copy a config of this package into configs, to be edited.")
    parser.add_argument("name", type=str, nargs="?", help="such as cifar_uncond or demo/distil; without it, a list")
    return parser


def names() -> list[str]:
    """Return the names of all configs that come with the package, those of one folder together."""
    found = [file.relative_to(_home()).with_suffix("").as_posix() for file in _home().rglob("*.yaml")]
    return sorted(found, key=lambda name: ("/" in name, name))


def _home() -> Path:
    """Return the folder of configs: within the package where that is installed from a wheel, beside it in a clone."""
    package = Path(realuid_lightning.__file__).parent
    return next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())


def _file(name: str) -> Path:
    return _home() / f"{name}.yaml"


def _known(name: str) -> str:
    """Return the name of a config, which may have been given as that of its file."""
    plain = name.removeprefix("configs/").removesuffix(".yaml")
    if plain in names():
        return plain
    near = ", ".join(each for each in names() if plain and plain in each)
    raise UserError(
        f"init: no config is named {name}; {f'there are {near}' if near else 'realuid init lists them all'}"
    )


def _with_needed(name: str) -> Iterator[str]:
    """Yield the configs that a config begins with or its commands name, in the order of running, and itself."""
    text = _file(name).read_text()
    for needed in [*RUN.findall(text), *NAMED.findall(" ".join(_commands(text)))]:
        if needed != name and _file(needed).is_file():  # a sweep's folder bears no config's name; the commands tell it
            yield from _with_needed(needed)
    yield name


def _title(file: Path) -> str:
    """Return the first line of a config's header."""
    first = file.read_text().partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _commands(text: str) -> list[str]:
    """Return the commands that a config's header names."""
    return re.findall(r"^# Run: +(realuid .*?)(?: \[.*)?$", text, flags=re.MULTILINE)


def _refuse_changed(texts: dict[Path, str]) -> None:
    changed = [str(target) for target, text in texts.items() if target.exists() and target.read_text() != text]
    if changed:
        raise UserError(f"init: {', '.join(changed)}: there already, with changes; move it away to begin anew")
