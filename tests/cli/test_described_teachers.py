"""A config that names a teacher's file needs neither network nor path: the file says them."""

import pytest
import torch
from foreign_files import write_edm, write_torchcfm
from helpers import checkpoint, mlp

from realuid_lightning.importing import import_teacher
from realuid_lightning.modules import TeacherModule
from realuid_lightning.paths import DiffusionPath

CONFIG = "model: {class_path: RealUIDModule, init_args: {teacher_ckpt: %s%s}}\ndata: {source: %s}\n"
PHOTOS = "{class_path: ImageFolder, init_args: {root: photos, size: 16}}"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def config(teacher="teacher.safetensors", more="", source=PHOTOS):
    with open("it.yaml", "w") as file:
        file.write(CONFIG % (teacher, more, source))
    return "--config", "it.yaml"


def test_network_and_path_are_those_of_the_file(tmp_path, resolved):
    import_teacher(write_edm("vp_ddpmpp_uncond", tmp_path / "edm.pkl"), "teacher.safetensors")
    model = resolved(*config())["model"]["init_args"]
    assert model["network"]["class_path"] == "realuid_lightning.networks.preconditioned.VPNetwork"
    inner = model["network"]["init_args"]["model"]
    assert inner["class_path"] == "realuid_lightning.networks.edm.SongUNet"
    assert (inner["init_args"]["image_size"], inner["init_args"]["model_channels"]) == (16, 16)
    assert model["path"]["class_path"] == "realuid_lightning.paths.diffusion.DiffusionPath"
    assert model["path"]["init_args"]["sigma_data"] == 1.0


def test_a_teacher_of_classes_asks_for_labels(tmp_path, resolved):
    import_teacher(write_edm("edm_ddpmpp_cond", tmp_path / "edm.pkl"), "teacher.safetensors")
    assert resolved(*config())["data"]["init_args"]["labels"] is True


def test_checkpoints_of_ours_say_theirs_as_well(resolved):
    torch.save(checkpoint(TeacherModule(mlp(), path=DiffusionPath(sigma_data=0.7))), "teacher.ckpt")
    model = resolved(*config("teacher.ckpt", source="Digits"))["model"]["init_args"]
    assert model["network"]["init_args"]["width"] == 16
    assert model["path"]["init_args"]["sigma_data"] == 0.7


def test_what_the_config_names_stays(resolved):
    torch.save(checkpoint(TeacherModule(mlp(), path=DiffusionPath())), "teacher.ckpt")
    more = ", network: {class_path: MLP, init_args: {width: 32}}"
    model = resolved(*config("teacher.ckpt", more, "Digits"))["model"]["init_args"]
    assert (model["network"]["init_args"]["width"], model["path"]["init_args"]["sigma_data"]) == (32, 0.5)
    model = resolved(*config("teacher.ckpt", ", path: FlowMatchingPath", "Digits"))["model"]["init_args"]
    assert model["network"]["init_args"]["width"] == 16
    assert model["path"]["class_path"].endswith("FlowMatchingPath")
    model = resolved(*config("gone.ckpt", more, "Digits"))["model"]["init_args"]  # it is not needed to look at a config
    assert (model["network"]["init_args"]["width"], model["path"]) == (32, None)


def test_another_path_is_refused_as_ever(realuid):
    torch.save(checkpoint(TeacherModule(mlp(), path=DiffusionPath())), "teacher.ckpt")
    words = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--features=RawFeatures"]
    code, written = realuid("fit", *config("teacher.ckpt", ", path: FlowMatchingPath", "Digits"), *words)
    assert code == 2
    assert "teacher.ckpt: made on the path DiffusionPath" in written


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("null", "network is left out, and no teacher_ckpt describes one: set one of them"),
        ("gone.safetensors", "gone.safetensors: expected a checkpoint file, but there is no such file"),
        ("cfm.pt", "cfm.pt: expected a checkpoint of this package, got a foreign one"),
        ("generator.ckpt", "generator.ckpt: expected a teacher, got a generator"),
    ],
)
def test_a_file_that_describes_none_is_told(teacher, words, tmp_path, realuid):
    write_torchcfm(tmp_path / "cfm.pt")
    content = checkpoint(TeacherModule(mlp()))
    content["realuid_lightning"]["role"] = "generator"
    torch.save(content, "generator.ckpt")
    code, written = realuid("fit", *config(teacher))
    assert code == 2
    assert words in written
    assert "Traceback" not in written


def test_import_tells_what_became_of_the_weights(tmp_path, realuid):
    write_torchcfm(tmp_path / "cfm.pt")
    code, written = realuid("import", "cfm.pt", "teacher.safetensors")
    assert (code, written) == (
        2,
        "error: cfm.pt: the file does not tell how large its images are: say --image_size\n",
    )
    code, written = realuid("import", "cfm.pt", "teacher.safetensors", "--image_size=8", "--num_head_channels", "32")
    assert code == 0
    assert "weights  ema_model: 88 of 88 mapped, 0 missing, 0 left over" in written
    assert written.endswith("teacher.safetensors: written\n")
    code, written = realuid("import", "--help")
    assert code == 0
    assert "--path_type" in written


def test_names_in_a_file_do_not_steer_the_terminal(tmp_path, realuid):
    torch.save({"ema\x1b[2J": torch.load(write_torchcfm(tmp_path / "cfm.pt"))["ema_model"]}, "evil.pt")
    code, written = realuid("import", "evil.pt", "teacher.safetensors", "--image_size=8", "--num_head_channels=32")
    assert code == 0
    assert "weights  ema?[2J: 88 of 88 mapped" in written
    assert "\x1b" not in written
