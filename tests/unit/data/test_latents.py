"""Latents in place of images: encoded once, kept, known again, and decoded wherever they are looked at."""

import json
import pickle
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from helpers import checkpoint, fit, measurements, mlp, trainer
from small_encoders import Blocks, autoencoder
from torch import nn

from realuid_lightning import cli, load_generator, load_teacher
from realuid_lightning.checkpoints import RECORD, export_generator, export_onnx, export_program
from realuid_lightning.checkpoints.io import AtomicCheckpointIO
from realuid_lightning.data import (
    Degraded,
    DiffusersEncoder,
    Digits,
    Inpainting,
    Latents,
    MatchingDataModule,
    MemorySource,
    encoded,
    to_floats,
)
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation import MetricsCallback, PredictionWriter, SampleGrid
from realuid_lightning.metrics import RawFeatures
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.paths import BridgePath

COUNT = 20


class Few(MemorySource):
    """Twenty digits, with labels or with conditions of another form."""

    shape = (1, 8, 8)

    def __init__(self, conditions=None, change=0):
        self.given, self.change = conditions, change

    @property
    def num_classes(self):
        return 10 if self.given is None else None

    def load(self):
        x, y = Digits().load()
        x = x[:COUNT].clone()
        x[-1, 0, 0, 0] += self.change
        return x, y[:COUNT] if self.given is None else self.given

    def texts(self, index):
        return [f"number {i}" for i in index.tolist()]


class Counting(Blocks):
    """Counts the images that it encodes, and fails when it is told to."""

    seen, most = 0, 1 << 30

    def encode(self, x):
        if Counting.seen + len(x) > Counting.most:
            raise KeyboardInterrupt
        Counting.seen += len(x)
        return super().encode(x)

    def fingerprint(self):  # that of a test's class would be that of all its module
        return f"Counting{float(self.gain)}"


class Lengths(nn.Module):
    """Embeds a text by its length."""

    def forward(self, texts):
        lengths = torch.tensor([[float(len(text))] for text in texts])
        return {"text": lengths.expand(-1, 3), "mask": lengths > 0}


class SmallImages(Few):
    """Images of the size of latents."""

    shape = (1, 4, 4)

    def load(self):
        x, y = super().load()
        return x[..., ::2, ::2].contiguous(), y


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(encoded, "PART", 8)
    monkeypatch.setattr(Counting, "seen", 0)
    monkeypatch.setattr(Counting, "most", 1 << 30)


def latents(source=None, encoder=None, **options):
    made = Latents(source or Few(), encoder or Counting(), **{"batch_size": 3, **options})
    made.setup()
    return made


def everything(source):
    return source.get(torch.arange(len(source)))


@pytest.mark.parametrize("in_memory", [False, True])
def test_latents_are_those_of_the_images_with_their_labels(in_memory):
    made, (x, y) = latents(in_memory=in_memory), everything(Few())
    z, told = everything(made)
    torch.testing.assert_close(z, Blocks().encode(to_floats(x)), rtol=0, atol=0)
    assert torch.equal(told, y)
    assert torch.equal(made.labels(), y)
    assert (made.shape, made.num_classes, made.original.shape) == ((1, 4, 4), 10, (1, 8, 8))
    order = torch.tensor([19, 0, 8, 7, 0])
    assert torch.equal(made.get(order)[0], z[order])


def test_mirrored_images_are_encoded_as_well():
    made, (x, y) = latents(flip=True), everything(Few())
    z, told = everything(made)
    torch.testing.assert_close(z[COUNT:], Blocks().encode(to_floats(x).flip(-1)), rtol=0, atol=0)
    assert torch.equal(told, y.repeat(2))
    assert torch.equal(made.labels(), told)


def test_they_are_encoded_once_and_read_as_memory():
    first = everything(latents())[0]
    assert Counting.seen == COUNT
    again = latents()
    assert Counting.seen == COUNT
    assert torch.equal(everything(again)[0], first)
    assert torch.equal(everything(pickle.loads(pickle.dumps(again)))[0], first)


def test_an_interrupted_cache_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "most", 13)  # in the midst of the second of three parts
    with pytest.raises(KeyboardInterrupt):
        latents(cache=str(tmp_path / "a"))
    assert len(list((tmp_path / "a").rglob("*.*"))) == 1
    monkeypatch.setattr(Counting, "most", 1 << 30)
    Counting.seen = 0
    latents(cache=str(tmp_path / "a"))
    assert Counting.seen == COUNT - 8
    latents(cache=str(tmp_path / "b"))
    (one,), (other,) = (list((tmp_path / name).iterdir()) for name in "ab")
    assert one.name == other.name
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"source": Few(change=1)},
        {"encoder": Counting(3.0)},
        {"flip": True},
        {"texts": Lengths()},
    ],
    ids=["content", "weights", "flip", "texts"],
)
def test_what_has_changed_is_encoded_anew(change):
    before = latents()
    made = latents(**change)
    assert Counting.seen == COUNT + len(made)
    assert made.fingerprint() != before.fingerprint()
    assert latents(**change).fingerprint() == made.fingerprint()
    assert torch.equal(everything(latents())[0], everything(before)[0])


