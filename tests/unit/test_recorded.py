import copy
import inspect
import json
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from realuid_lightning.errors import UserError
from realuid_lightning.recorded import Recorded, rebuild


class Ramp(Recorded):
    """Plain class."""

    def __init__(self, start: float, stop: float = 1.0, *, marks: tuple[int, ...] | list[int] = (), **extra: object):
        self.start, self.stop, self.marks, self.extra = start, stop, marks, extra


class Child(Ramp):
    """Inherits its constructor."""


class Linear(Recorded, nn.Module):
    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width, bias)


class Holder(Recorded):
    class Inner(Recorded):
        def __init__(self, name: str = "inner") -> None:
            self.name = name

    def __init__(self, parts: object) -> None:
        self.parts = parts


class Base(Recorded, ABC):
    @abstractmethod
    def mean(self) -> float: ...


@dataclass(frozen=True)
class Point(Base):
    x: float
    y: float = 2.0

    def mean(self) -> float:
        return (self.x + self.y) / 2


class Positional(Recorded):
    def __init__(self, first: int, /, *rest: int) -> None: ...


class Explosive:
    fired = False

    def __init__(self) -> None:
        Explosive.fired = True


class Picky(Recorded):
    def __init__(self, size: int) -> None:
        raise UserError(f"Picky: size must be even, got {size}")


def test_arguments_and_defaults_are_recorded() -> None:
    record = Ramp(0.5, marks=(1, 2), colour="red").recorded()
    expected = {"start": 0.5, "stop": 1.0, "marks": (1, 2), "colour": "red"}
    assert record == {"class_path": f"{__name__}.Ramp", "init_args": expected}
    assert Child(0.5).recorded()["class_path"] == f"{__name__}.Child"


