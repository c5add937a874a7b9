import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from realuid_lightning.checkpoints import load_official, read_checkpoint
from realuid_lightning.checkpoints.official import is_official
from realuid_lightning.errors import UserError


def state(value: float) -> dict[str, Tensor]:
    return {"module.out.2.bias": torch.full((3,), value), "cls_pred_branch.0.bias": torch.zeros(1)}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.pt"
    averages = {0.999: state(1), "0.9999": state(2), "ema_0.9996": state(3)}
    torch.save({"net_model": state(0), "ema_models": averages, "step": 5}, path)
    return path


@pytest.mark.parametrize(("ema", "value"), [(None, 0), (0.999, 1), (0.9999, 2), (0.9996, 3)])
def test_picks_weights_by_numeric_decay_and_drops_the_gan_head(teacher: Path, ema: float | None, value: float) -> None:
    loaded = load_official(teacher, ema)
    assert list(loaded) == ["out.2.bias"]
    assert torch.equal(loaded["out.2.bias"], torch.full((3,), float(value)))


def test_reads_the_generator_of_a_distillation(tmp_path: Path) -> None:
    content = {"gen": state(1), "u": state(2), "ema_gens": {"0.999": state(3)}}
    torch.save(content, tmp_path / "distilled.pt")
    assert is_official(content)
    assert load_official(tmp_path / "distilled.pt")["out.2.bias"][0] == 1
    assert load_official(str(tmp_path / "distilled.pt"), 0.999)["out.2.bias"][0] == 3


def test_unknown_averages_are_listed(teacher: Path) -> None:
    with pytest.raises(UserError, match=r"no average of decay 0.99; available: 0.999, 0.9996, 0.9999, or null"):
        load_official(teacher, 0.99)


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"expected an official checkpoint.*got state_dict"):
        load_official(tmp_path / "other.pt")
    torch.save({"net_model": 3, "ema_models": {}}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="expected tensors by name"):
        load_official(tmp_path / "odd.pt")
    with pytest.raises(UserError, match="available: none"):
        load_official(tmp_path / "odd.pt", 0.999)
    assert not is_official({"net_model": {}})


def test_reads_torch_and_safetensors_files(teacher: Path, tmp_path: Path) -> None:
    assert read_checkpoint(teacher)["step"] == 5
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "w.safetensors")["w"], torch.ones(2))


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("sprung"),))


def spoil(kind: str, folder: Path) -> Path:
    """Write a file with one fault and return its path."""
    path = folder / ("file.safetensors" if kind.startswith("safe") else "file.pt")
    whole = folder / "whole"
    torch.save({"weight": torch.randn(1000)}, whole)
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "cut":
        path.write_bytes(whole.read_bytes()[:2000])
    elif kind in ("text", "safe text"):
        path.write_text("<html>not found</html>" * 9)
    elif kind == "zeros":
        path.write_bytes(bytes(500))
    elif kind == "safe cut":
        save_file({"weight": torch.randn(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "objects":
        torch.save({"weight": Trap()}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"weight": Trap()}))
    elif kind == "tensor":
        torch.save(torch.ones(1), path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "there is no such file"),
        ("folder", "it is a folder"),
        ("empty", "the file is empty"),
        ("cut", "cut off or of another format"),
        ("text", "cut off or of another format"),
        ("zeros", "cut off or of another format"),
        ("safe cut", "expected a safetensors file"),
        ("safe text", "expected a safetensors file"),
        ("objects", "could run code"),
        ("pickle", "could run code|of another format"),
        ("tensor", "that is a dictionary, got Tensor"),
    ],
)
def test_faulty_files_give_one_line(kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = spoil(kind, tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: expected ")
    assert "\n" not in text
    assert not Path("sprung").exists()
