"""A pipeline's folder of diffusers becomes a teacher's file like any other."""

import pytest
import torch

pytest.importorskip("diffusers")

from small_diffusers import diffusers, labelled_unet, made, saved

from realuid_lightning.checkpoints import load_diffusers, read_teacher
from realuid_lightning.errors import UserError
from realuid_lightning.importing import import_teacher


def test_a_folder_is_imported(tmp_path):
    folder = saved(tmp_path / "pipeline", made(labelled_unet)[0], diffusers.DDPMScheduler())
    report = import_teacher(folder, tmp_path / "teacher.safetensors")
    network, path = load_diffusers(folder)
    found = read_teacher(tmp_path / "teacher.safetensors")
    assert (report.kind, found.path.recorded()) == ("diffusers", path.recorded())
    t, x, y = torch.tensor([0.2, 0.7]), torch.randn(2, *network.shape), torch.tensor([0, 3])
    assert torch.equal(found.network(t, x, y), network.eval()(t, x, y))


def test_it_tells_everything_itself(tmp_path):
    folder = saved(tmp_path / "pipeline", made(labelled_unet)[0], diffusers.DDPMScheduler())
    with pytest.raises(
        UserError, match="sigma_data must be left out: of a pipeline's folder of diffusers, nothing can"
    ):
        import_teacher(folder, tmp_path / "teacher.safetensors", sigma_data=1.0)
