"""Evaluation and prediction by three processes must give what one gives; one of them alone looks at the files."""

import processes
import pytest
from helpers import measurements
from PIL import Image

SCRIPT = """
import sys
import warnings
import torch
from helpers import mlp, trainer

from realuid_lightning.evaluation import MetricsCallback, PredictionWriter, SampleGrid
from realuid_lightning.data import Digits, ImageFolder, MatchingDataModule
from realuid_lightning.data.sharing import by_one
from realuid_lightning.errors import UserError
from realuid_lightning.metrics import FID, KID, MMD, PRDC, InceptionScore, Modes, RawFeatures, Wasserstein
from realuid_lightning.modules import RealUIDModule

warnings.simplefilter("error", UserWarning)
torch.set_num_threads(1)
devices, folder = int(sys.argv[1]), sys.argv[2]


class Quadrants(RawFeatures):
    num_classes = 4

    def logits(self, vectors):
        return vectors[:, 20:24]


metrics = [FID(), KID(subset_size=30), PRDC(samples=80), MMD([2.0]), Wasserstein(50), Modes(), InceptionScore(splits=2)]
callbacks = [MetricsCallback(Quadrants([1, 8, 8]), metrics), SampleGrid(9), PredictionWriter(folder, "npz")]
trainer = trainer(folder, devices=devices, strategy="ddp" if devices > 1 else "auto", callbacks=callbacks)
model = RealUIDModule(mlp(num_classes=10), None, eval_batch_size=7)
data = MatchingDataModule(Digits(), labels=True, eval_samples=101, predict_seeds="5-40,3")
trainer.validate(model, data, verbose=False)
first = {name: float(figure) for name, figure in trainer.callback_metrics.items()}
trainer.validate(model, data, verbose=False)  # the statistics of real data come from the cache
assert {name: float(figure) for name, figure in trainer.callback_metrics.items()} == first
trainer.predict(model, data, return_predictions=False)

rank, listed = trainer.global_rank, []


class Watched(ImageFolder):
    def listing(self):
        listed.append(rank)
        return super().listing()


def refuse():
    raise UserError(f"told by {rank}")


source = Watched(folder + "/images", size=4, unreadable="skip")
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    source.setup()
assert len(told) == (rank == 0), told
assert (len(source), listed) == (2, [] if rank else [0])
try:
    by_one(refuse)
except UserError as error:
    assert str(error) == "told by 0"
else:
    raise AssertionError(rank)
"""


def run(folder, devices):
    folder.mkdir()
    images = folder / "images"
    images.mkdir()
    for seed in range(2):
        Image.new("RGB", (4, 4), seed).save(images / f"{seed}.png")
    (images / "bad.png").touch()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    done = processes.run(script, devices, folder, count=devices, XDG_CACHE_HOME=str(folder / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    return measurements(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation")
    return {devices: (root / str(devices), run(root / str(devices), devices)) for devices in (1, 3)}


def test_figures_are_the_same(runs):
    (_, one), (_, three) = runs.values()
    assert one[0]["figures"]["fid"] > 1
    assert [row["sampler"] for row in three] == ["raw", "ema_0.999"] * 2
    for alone, together in zip(one, three, strict=True):
        for kind in ("figures", "floor", "gaussian"):
            assert together.pop(kind) == pytest.approx(alone[kind], rel=1e-5, abs=1e-9)  # by rounding
        assert together.items() <= alone.items()


def test_predictions_and_pictures_are_the_same_bytes(runs):
    for name in ("samples.npz", "samples/raw/step_00000000.png"):
        one, three = ((folder / name).read_bytes() for folder, _ in runs.values())
        assert three == one


def test_real_data_were_cached_once(runs):
    for folder, _ in runs.values():
        assert len(list((folder / "cache" / "realuid_lightning").iterdir())) == 1
