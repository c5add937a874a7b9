"""``realuid sample`` makes of a file alone what ``realuid predict`` makes of a config and that file."""

import numpy as np
import pytest
import torch
from helpers import checkpoint, mlp, trainer
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from realuid_lightning import load_generator, load_teacher
from realuid_lightning.checkpoints import export_generator
from realuid_lightning.checkpoints.io import AtomicCheckpointIO
from realuid_lightning.data import LatentDataset, MatchingDataModule, MemorySource
from realuid_lightning.evaluation import PredictionWriter
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.paths import BridgePath
from realuid_lightning.recorded import Recorded
from realuid_lightning.solvers import Ancestral, Heun

TEACHER, GUIDED = (["--ema=0.5", "--steps=6", word] for word in ("--solver=Ancestral", "--guidance=1.5"))


def saved(module, file):
    if isinstance(module, RealUIDModule):
        module.start()
    AtomicCheckpointIO().save_checkpoint(checkpoint(module), file)
    return file


def labelled(shape=(1, 8, 8)):
    return mlp(shape, num_classes=4, null_label=True)


@pytest.fixture
def teacher(tmp_path):
    return saved(TeacherModule(labelled(), ema=[0.9]), tmp_path / "teacher.ckpt")


@pytest.fixture
def generator(tmp_path):
    return saved(RealUIDModule(labelled(), None, sampling_steps=2), tmp_path / "generator.ckpt")


@pytest.fixture
def sampled(realuid, tmp_path):
    """What is written into a .npz file."""

    def call(*words):
        code, written = realuid("sample", *words, "--device=cpu", f"--out={tmp_path / 'made.npz'}")
        assert code == 0, written
        return dict(np.load(tmp_path / "made.npz"))

    return call


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RealUIDModule(labelled(), None, sampling_steps=2, ema=[0.5]), ["--ema=0.5"]),
        (lambda: TeacherModule(labelled(), ema=[0.5], sampling_steps=[6], solver=Ancestral()), TEACHER),
        (
            lambda: TeacherModule(labelled(), ema=[0.5], sampling_steps=[6], guidance=1.5),
            [*TEACHER[:2], "--guidance=1.5"],
        ),
    ],
    ids=["generator", "stochastic teacher", "guided teacher"],
)
def test_it_makes_what_predict_makes(sampled, tmp_path, make, words):
    module = make()
    file = saved(module, tmp_path / "last.ckpt")
    data = MatchingDataModule(Quarters(), 8, labels=True, predict_seeds="0-9", eval_seed=3)
    trainer(tmp_path, callbacks=[PredictionWriter(str(tmp_path), "npz")]).predict(module, data)
    expected = np.load(tmp_path / "samples.npz")
    found = sampled(file, *words, "--count=10", "--seed=3", "--batch=256")
    assert found.keys() == {"index", "samples", "labels"}
    assert all((found[name] == expected[name]).all() for name in found)


class Quarters(MemorySource):
    """Images of four classes."""

    shape, num_classes = (1, 8, 8), 4

    def load(self):
        return torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8) % 4


def test_pictures_are_those_of_the_archive(realuid, sampled, generator, tmp_path):
    words = [generator, "--count=10", "--batch=4"]
    samples = sampled(*words)["samples"]
    code, written = realuid("sample", *words, f"--out={tmp_path / 'png'}", f"--grid={tmp_path / 'grid.png'}")
    assert code == 0
    assert "grid.png: written" in written
    for index, image in enumerate(samples):
        with Image.open(tmp_path / "png" / f"{index:06d}.png") as picture:
            assert (np.asarray(picture) == image[..., 0]).all()
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (4 * 34 + 2, 3 * 34 + 2)