@pytest.mark.parametrize("make", [lambda: Ramp(1.0, marks=[3]), lambda: Linear(4, False), lambda: Point(1.0)])
def test_records_survive_copies_and_rebuild(make: object) -> None:
    original = make()  # type: ignore[operator]
    record = original.recorded()
    for twin in (copy.copy(original), copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert twin.recorded() == record
    rebuilt = rebuild(json.loads(json.dumps(record)), type(original))
    assert type(rebuilt) is type(original)
    assert rebuilt.recorded() == record


def test_records_do_not_follow_later_changes() -> None:
    marks = [1]
    ramp = Ramp(0.0, marks=marks)
    marks.append(2)
    ramp.recorded()["init_args"]["marks"].append(3)
    assert ramp.recorded()["init_args"]["marks"] == [1]


def test_nested_objects_are_recorded_and_rebuilt() -> None:
    holder = Holder({"path": Point(3.0), "networks": [Linear(2), Holder.Inner("x")]})
    parts = rebuild(holder.recorded(), Holder).parts
    assert isinstance(parts, dict)
    assert parts["path"] == Point(3.0)
    assert parts["networks"][0].layer.weight.shape == (2, 2)
    assert parts["networks"][1].name == "x"


def test_modules_keep_their_weights_and_keys() -> None:
    network = Linear(3)
    assert list(network.state_dict()) == ["layer.weight", "layer.bias"]
    torch.testing.assert_close(copy.deepcopy(network).state_dict(), network.state_dict())


def test_signature_and_command_line_parsing_see_init() -> None:
    assert list(inspect.signature(Linear).parameters) == ["width", "bias"]
    assert list(inspect.signature(Point).parameters) == ["x", "y"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--path", type=Base)
    parsed = parser.parse_args([f"--path={__name__}.Point", "--path.x=4"])
    assert parser.instantiate(parsed).path == Point(4.0)
    with pytest.raises(Exception, match="width"):
        parser.parse_args([f"--path={__name__}.Point", "--path.width=4"])


def test_wrong_calls_fail_as_usual() -> None:
    with pytest.raises(TypeError, match="missing 1 required"):
        Ramp()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]


def test_all_unplain_arguments_are_named() -> None:
    with pytest.raises(
        UserError, match=r"argument stop must be.*got Tensor\n.*argument marks\[1\] must be.*got object"
    ):
        Ramp(0.0, torch.ones(1), marks=[1, object()]).recorded()  # type: ignore[arg-type, list-item]
    with pytest.raises(UserError, match=r"argument first must have a name"):
        Positional(1).recorded()
    with pytest.raises(UserError, match=r"argument rest must have a name"):
        Positional(1, 2).recorded()

    class Local(Recorded):
        def __init__(self) -> None: ...

    with pytest.raises(UserError, match="top of a module"):
        Local().recorded()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, r"a record must be \{class_path"),
        ({"class_path": "a.B", "init_args": [1]}, "a record must be"),
        ({"class_path": "Alone", "init_args": {}}, "Alone is neither of this package nor imported"),
        ({"class_path": "no_such_package.Class", "init_args": {}}, r"trust=\[\"no_such_package\"\]"),
        ({"class_path": "a.<locals>.B\n", "init_args": {}}, "a record must be"),
        ({"class_path": f"{__name__}.Gone", "init_args": {}}, "renamed or moved"),
        ({"class_path": "os.system", "init_args": {"command": "exit"}}, "must be a class"),
        ({"class_path": "os.path.join", "init_args": {}}, "must be a class"),
        ({"class_path": f"{__name__}.Explosive", "init_args": {}}, "must be a subclass of .*Recorded"),
        ({"class_path": f"{__name__}.Point", "init_args": {"x": 1.0}}, "must be a subclass of .*Ramp"),
        ({"class_path": f"{__name__}.Child", "init_args": {}}, "cannot be built .* missing 1 required"),
        (
            {
                "class_path": f"{__name__}.Ramp",
                "init_args": {"start": {"class_path": f"{__name__}.Explosive", "init_args": {}}},
            },
            "must be a subclass of .*Recorded",
        ),
    ],
)
def test_faulty_records_are_refused(record: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rebuild(record, Ramp)
    assert not Explosive.fired


def test_a_constructors_own_complaint_is_passed_on() -> None:
    with pytest.raises(UserError, match="size must be even, got 3"):
        rebuild({"class_path": f"{__name__}.Picky", "init_args": {"size": 3}}, Picky)


def test_classes_of_this_package_need_no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "realuid_lightning.data.pairs", raising=False)
    record = {"class_path": "realuid_lightning.data.pairs.SuperResolution", "init_args": {"factor": 2}}
    assert rebuild(record, Recorded).factor == 2  # type: ignore[attr-defined]
    for path in ("unet.torch.nn.Linear", "unet.importlib.import_module", "gone.Class", "unet.UNet.forward"):
        with pytest.raises(UserError, match=r"must be a class|cannot be imported"):
            rebuild({"class_path": f"realuid_lightning.networks.{path}", "init_args": {}}, nn.Module)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on the path that leaves a file ``sprung`` when it is imported; it holds classes to be trusted."""
    package = tmp_path / "stranger_package"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()\n")
    (package / "nets.py").write_text(
        "from realuid_lightning.recorded import Recorded\n"
        "class Net(Recorded):\n"
        "    class Part(Recorded): ...\n"
        "    def __init__(self, part=None):\n        self.part = part\n"
        "class Other: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "sprung"
    for name in [name for name in sys.modules if name.startswith("stranger_package")]:
        del sys.modules[name]


NET = {"class_path": "stranger_package.nets.Net", "init_args": {}}


def test_nothing_is_imported_unasked(stranger: Path) -> None:
    nested = {"class_path": f"{__name__}.Ramp", "init_args": {"start": {"deep": [NET]}}}
    for record in (NET, nested, {"class_path": "stranger_package.Anything", "init_args": {}}):
        for trust in ([], ["stranger"], ["stranger_package.net"], ["nets"]):
            with pytest.raises(UserError, match="opening a file imports nothing by itself"):
                rebuild(record, Recorded, trust)
    assert not stranger.exists()
    assert "stranger_package" not in sys.modules


@pytest.mark.parametrize("name", ["stranger_package", "stranger_package.nets", "stranger_package.nets.Net"])
def test_what_is_trusted_by_name_is_imported(stranger: Path, name: str) -> None:
    part = {"class_path": "stranger_package.nets.Net.Part", "init_args": {}}
    net = rebuild({**NET, "init_args": {"part": part}}, Recorded, [name])
    assert type(net.part).__qualname__ == "Net.Part"  # type: ignore[attr-defined]
    assert stranger.exists()
    assert rebuild(NET, Recorded).recorded() == {**NET, "init_args": {"part": None}}  # it is imported by now
    for gone, words in [("nets.Other", "subclass of .*Recorded"), ("nets.Gone", "renamed"), ("Gone", "renamed")]:
        with pytest.raises(UserError, match=words):
            rebuild({"class_path": f"stranger_package.{gone}", "init_args": {}}, Recorded, ["stranger_package"])


def test_a_trusted_module_that_is_not_there_or_fails_is_told(stranger: Path) -> None:
    with pytest.raises(UserError, match="add its folder to PYTHONPATH"):
        rebuild({"class_path": "nowhere.Net", "init_args": {}}, Recorded, ["nowhere"])
    (stranger.parent / "stranger_package" / "nets.py").write_text("import no_such_library")
    with pytest.raises(UserError, match=r"stranger_package.nets cannot be imported .*no_such_library.*install"):
        rebuild(NET, Recorded, ["stranger_package"])


def test_looking_a_class_up_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the ``__getattr__`` of a module, not a lazy module, not a descriptor of a class."""
    fired = []

    class Eager(ModuleType):
        def __getattribute__(self, name: str) -> object:
            fired.append(name)
            return super().__getattribute__(name)

    class Meta(type):
        def __getattribute__(cls, name: str) -> object:
            fired.append(name)
            return super().__getattribute__(name)

    class Holding(metaclass=Meta):
        prop = property(fired.append)

    lazy = Eager("lazy_module")
    object.__getattribute__(lazy, "__dict__").update(__getattr__=fired.append, Holding=Holding, Ramp=Ramp)
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)
    fired.clear()
    for name in ("Absent", "Holding.prop", "Holding.absent"):
        with pytest.raises(UserError, match="must be a class"):
            rebuild({"class_path": f"lazy_module.{name}", "init_args": {}}, Recorded)
    assert isinstance(rebuild({"class_path": "lazy_module.Ramp", "init_args": {"start": 1.0}}, Ramp), Ramp)
    assert not fired
