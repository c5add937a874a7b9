import numpy as np
import pytest
import torch
from helpers import mlp, rebatched, trainer
from PIL import Image

from realuid_lightning.data import Digits, Gaussian, MatchingDataModule
from realuid_lightning.evaluation import PredictionWriter
from realuid_lightning.metrics import to_bytes
from realuid_lightning.modules import RealUIDModule

SEEDS = "40-49,3,100-119,7"
INDICES = [*range(40, 50), 3, *range(100, 120), 7]


def module(shape=(1, 8, 8), num_classes=None):
    return RealUIDModule(mlp(shape, num_classes=num_classes), teacher_ckpt=None)


def predict(root, writer, model=None, source=None, batch_size=7, labels=False):
    data = rebatched(MatchingDataModule(source or Digits(), labels=labels, predict_seeds=SEEDS), batch_size)
    made = torch.cat(trainer(root, callbacks=[writer]).predict(model or module(), data))
    return made[torch.tensor(INDICES).argsort()]


def test_every_sample_is_an_image_named_by_its_index(tmp_path):
    samples = predict(tmp_path, PredictionWriter(str(tmp_path / "out")))
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"{index:06d}.png" for index in sorted(INDICES)]
    for file, image in zip(files, to_bytes(samples), strict=True):
        assert (np.asarray(Image.open(file)) == image[0].numpy()).all()


def test_colours_keep_their_order(tmp_path):
    class Colours(Digits):
        shape = (3, 8, 8)

    samples = predict(tmp_path, PredictionWriter(str(tmp_path / "out")), module((3, 8, 8)), Colours())
    image = np.asarray(Image.open(tmp_path / "out" / "000003.png"))
    assert (image == to_bytes(samples[:1])[0].permute(1, 2, 0).numpy()).all()


def test_an_archive_is_in_the_order_of_the_indices(tmp_path):
    samples = predict(tmp_path, PredictionWriter(str(tmp_path / "out"), "npz"))
    with np.load(tmp_path / "out" / "samples.npz") as archive:
        assert set(archive) == {"index", "samples"}
        assert archive["index"].tolist() == sorted(INDICES)
        assert archive["samples"].dtype == np.uint8
        assert (archive["samples"] == to_bytes(samples).permute(0, 2, 3, 1).numpy()).all()


def test_labels_come_along(tmp_path):
    predict(tmp_path, PredictionWriter(str(tmp_path / "out"), "npz"), module(num_classes=10), labels=True)
    with np.load(tmp_path / "out" / "samples.npz") as archive:
        assert archive["labels"].tolist() == [index % 10 for index in sorted(INDICES)]


@pytest.mark.parametrize("form", ["png", "npz"])
def test_vectors_always_go_into_an_archive(tmp_path, form):
    source = Gaussian([0.0, 0.0], [1.0, 1.0])
    samples = predict(tmp_path, PredictionWriter(str(tmp_path / "out"), form), module((2,)), source)
    with np.load(tmp_path / "out" / "samples.npz") as archive:
        assert archive["samples"].dtype == np.float32
        assert (archive["samples"] == samples.numpy()).all()


@pytest.mark.parametrize("form", ["png", "npz"])
def test_files_are_the_same_bytes_for_any_batch_size(tmp_path, form):
    contents = []
    for size in (7, 64):
        folder = tmp_path / str(size)
        predict(tmp_path, PredictionWriter(str(folder), form), module(num_classes=10), batch_size=size, labels=True)
        contents.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert contents[0] == contents[1]
    assert contents[0]


def test_a_second_prediction_replaces_the_first(tmp_path):
    writer = PredictionWriter(str(tmp_path / "out"), "npz")
    predict(tmp_path, writer)
    first = (tmp_path / "out" / "samples.npz").read_bytes()
    predict(tmp_path, writer)
    assert (tmp_path / "out" / "samples.npz").read_bytes() == first


def test_the_folder_is_in_the_run_unless_named(tmp_path):
    predict(tmp_path, PredictionWriter(format="npz"))
    assert (tmp_path / "samples" / "samples.npz").is_file()
