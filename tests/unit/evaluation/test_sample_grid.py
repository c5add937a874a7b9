import numpy as np
import pytest
import torch
from helpers import mlp, rebatched, trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from realuid_lightning.data import Degraded, Digits, Gaussian, MatchingDataModule, Sketch, to_floats
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation import SampleGrid
from realuid_lightning.evaluation.grids import draw
from realuid_lightning.metrics import to_bytes
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.paths import FlowMatchingPath


class Translating(FlowMatchingPath):
    translates = True


def validate(folder, source, count, batch_size=7, logger=False, shape=(1, 8, 8), path=None, **options):
    model = RealUIDModule(mlp(shape), teacher_ckpt=None, path=path)
    data = rebatched(MatchingDataModule(source, eval_samples=30, **options), batch_size)
    trainer(folder, logger=logger, callbacks=[SampleGrid(count)]).validate(model, data, verbose=False)
    with torch.no_grad():
        return model.generator(torch.cat([batch.z for batch in data.val_dataloader()]))


def picture(folder, name="raw", step=0):
    return np.asarray(Image.open(folder / "samples" / name / f"step_{step:08d}.png"))


def test_the_first_samples_make_a_grid_of_enlarged_images(tmp_path):
    samples = validate(tmp_path, Digits(), 9)
    grid = picture(tmp_path)
    assert grid.shape == (3 * 34 + 2, 3 * 34 + 2, 3)
    for index, image in enumerate(to_bytes(samples[:9])):
        top, left = 2 + index // 3 * 34, 2 + index % 3 * 34
        cell = grid[top : top + 32, left : left + 32]
        expected = np.kron(image[0].numpy(), np.ones((4, 4), dtype=np.uint8))
        assert (cell == expected[..., None]).all()
    assert (grid[:2] == 0).all()


def test_every_sampler_has_a_picture_and_no_batch_size_changes_it(tmp_path):
    for size in (7, 30):
        validate(tmp_path / str(size), Digits(), 20, size)
    for name in ("raw", "ema_0.999"):
        assert (picture(tmp_path / "7", name) == picture(tmp_path / "30", name)).all()
    assert sorted(file.name for file in (tmp_path / "7" / "samples").iterdir()) == ["ema_0.999", "raw"]


def test_fewer_samples_than_wanted_are_shown(tmp_path):
    validate(tmp_path, Digits(), 1000)
    assert picture(tmp_path).shape == (5 * 34 + 2, 6 * 34 + 2, 3)


def test_points_make_a_density(tmp_path):
    samples = validate(tmp_path, Gaussian([0.0, 0.0], [1.0, 1.0]), 30, shape=(2,))
    density = picture(tmp_path)
    assert density.shape == (256, 256)
    inside = samples[(samples.abs() < 3).all(1)]
    for x, y in inside.tolist():
        assert density[255 - int((y + 3) / 6 * 256), int((x + 3) / 6 * 256)] > 0
    assert np.unique(density[::4, ::4][density[::4, ::4] > 0]).max() == 255


def test_other_data_are_not_drawn(tmp_path):
    validate(tmp_path, Gaussian([0.0] * 3, [1.0] * 3), 30, shape=(3,))
    assert not (tmp_path / "samples").exists()


def test_source_ends_and_their_truth_are_drawn_once(tmp_path):
    source = Digits()
    for name, options in {"paired": {}, "unpaired": {"paired": False}}.items():
        validate(tmp_path / name, source, 9, path=Translating(), origin=Degraded(source, Sketch()), **options)
        found = sorted(file.name for file in (tmp_path / name / "samples").iterdir())
        assert found == ["ema_0.999", "raw", "source", *(["truth"] if name == "paired" else [])]
        real = source.get(torch.arange(9))[0]
        for folder, images in (("source", Sketch()(real)), ("truth", real)):
            if folder in found:
                expected = draw(to_floats(images)).permute(1, 2, 0).numpy()
                assert (picture(tmp_path / name, folder) == expected).all()


def test_tensorboard_shows_the_same_picture(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    shown = []
    logger.experiment.add_image = lambda *arguments: shown.append(arguments)
    validate(tmp_path, Digits(), 4, logger=logger)
    tags, images, steps = zip(*shown, strict=True)
    assert tags == ("samples/raw", "samples/ema_0.999")
    assert steps == (0, 0)
    assert (images[0].permute(1, 2, 0).numpy() == picture(tmp_path)).all()


def test_draw_knows_the_axes_of_a_density():
    points = torch.tensor([[2.99, -2.99]] * 3 + [[0.01, 0.01]])  # lower right, thrice; just beyond the centre, once
    found = draw(points)
    assert found.shape == (1, 256, 256)
    assert found.dtype == torch.uint8
    assert found[0, -1, -1] == 255
    assert found[0, 127, 128] == 85
    assert found.count_nonzero() == 2 * 16


def test_points_outside_leave_an_empty_picture():
    assert not draw(torch.full((3, 2), 9.0)).any()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 3, 64, 64), (3, 2 * 66 + 2, 2 * 66 + 2)),
        ((2, 3, 20, 20), (3, 42 + 2, 2 * 42 + 2)),
        ((1, 1, 8, 8), (3, 32, 32)),
        ((3, 2, 8, 8), None),
        ((3, 4), None),
    ],
)
def test_what_draw_makes_of_a_shape(shape, expected):
    found = draw(torch.zeros(shape))
    assert (None if found is None else tuple(found.shape)) == expected


def test_no_samples_make_no_picture():
    with pytest.raises(UserError, match="SampleGrid: count must be at least 1, got 0"):
        SampleGrid(0)
