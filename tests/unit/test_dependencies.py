"""What is imported is declared: a library that only comes along with another may go with it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

HOME = Path(__file__).parents[2]


def imported(folder):
    """Names of all packages that the files of a folder import, wherever they do."""
    for file in (HOME / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield node.module.partition(".")[0]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_declared():
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [
        line for extra, more in project["optional-dependencies"].items() if extra != "dev" for line in more
    ]
    declared = {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}
    distributions = packages_distributions()
    names = set(imported("realuid_lightning")) - set(sys.stdlib_module_names) - {"realuid_lightning"}
    assert {"torch", "yaml", "PIL", "scipy"} <= names
    missing = {name for name in names if not declared & set(map(normal, distributions.get(name, [name])))}
    assert not missing


def test_what_tests_skip_without_comes_with_the_extra_dev():
    extras = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (ours,) = [re.fullmatch(r"realuid-lightning\[(.*)\]", line)[1] for line in extras["dev"] if "realuid" in line]
    lines = extras["dev"] + [line for extra in ours.split(",") for line in extras[extra]]
    brought = {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}
    words = (file.read_text() for file in (HOME / "tests").rglob("*.py"))
    skipped = {name for text in words for name in re.findall(r"importorskip\(\"(\w+)", text)}
    assert {"diffusers", "onnxruntime", "huggingface_hub"} <= skipped
    assert set(map(normal, skipped)) <= brought