@pytest.mark.parametrize("left", [0, 5, 40, -5])
def test_a_file_that_was_cut_off_is_encoded_again(left, caplog):
    made = latents()
    before, file = everything(made)[0].clone(), made._file(1)
    file.write_bytes(file.read_bytes()[:left])
    with caplog.at_level("INFO"):
        again = latents()
    assert f"{file} is broken" in caplog.text
    assert torch.equal(everything(again)[0], before)
    assert Counting.seen == COUNT + 8


def test_a_file_that_cannot_be_read_is_told():
    file = latents()._file(1)
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=r"000001.safetensors cannot be read .*remove it, and it is encoded again"):
        latents()


CONDITIONS = {
    "tensor": torch.randn(COUNT, 5),
    "dict": {"text": torch.randn(COUNT, 2, 3), "mask": torch.rand(COUNT, 2) > 0.5},
}


@pytest.mark.parametrize("form", CONDITIONS)
def test_conditions_of_any_form_are_kept(form):
    given, made = CONDITIONS[form], latents(Few(CONDITIONS[form]), flip=True)
    found = made.conditions(torch.tensor([3, COUNT + 3]))
    pairs = [(found[key], given[key]) for key in given] if form == "dict" else [(found, given)]
    for kept, original in pairs:
        assert kept.dtype == original.dtype
        assert torch.equal(kept, original[[3, 3]])


def test_captions_become_conditions_of_training_and_evaluation():
    data = MatchingDataModule(Latents(Few(), Counting(), texts=Lengths()), batch_size=4, labels=True, eval_samples=12)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.x1.shape == (4, 1, 4, 4)
    assert batch.y["text"].shape == (4, 3)
    told = torch.cat([each.y["text"][:, 0] for each in data.val_dataloader()])
    assert told.tolist() == [8.0] * 10 + [9.0] * 2


WRONG = {
    "no encoder": (lambda: Latents(Few(), nn.Linear(2, 2)), "encoder must have encode, decode and latent_shape"),
    "twice": (lambda: Latents(Latents(Few(), Blocks()), Blocks()), "samples that have not been encoded before"),
    "no batch": (lambda: Latents(Few(), Blocks(), batch_size=0), "batch_size must be at least 1"),
    "mirrored late": (
        lambda: MatchingDataModule(Latents(Few(), Blocks()), flip=True),
        "flip: true cannot mirror latents: set the flip of Latents",
    ),
    "degraded late": (lambda: Degraded(Latents(Few(), Blocks()), Inpainting()), r"Latents\(Degraded\(...\)\)"),
    "held out of another shape": (
        lambda: MatchingDataModule(Latents(Few(), Blocks()), held_out=SmallImages()),
        r"held_out must have samples of shape \(1, 8, 8\)",
    ),
}


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.replace(" ", "-"))
def test_what_does_not_go_together_is_refused(case):
    make, told = WRONG[case]
    with pytest.raises(UserError, match=told):
        make()


@pytest.mark.parametrize(
    ("answer", "told"),
    [(torch.zeros(3, 1, 2, 2), r"numbers of shape \(3, 1, 4, 4\)"), (torch.full((3, 1, 4, 4), torch.nan), "finite")],
)
def test_an_encoder_that_answers_wrongly_is_refused(answer, told, monkeypatch):
    monkeypatch.setattr(Blocks, "encode", lambda self, x: answer)
    with pytest.raises(UserError, match=told):
        latents(encoder=Blocks())


# ------------------------------------------------------------------------------------------ what is made of latents


@pytest.fixture
def run(tmp_path):
    """A distillation in latents, with everything that looks at its samples; its last checkpoint."""
    data = MatchingDataModule(Latents(Few(), Blocks()), batch_size=4, eval_samples=9, predict_seeds="0-4")
    callbacks = [MetricsCallback(RawFeatures([1, 8, 8])), SampleGrid(4), PredictionWriter(str(tmp_path), "npz")]
    model = RealUIDModule(mlp((1, 4, 4)), None, fake_steps=1, ema=[0.5], eval_batch_size=4)
    made = fit(model, data, tmp_path, 2, limit_val_batches=1.0, val_check_interval=2, callbacks=callbacks)
    made.save_checkpoint(tmp_path / "last.ckpt")
    made.predict(model, data, return_predictions=False)
    return tmp_path


