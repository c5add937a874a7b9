"""What an object computes, told by a text: anything of the user's own that changes it changes the text."""

import functools
import importlib
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from torch import nn

from realuid_lightning import fingerprint as fingerprints
from realuid_lightning.fingerprint import NoFingerprintError, fingerprint

SCRIPT = """
import functools
import torch
from torch import nn
import helper
from helper import shifted
from package import deep

FACTOR = 2

def scaled(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return 3 * function(*arguments)
    return wrapper

class Base(nn.Module):
    def offset(self):
        return 5

class Extractor(Base):
    def __init__(self, power=1):
        super().__init__()
        self.power, self.after = power, lambda x: x + 7
        self.names = {"a", "b", "c", "d"}

    @torch.no_grad()
    @scaled
    def forward(self, x, bias=11):
        from package.late import lifted
        if x.dim() in {1, 2, 3}:
            x = lifted(shifted(x)) ** self.power
        return [self.after(row) * FACTOR + helper.rare(row) + deep.down(row) + bias for row in x][0] + self.offset()
"""
HELPER = """
def shifted(x):
    return _inner(x) + 13

def _inner(x):
    return x * 17

def rare(x):
    return x - 19

def unused(x):
    return x - 23
"""
FILES = {
    "script.py": SCRIPT,
    "helper.py": HELPER,
    "package/__init__.py": "",
    "package/deep.py": "from .other import LEVEL\n\ndef down(x):\n    return x - LEVEL\n",
    "package/other.py": "LEVEL = 29\n",
    "package/late.py": "def lifted(x):\n    from .other import LEVEL\n    return x + 31\n",
}
MODULES = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in FILES]


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """Write the user's files, with some text replaced, and return the fingerprint of what they define."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(old="", new="", power=1):
        assert any(old in text for text in FILES.values())
        for name, text in FILES.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text.replace(old, new) if old else text)
        for name in MODULES:
            monkeypatch.delitem(sys.modules, name, raising=False)
        import script

        return fingerprint(script.Extractor(power))

    return run


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 2", "FACTOR = 4"),
        ("return 3 * function", "return 4 * function"),
        ("return 5", "return 6"),
        ("x + 7", "x + 8"),
        ("x + 7", "x - 7"),
        ("bias=11", "bias=12"),
        ("_inner(x) + 13", "_inner(x) + 14"),
        ("x * 17", "x * 18"),
        ("x - 19", "x - 20"),
        ("LEVEL = 29", "LEVEL = 30"),
        ("x + 31", "x + 32"),
        ('"d"', '"e"'),
        ("{1, 2, 3}", "{1, 2, 4}"),
        ("class Extractor(Base):", "class Extractor(Base):\n    power_of_class = 1\n"),
    ],
)
def test_code_and_all_it_calls(printed, old, new):
    assert printed(old, new) != printed()


@pytest.mark.parametrize(("old", "new"), [("x - 23", "x - 24"), ("\n\n", "\n\n# a comment\n\n")])
def test_what_does_not_run_does_not_count(printed, old, new):
    assert printed(old, new) == printed()


def test_plain_attributes(printed):
    assert printed(power=2) != printed(power=1) == printed(power=1)


def test_other_processes_agree(printed, tmp_path):
    expected = printed()
    words = (
        "import script; from realuid_lightning.fingerprint import fingerprint; print(fingerprint(script.Extractor()))"
    )
    found = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == expected


class Holding(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (True, 1),
        ("a", b"a"),
        ([1, 2], (1, 2)),
        ([1, [2]], [[1], 2]),
        ({"a": 1}, {"a": 2}),
        (np.zeros(2), np.zeros(2, np.float32)),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float16)),
        (torch.float32, torch.float64),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (torch.sin, torch.cos),
        (lambda x: x, lambda x: -x),
        (nn.ReLU(), nn.ReLU6()),
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (range(2), range(3)),
    ],
)
def test_values_are_told_apart(one, other):
    assert fingerprint(Holding(one)) != fingerprint(Holding(other))


def test_sets_have_no_order_and_circles_an_end():
    words = [str(number) for number in range(100)]
    assert fingerprint(set(words)) == fingerprint({*words[50:], *words[:50]})
    circle = [1]
    circle.append(circle)
    assert fingerprint(circle) == fingerprint(circle)


def test_hooks_count():
    hooked = nn.Identity()
    hooked.register_forward_hook(lambda module, args, output: 2 * output)
    assert fingerprint(hooked) != fingerprint(nn.Identity())


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock,
        lambda: open(__file__),  # noqa: SIM115
        lambda: (i for i in range(3)),
    ],
)
def test_what_can_not_be_read_is_told_with_its_place(make):
    value = make()
    with pytest.raises(NoFingerprintError, match=r"^Holding.value: cannot pickle"):
        fingerprint(Holding(value))
    getattr(value, "close", lambda: None)()


def test_code_typed_in_by_hand_counts():
    prints = set()
    for factor in (2, 3):
        names = {"__name__": "__main__"}
        exec(textwrap.dedent(f"def double(x):\n    return {factor} * x"), names)
        prints.add(fingerprint(names["double"]))
    assert len(prints) == 2


def test_a_module_that_was_copied_among_installed_ones_counts(tmp_path, monkeypatch):
    """No distribution lists it, so nothing but its code tells when it changes."""
    monkeypatch.setattr(fingerprints, "_INSTALLED", (*fingerprints._INSTALLED, tmp_path.resolve()))
    monkeypatch.syspath_prepend(tmp_path)
    found = set()
    for factor in (2, 3):
        (tmp_path / "copied_by_hand.py").write_text(f"def features(x):\n    return {factor} * x\n# {'.' * factor}\n")
        monkeypatch.delitem(sys.modules, "copied_by_hand", raising=False)
        found.add(fingerprint(importlib.import_module("copied_by_hand").features))
    assert len(found) == 2