def test_without_a_word_it_draws_a_picture_here(realuid, generator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, written = realuid("sample", generator)
    assert code == 0
    assert sorted(written.splitlines()) == [
        f"{generator}: raw weights; it also holds averages of decay 0.999: --ema",
        "samples.png: written",
    ]
    assert (tmp_path / "samples.png").is_file()


def test_labels_come_in_turn(sampled, generator):
    every, chosen = sampled(generator, "--count=9"), sampled(generator, "--count=9", "--labels=3,1-2,3")
    assert every["labels"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert chosen["labels"].tolist() == [3, 1, 2, 3, 3, 1, 2, 3, 3]
    same = every["labels"] == chosen["labels"]
    assert (every["samples"][same] == chosen["samples"][same]).all()
    assert (every["samples"][~same] != chosen["samples"][~same]).any()


def test_a_sample_depends_on_its_index_and_the_seed_alone(sampled, generator):
    first, more = sampled(generator, "--count=5", "--batch=8"), sampled(generator, "--count=21", "--batch=8")
    assert (first["samples"] == more["samples"][:5]).all()
    assert (sampled(generator, "--count=5", "--batch=8", "--seed=1")["samples"] != first["samples"]).any()


def test_a_generator_of_many_steps_makes_do_with_fewer(sampled, generator):
    z = LatentDataset(torch.arange(4), (1, 8, 8)).__getitems__(range(4)).z
    one = load_generator(generator)
    one.steps = 1
    found = sampled(generator, "--steps=1", "--count=4", "--batch=4")["samples"]
    assert_near(found, one(z, torch.arange(4)))
    assert (sampled(generator, "--count=4", "--batch=4")["samples"] != found).any()


def assert_near(found, samples):
    levels = ((samples.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.from_numpy(found).float(), levels, rtol=0, atol=0.51)


def test_a_teacher_is_solved_and_guided_as_asked(sampled, teacher):
    z, y = LatentDataset(torch.arange(4), (1, 8, 8)).__getitems__(range(4)).z, torch.arange(4)
    found = sampled(teacher, "--steps=6", "--solver=Heun", "--guidance=2", "--count=4", "--batch=4")["samples"]
    assert_near(found, load_teacher(teacher, steps=6, solver=Heun(), guidance=2.0)(z, y))
    plain = sampled(teacher, "--steps=6", "--solver=Heun", "--count=4", "--batch=4")["samples"]
    assert (plain != found).any()
    words = ["--steps=6", "--solver=Ancestral", "--batch=4"]
    ancestral = [sampled(teacher, *words, f"--count={count}")["samples"] for count in (4, 9)]
    assert (ancestral[0] == ancestral[1][:4]).all()


def test_an_export_is_sampled_as_its_checkpoint(sampled, generator, tmp_path):
    export_generator(generator, tmp_path / "generator.safetensors", ema=0.999)
    found = sampled(tmp_path / "generator.safetensors", "--count=3")["samples"]
    assert (found == sampled(generator, "--ema=0.999", "--count=3")["samples"]).all()


def test_points_and_latents_go_into_an_archive(realuid, sampled, tmp_path):
    file = saved(RealUIDModule(mlp([2]), None), tmp_path / "points.ckpt")
    assert sampled(file, "--count=7")["samples"].shape == (7, 2)
    assert realuid("sample", file, f"--grid={tmp_path / 'density.png'}")[0] == 0
    file = saved(RealUIDModule(mlp([4, 8, 8]), None), tmp_path / "latents.ckpt")
    assert sampled(file, "--count=7")["samples"].dtype == np.float32
    code, written = realuid("sample", file)
    assert code == 2
    assert "are neither images nor points in the plane: name a .npz file by --out" in written


def test_a_translating_model_begins_at_images(realuid, sampled, tmp_path):
    path = BridgePath()
    made = RealUIDModule(mlp(condition_channels=path.conditions), None, path=path)
    file, photos = saved(made, tmp_path / "bridge.ckpt"), tmp_path / "photos"
    photos.mkdir()
    for name, level in (("a", 30), ("b", 220)):
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(photos / f"{name}.png")
    found = sampled(file, f"--origin={photos}", "--count=4", "--batch=4")["samples"]
    latents = LatentDataset(torch.arange(4), (1, 8, 8)).__getitems__(range(4))
    x0 = (torch.tensor([30.0, 220.0, 30.0, 220.0]) / 127.5 - 1)[:, None, None, None].expand(4, 1, 8, 8)
    assert_near(found, load_generator(file)(latents.z, None, x0))
    code, written = realuid("sample", file)
    assert (code, "name a folder of images, --origin FOLDER" in written) == (2, True)


class Told(Recorded, nn.Module):
    """A network that is told two numbers."""

    shape = (2,)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, t, x, y=None):
        return x * self.weight + y["ones"] + 10 * y["tens"]


def test_conditions_of_other_forms_come_from_a_file(sampled, tmp_path):
    file = saved(RealUIDModule(Told(), None), tmp_path / "told.ckpt")
    numbers = {"ones": torch.tensor([1.0, 2.0, 3.0])[:, None], "tens": torch.zeros(3, 1)}
    save_file(numbers, tmp_path / "numbers.safetensors")
    found = sampled(file, f"--conditions={tmp_path / 'numbers.safetensors'}", "--count=4", "--batch=4")["samples"]
    z = LatentDataset(torch.arange(4), (2,)).__getitems__(range(4)).z
    y = {name: part[[0, 1, 2, 0]] for name, part in numbers.items()}
    torch.testing.assert_close(torch.from_numpy(found), load_generator(file)(z, y))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.ckpt"], "gone.ckpt: expected a checkpoint file, but there is no such file"),
        (["{generator}", "--count=0", "--batch=0"], "sample: --batch must be at least 1, got 0"),
        (["{generator}", "--grid=out.txt"], "--grid is a PNG file: expected a name that ends with .png, got out.txt"),
        (["{generator}", "--labels=4"], "--labels: expected classes from 0 to 3, got 4"),
        (["{generator}", "--labels=a"], "expected indices such as 0-63,100,200-299, got 'a'"),
        (["{generator}", "--labels=1", "--conditions=y"], "--labels and --conditions: leave one of them out"),
        (["{generator}", "--guidance=2"], "holds a generator, which knows no --guidance"),
        (["{generator}", "--steps=3"], "--steps must divide 2, those of the generator, got 3"),
        (["{generator}", "--origin=photos"], "begins at noise: leave --origin out"),
        (["{generator}", "--device=abacus"], "--device abacus: "),
        (["{generator}", "--ema=0.3"], "no average of decay 0.3; available: 0.999"),
        (["{generator}", "--conditions={generator}"], "expected tensors with as many rows"),
        (["{teacher}", "--solver=Magic"], "solver"),
        (["{teacher}", "--steps=0"], "sample: --steps must be at least 1, got 0"),
    ],
)
def test_mistakes_are_told(realuid, words, message, teacher, generator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, written = realuid("sample", *(word.format(teacher=teacher, generator=generator) for word in words))
    assert code == 2, written
    assert message in written
    assert len(written) < 1000
    assert not list(tmp_path.glob("*.png"))


def test_a_target_that_is_a_folder_is_named(realuid, generator, tmp_path):
    (tmp_path / "out.png").mkdir()
    code, written = realuid("sample", str(generator), "--count=1", f"--grid={tmp_path / 'out.png'}")
    assert code == 2, written
    assert f"error: {tmp_path / 'out.png'}: Is a directory; check the path" in written
