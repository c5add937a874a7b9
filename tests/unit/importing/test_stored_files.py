"""Tensors of strangers' files: those of torch.save and of plain pickles, and none that claim what is not there."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from realuid_lightning.checkpoints import DamagedCheckpointError
from realuid_lightning.errors import UserError
from realuid_lightning.importing.kinds import Origin
from realuid_lightning.importing.pickles import Call, Name, Reference
from realuid_lightning.importing.stored import Stored, open_stored, tensor_of

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)


def tensors() -> dict[str, Tensor]:
    """Return tensors of every kind and layout that a file of weights may have."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    layouts = {"plain": base, "view": base[1, :, ::2], "turned": base.permute(2, 0, 1), "number": torch.tensor(7.0)}
    layouts |= {"empty": torch.zeros(0, 3), "parameter": nn.Parameter(base.clone(), requires_grad=False)}
    layouts |= {"last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    return layouts | {str(dtype): torch.ones(5).to(dtype) for dtype in DTYPES}


def archive(content: Any, file: Path) -> None:
    torch.save(content, file)


def legacy(content: Any, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def plain(content: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(content))


def old_plain(content: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(content, 3))


@pytest.mark.parametrize("write", [archive, legacy, plain, old_plain])
def test_tensors_are_those_that_were_saved(write: Any, tmp_path: Path) -> None:
    write({"weights": OrderedDict(tensors()), "step": 3}, tmp_path / "file.pt")
    stored = open_stored(tmp_path / "file.pt")
    assert stored.tree["step"] == 3
    for name, node in stored.tree["weights"].entries.items():
        made, expected = tensor_of(node, stored), tensors()[name] if name != "last" else None
        assert expected is None or (torch.equal(made, expected) and made.dtype == expected.dtype), name
        assert name != "last" or made.is_contiguous(memory_format=torch.channels_last)


def test_safetensors_are_read_as_well(tmp_path: Path) -> None:
    save_file({"module.a": torch.ones(2)}, tmp_path / "file.safetensors")
    origin = Origin(tmp_path / "file.safetensors")
    assert origin.sets.keys() == {"file"}
    assert torch.equal(origin.made(origin.sets["file"])["a"], torch.ones(2))


def test_weights_are_found_by_their_place_and_without_wrappers(tmp_path: Path) -> None:
    state = {"_orig_mod.module.a": torch.ones(2)}
    archive({"net": state, "emas": {0.9: state, 0.99: {"a": torch.zeros(1)}}, "step": 1}, tmp_path / "file.pt")
    sets = Origin(tmp_path / "file.pt").sets
    assert {name: list(each) for name, each in sets.items()} == {"net": ["a"], "emas.0.99": ["a"]}  # each once


# ------------------------------------------------------------------------------------------------------------ hostile


def rebuilt(*arguments: Any, function: str = "_rebuild_tensor_v2") -> Call:
    return Call(Name("torch._utils", function), arguments)


STORAGE = Reference(("storage", Name("torch", "FloatStorage"), "0", "cpu", 4))
STORED = Stored(None, {"0": b"\0" * 16}.__getitem__)

CLAIMS = {
    "more than there is": rebuilt(STORAGE, 0, (5,), (1,)),
    "an offset beyond": rebuilt(STORAGE, 4, (1,), (1,)),
    "strides beyond": rebuilt(STORAGE, 0, (2,), (4,)),
    "the same number often": rebuilt(STORAGE, 0, (10**12,), (0,)),
    "a negative offset": rebuilt(STORAGE, -1, (1,), (1,)),
    "a negative stride": rebuilt(STORAGE, 3, (2,), (-1,)),
    "a negative size": rebuilt(STORAGE, 0, (-1,), (1,)),
    "a huge size beside none": rebuilt(STORAGE, 0, (0, 2**63), (1, 1)),
    "fewer strides than sizes": rebuilt(STORAGE, 0, (2, 2), (1,)),
    "no shape": rebuilt(STORAGE, 0, None, None),
    "a shape of texts": rebuilt(STORAGE, 0, ("2",), ("1",)),
    "too few arguments": rebuilt(STORAGE),
    "no storage": rebuilt(7, 0, (1,), (1,)),
    "a storage that is not there": rebuilt(
        Reference(("storage", Name("torch", "FloatStorage"), "9", "cpu", 4)), 0, (1,), (1,)
    ),
    "a storage of an unknown kind": rebuilt(Reference(("storage", Name("os", "system"), "0", "cpu", 4)), 0, (1,), (1,)),
    "a storage without a kind": rebuilt(Reference(("storage", "x", "0", "cpu", 4)), 0, (1,), (1,)),
    "a reference to something else": rebuilt(Reference("x"), 0, (1,), (1,)),
    "bytes that are none": rebuilt(Call(Name("torch.storage", "_load_from_bytes"), ("x",)), 0, (1,), (1,)),
    "bytes that are no file": rebuilt(Call(Name("torch.storage", "_load_from_bytes"), (b"x",)), 0, (1,), (1,)),
    "a file that is no storage": rebuilt(Call(Name("torch.storage", "_load_from_bytes"), (b"N.",)), 0, (1,), (1,)),
    "a parameter of nothing": rebuilt(7, True, None, function="_rebuild_parameter"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_no_tensor_claims_what_is_not_there(claim: str, tmp_path: Path) -> None:
    origin = Origin(tmp_path / "file.pkl")
    origin.__dict__["stored"] = STORED
    with pytest.raises(DamagedCheckpointError, match=r"file\.pkl: weight cannot be read: ."):
        origin.made({"weight": CLAIMS[claim]})


def test_weights_must_be_finite_numbers(tmp_path: Path) -> None:
    content = {"good": torch.ones(2), "nan": torch.tensor([1.0, float("nan")]), "whole": torch.ones(2).long()}
    archive(content, tmp_path / "file.pt")
    origin = Origin(tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"expected weights that are finite numbers, but 2 of 3 are not: nan, whole"):
        origin.made(origin.sets["file"])


@pytest.mark.parametrize("write", [archive, legacy, plain])
def test_cut_files_are_refused(write: Any, tmp_path: Path) -> None:
    write({"weight": torch.randn(50)}, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in [*range(0, len(content) - 1, 37), len(content) - 1]:
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(DamagedCheckpointError, match=r"cut.*(cut off|empty)"):
            open_stored(tmp_path / "cut")


def test_storages_that_were_changed_are_refused(tmp_path: Path) -> None:
    archive({"weight": torch.zeros(50)}, tmp_path / "file.pt")
    content = (tmp_path / "file.pt").read_bytes()
    at = content.index(b"\0" * 200)
    (tmp_path / "file.pt").write_bytes(content[:at] + b"\1" + content[at + 1 :])
    origin = Origin(tmp_path / "file.pt")
    with pytest.raises(DamagedCheckpointError, match=r"weight cannot be read: Bad CRC"):
        origin.made(origin.sets["file"])


def test_a_legacy_file_whose_storages_are_others_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, ["7"]):
        pickle.dump(part, file, 2)
    (tmp_path / "file").write_bytes(file.getvalue() + struct.pack("<q", 2**62))
    with pytest.raises(DamagedCheckpointError, match="cut off"):
        open_stored(tmp_path / "file")


def test_archives_that_grow_or_lack_their_pickle_are_refused(tmp_path: Path) -> None:
    archive({"weight": torch.zeros(10**6)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as whole:
        with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
            for entry in whole.namelist():
                packed.writestr(entry, whole.read(entry))
        with zipfile.ZipFile(tmp_path / "bare.pt", "w") as bare:
            bare.writestr("x/data/0", b"")
        with zipfile.ZipFile(tmp_path / "two.pt", "w") as two:
            for name in ("a", "b"):
                two.writestr(f"{name}/data.pkl", b"N.")
    for name, words in {"packed.pt": "packs none", "bare.pt": "without data.pkl", "two.pt": "cut off or of"}.items():
        with pytest.raises(DamagedCheckpointError, match=words):
            open_stored(tmp_path / name)


def test_big_endian_numbers_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as file:
        file.writestr("x/data.pkl", b"}.")
        file.writestr("x/byteorder", b"big")
    with pytest.raises(DamagedCheckpointError, match="big-endian"):
        open_stored(tmp_path / "big.pt")


@pytest.mark.parametrize(("name", "words"), [("gone.pt", "no such file"), (".", "it is a folder")])
def test_what_is_no_file_is_told(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        open_stored(tmp_path / name)
