"""Generators as huggingface_hub keeps them, in a local folder."""

import sys
from importlib import import_module

import pytest
import torch
from helpers import checkpoint, mlp

from realuid_lightning import load_generator
from realuid_lightning.checkpoints.io import AtomicCheckpointIO
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule


@pytest.fixture
def generator(tmp_path):
    module = RealUIDModule(mlp(num_classes=4), None, sampling_steps=2)
    module.start()
    AtomicCheckpointIO().save_checkpoint(checkpoint(module), tmp_path / "last.ckpt")
    return load_generator(tmp_path / "last.ckpt", ema=0.999)


def test_a_folder_gives_back_the_generator(generator, tmp_path):
    pytest.importorskip("huggingface_hub")
    hub = import_module("realuid_lightning.hub")
    hub.HubGenerator(generator).save_pretrained(tmp_path / "saved")
    assert "library_name: realuid_lightning" in (tmp_path / "saved" / "README.md").read_text()
    z, y, renoise = torch.randn(3, 1, 8, 8), torch.arange(3), torch.randn(3, 1, 1, 8, 8)
    expected = generator(z, y, None, renoise)
    again = hub.HubGenerator.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(z, y, None, renoise), expected)
    assert torch.equal(load_generator(tmp_path / "saved" / "generator.safetensors")(z, y, None, renoise), expected)


def test_a_card_of_the_users_own_stays(generator, tmp_path):
    pytest.importorskip("huggingface_hub")
    (tmp_path / "README.md").write_text("# Mine\n")
    import_module("realuid_lightning.hub").HubGenerator(generator).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "realuid_lightning.hub", raising=False)
    with pytest.raises(UserError, match=r"pip install 'realuid-lightning\[hub\]'"):
        import_module("realuid_lightning.hub")
