"""docs/architecture.md tells of the package as it is: every room, in an order in which imports point one way."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "realuid_lightning"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
TREE = re.search(r"```\nrealuid_lightning/\n(.*?)```", PAGE, flags=re.DOTALL)[1]
ROOMS = re.findall(r"^  (\w+(?:/|\.py)) ", TREE, flags=re.MULTILINE)


def test_every_room_is_named_and_no_other():
    there = {f"{each.name}/" if each.is_dir() else each.name for each in PACKAGE.iterdir()}
    assert set(ROOMS) == there - {"__init__.py", "__pycache__/", "py.typed"}
    assert len(ROOMS) == len(set(ROOMS))
    assert all((ROOT / folder).is_dir() for folder in re.findall(r"^(\w+)/ ", TREE, flags=re.MULTILINE))


def test_every_file_and_link_exists():
    for file in re.findall(r"`(\w+/(?:\w+\.py)?)`", PAGE):
        assert (PACKAGE / file).exists() or file == "samples/", file
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link


def test_a_room_imports_only_rooms_above_it():
    order = {re.sub(r"/|\.py", "", room): place for place, room in enumerate(ROOMS)}
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(file.read_text())) if room in order else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("realuid_lightning"):
                first = node.module.split(".")[1:2]
                for other in first or [alias.name for alias in node.names]:
                    assert order.get(other, -1) <= order[room], f"{file} imports {other}"