def test_samples_are_measured_drawn_and_written_decoded(run):
    figures = measurements(run)
    assert {row["sampler"] for row in figures} == {"raw", "ema_0.5"}
    assert all(row["protocol"]["reference"].startswith("Few-20-1x8x8") for row in figures)
    assert list((run / "samples" / "raw").glob("*.png"))
    written = np.load(run / "samples.npz")["samples"]
    assert written.shape == (5, 8, 8, 1)
    assert (written[:, ::2, ::2] == written[:, 1::2, 1::2]).all()  # blocks


def test_a_generator_comes_back_with_what_decodes_its_samples(run):
    file, z = run / "last.ckpt", torch.randn(3, 1, 4, 4)
    bare = load_generator(file, decoder=False)(z)
    assert bare.shape == (3, 1, 4, 4)
    assert torch.equal(load_generator(file)(z), Blocks().decode(bare))
    assert torch.equal(load_generator(file, decoder=Blocks(4.0))(z), Blocks(4.0).decode(bare))
    export_generator(file, run / "out.safetensors")
    assert torch.equal(load_generator(run / "out.safetensors")(z), Blocks().decode(bare))
    export_program(file, run / "out.pt2")
    torch.testing.assert_close(torch.export.load(run / "out.pt2").module()(z=z), Blocks().decode(bare))
    cli.main(["sample", str(file), "--out", str(run / "made.npz"), "--count", "5"])
    assert np.load(run / "made.npz")["samples"].shape == (5, 8, 8, 1)


def test_a_generator_is_refused_whose_encoder_has_changed(run, monkeypatch):
    monkeypatch.setattr(Blocks, "decode", lambda self, z: z)
    with pytest.raises(UserError, match=r"latents of Blocks-\w+, but Blocks\(gain=2.0\) is Blocks-\w+ by now"):
        load_generator(run / "last.ckpt")


def test_networks_of_other_latents_are_refused(run):
    for source, here in ((Latents(Few(), Blocks(4.0)), r"Blocks\(gain=4.0\)"), (SmallImages(), "none")):
        data = MatchingDataModule(source, batch_size=4)
        model = RealUIDModule(mlp((1, 4, 4)), None, fake_steps=1, ema=[0.5])
        with pytest.raises(UserError, match=rf"ckpt_path: made on latents of Blocks\(gain=2.0\).* is {here}"):
            fit(model, data, run, 4, run / "last.ckpt")
        model = RealUIDModule(mlp((1, 4, 4)), None, generator_ckpt=str(run / "last.ckpt"))
        with pytest.raises(UserError, match=rf"last.ckpt: made on latents of Blocks\(gain=2.0\).* is {here}"):
            fit(model, data, run)


@pytest.mark.parametrize("decoder", [3, {"record": 1, "fingerprint": ""}, {"record": None}, [], {"fingerprint": ""}])
def test_a_hostile_record_of_an_encoder_is_refused(tmp_path, decoder):
    content = checkpoint(TeacherModule(mlp()))
    content[RECORD]["decoder"] = decoder
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "t.ckpt")
    with pytest.raises(UserError, match="decoder must be record and fingerprint of an encoder, or null"):
        load_teacher(tmp_path / "t.ckpt")


def test_source_ends_are_encoded_too(tmp_path):
    origin = Latents(Degraded(Few(), Inpainting()), Blocks())
    data = MatchingDataModule(Latents(Few(), Blocks()), origin=origin, batch_size=4, eval_samples=4)
    model = TeacherModule(mlp((1, 4, 4), condition_channels=1), BridgePath(), ema=[], sampling_steps=[1])
    trainer(tmp_path, callbacks=[SampleGrid(4)]).validate(model, data, verbose=False)
    names = {folder.name for folder in (tmp_path / "samples").iterdir()}
    assert {"source", "truth"} <= names


def test_the_example_encodes_digits(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples")
    from digits_in_latents import Components

    made = latents(Digits(), Components(16), batch_size=1024)
    z, _ = everything(made)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(16), rtol=1e-3, atol=0)
    x = to_floats(everything(Digits())[0])
    assert (made.decode(z) - x).square().mean() < 0.2 * x.var(0).mean()  # so much of the variance is in 16 of 64
    module = TeacherModule(mlp((16,)), ema=[])
    fit(module, MatchingDataModule(made, batch_size=4), tmp_path, 1).save_checkpoint(tmp_path / "t.ckpt")
    assert load_teacher(tmp_path / "t.ckpt", steps=2, trust=["digits_in_latents"])(z[:3]).shape == (3, 1, 8, 8)


# ------------------------------------------------------------------------------------------------------ of diffusers


