"""The examples in docstrings are true, and what a user meets first has one."""

import ast
import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "realuid_lightning"
ROOMS = ("paths", "losses", "networks", "objectives", "data", "metrics", "checkpoints", "modules", "running")


def docstrings():
    """Module, name and docstring of every class and function of files with examples."""
    for file in sorted(PACKAGE.rglob("*.py")):
        if ">>>" not in (text := file.read_text()):
            continue
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield module, node.name, ast.get_docstring(node) or ""


EXAMPLES = [each for each in docstrings() if ">>>" in each[2]]


@pytest.mark.parametrize(("module", "name", "text"), EXAMPLES, ids=[f"{each[0]}.{each[1]}" for each in EXAMPLES])
def test_the_example_is_true(module, name, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {"torch": torch, **vars(import_module(module))}
    test = doctest.DocTestParser().get_doctest(text, known, name, module, None)
    wrong = []
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(optionflags=options).run(test, out=wrong.append)
    assert not wrong, "".join(wrong)
    assert not list(tmp_path.iterdir())  # it leaves no files where a user tries it


def test_what_the_readme_names_has_an_example():
    readme = (ROOT / "README.md").read_text()
    named = re.findall(r"`([^`\n]+)`", readme) + re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    words = set(re.findall(r"\w+", " ".join(named)))
    public = {name for room in ROOMS for name in import_module(f"realuid_lightning.{room}").__all__}
    assert {"RealUIDModule", "generator_loss", "MatchingPath"} <= words & public
    assert words & public <= {name for _, name, _ in EXAMPLES}