@pytest.mark.parametrize("shift", [None, 0.25])
def test_an_autoencoder_of_diffusers_scales_as_its_config_says(tmp_path, shift):
    model = autoencoder(tmp_path / "vae", scaling_factor=0.5, shift_factor=shift)
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        mean = model.encode(x).latent_dist.mean
        for folder in (tmp_path, tmp_path / "vae"):
            encoder = DiffusersEncoder(str(folder))
            z = encoder.encode(x)
            torch.testing.assert_close(z, (mean - (shift or 0)) * 0.5)
            torch.testing.assert_close(encoder.decode(z), model.decode(mean).sample)
            assert encoder.latent_shape((1, 8, 8)) == (3, 4, 4) == tuple(z.shape[1:])
    loaded = pickle.loads(pickle.dumps(encoder))
    assert loaded.model is None
    torch.testing.assert_close(loaded.encode(x), z)


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_a_program_decodes_by_an_autoencoder_in_batches_of_any_size(tmp_path, suffix):
    autoencoder(tmp_path / "vae")
    made = Latents(Digits(), DiffusersEncoder(str(tmp_path / "vae")))
    content = checkpoint(RealUIDModule(mlp(made.shape), None, ema=[]))
    content[RECORD]["decoder"] = made.decoder
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "g.ckpt")
    file, z = tmp_path / f"g.{suffix}", torch.randn(70, *made.shape, generator=torch.Generator().manual_seed(0))
    if suffix == "pt2":
        export_program(tmp_path / "g.ckpt", file)
        samples = torch.export.load(file).module()(z=z)
    else:
        runtime = pytest.importorskip("onnxruntime")
        export_onnx(tmp_path / "g.ckpt", file)
        samples = torch.from_numpy(runtime.InferenceSession(file).run(None, {"z": z.numpy()})[0])
    assert samples.shape == (70, 1, 8, 8)
    torch.testing.assert_close(samples, load_generator(tmp_path / "g.ckpt")(z).detach(), rtol=1e-4, atol=1e-4)


def test_an_autoencoder_is_known_by_its_content(tmp_path):
    autoencoder(tmp_path / "a")
    autoencoder(tmp_path / "b" / "vae")
    autoencoder(tmp_path / "c", seed=1)
    one, same, other = (DiffusersEncoder(str(tmp_path / name)).fingerprint() for name in "abc")
    assert one == same != other


def test_a_folder_without_a_sound_autoencoder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"folder must hold config.json and .* cannot be read"):
        DiffusersEncoder(str(tmp_path)).latent_shape((1, 8, 8))
    autoencoder(tmp_path)
    with pytest.raises(UserError, match="encodes images of 1 channels whose sides 2 divides"):
        DiffusersEncoder(str(tmp_path)).latent_shape((3, 8, 8))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    with pytest.raises(UserError, match="that fit each other, but"):
        DiffusersEncoder(str(tmp_path)).encode(torch.zeros(1, 1, 8, 8))
    weights.rename(tmp_path / "diffusion_pytorch_model.bin")  # a pickle is not looked at
    with pytest.raises(UserError, match="that fit each other, but"):
        DiffusersEncoder(str(tmp_path)).encode(torch.zeros(1, 1, 8, 8))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DModel"}))
    with pytest.raises(UserError, match="expected the config of an AutoencoderKL"):
        DiffusersEncoder(str(tmp_path)).latent_shape((1, 8, 8))


# -------------------------------------------------------------------------------------------------- several processes

SCRIPT = """
import os
import sys
import torch.distributed as dist

sys.path.insert(0, sys.argv[2])
from realuid_lightning.data import Digits, Latents, encoded
from small_encoders import Blocks

encoded.PART = 256
dist.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
parts, write = [], encoded.write_tensors
encoded.write_tensors = lambda tensors, file, told: (parts.append(file.name), write(tensors, file, told))
Latents(Digits(), Blocks(), cache=sys.argv[1]).setup()
print(len(parts))
"""


def test_two_processes_share_the_work_and_make_the_files_of_one(tmp_path, monkeypatch):
    script, tests = tmp_path / "script.py", Path(__file__).parents[2]
    script.write_text(SCRIPT)
    two = processes.run(script, tmp_path / "two", tests, count=2)
    assert two.returncode == 0, two.stderr
    assert two.stdout.split() == ["4", "4"]
    monkeypatch.setattr(encoded, "PART", 256)
    latents(Digits(), Blocks(), batch_size=32, cache=str(tmp_path / "one"))
    (shared,), (alone,) = ((tmp_path / name).iterdir() for name in ("two", "one"))
    assert shared.name == alone.name
    assert len(list(shared.iterdir())) == 8
    for file in alone.iterdir():
        assert file.read_bytes() == (shared / file.name).read_bytes()
