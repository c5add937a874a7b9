import json
import math
import os

import helpers
import processes
import pytest
import torch
from lightning.pytorch import LightningModule
from torchmetrics.functional.image import structural_similarity_index_measure

from realuid_lightning.cli.report import report
from realuid_lightning.data import (
    Degraded,
    Digits,
    Inpainting,
    MatchingDataModule,
    MemorySource,
    SuperResolution,
    Toy2D,
    to_floats,
)
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation import FidelityCallback
from realuid_lightning.evaluation.fidelity import window_std

SAMPLES = 50
HOW = Inpainting()


class Fixed(LightningModule):
    """Its samplers are known functions of source ends and truth."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def evaluated(self):
        return {
            "source": lambda batch: batch.x0,
            "half": lambda batch: (batch.x0 + batch.x1) / 2,
            "loud": lambda batch: 3.0 * batch.x0,
        }

    def validation_step(self, batch, _):
        return {name: sampler(batch) for name, sampler in self.evaluated().items()}

    test_step = validation_step

    def training_step(self, batch, _):
        return self.weight * batch.x1.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Sided(MemorySource):
    """A few images of noise of any size."""

    num_classes = None

    def __init__(self, *shape):
        self._shape = shape

    @property
    def shape(self):
        return self._shape

    def load(self):
        generator = torch.Generator().manual_seed(len(self._shape))
        return torch.randint(256, (8, *self._shape), generator=generator).to(torch.uint8), None


def data(source=None, how=HOW, batch_size=7, samples=SAMPLES, **options):
    source = source or Digits()
    made = MatchingDataModule(source, 4, origin=Degraded(source, how), eval_samples=samples, **options)
    return helpers.rebatched(made, batch_size)


def trainer(folder, **options):
    return helpers.trainer(folder, callbacks=[FidelityCallback()], **options)


def validate(folder, datamodule, model=None, **options):
    (figures,) = trainer(folder, **options).validate(model or Fixed(), datamodule, verbose=False)
    return figures


def rows(folder):
    return helpers.measurements(folder, "fidelity.jsonl")


def ends(source=None, how=HOW, samples=SAMPLES):
    """Return source ends and truth as floats."""
    source = source or Digits()
    images = source.get(torch.arange(samples) % len(source))[0]
    return to_floats(how(images)).double(), to_floats(images).double()


def decibel(x, truth):
    return 10 * math.log10(4 / float((x - truth).square().mean()))


def similarity(x, truth, width, std):
    """Return the mean structural similarity, written out."""
    place = torch.arange(width).double() - width // 2
    line = (-(place**2) / (2 * std**2)).exp()
    window = torch.outer(line, line) / line.sum() ** 2

    def mean(values):
        padded = torch.nn.functional.pad(values, [width // 2] * 4, mode="reflect")
        return (padded.unfold(2, width, 1).unfold(3, width, 1) * window).sum((-1, -2))

    one, two = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    a, b = mean(x), mean(truth)
    aa, bb, ab = mean(x * x) - a * a, mean(truth * truth) - b * b, mean(x * truth) - a * b
    return float(((2 * a * b + one) * (2 * ab + two) / ((a * a + b * b + one) * (aa + bb + two))).mean())


def test_figures_are_the_closed_forms(tmp_path):
    figures = validate(tmp_path, data())
    x0, truth = ends()
    made = {"source": x0, "half": (x0 + truth) / 2, "loud": (3 * x0).clamp(-1, 1)}
    assert list(figures) == [f"{kind}/{name}" for name in made for kind in ("psnr", "ssim")]
    for row, (name, x) in zip(rows(tmp_path), made.items(), strict=True):
        # The window of 8 x 8 images: 7 pixels wide.
        expected = decibel(x, truth), similarity(x, truth, 7, 3 / 3.5)
        assert (row["psnr"], row["ssim"]) == pytest.approx(expected, rel=1e-6)
        assert (figures[f"psnr/{name}"], figures[f"ssim/{name}"]) == pytest.approx(expected, rel=1e-5)
    # Half the error everywhere is a quarter of its square.
    assert figures["psnr/half"] - figures["psnr/source"] == pytest.approx(10 * math.log10(4), abs=1e-5)


@pytest.mark.parametrize("side", [3, 4, 10, 11, 16])
def test_the_window_fits_small_images_and_is_the_usual_one_else(tmp_path, side):
    source, how = Sided(3, side, side + 5), Inpainting(0.0, 0.0, 0.5, 0.5)
    figures = validate(tmp_path, data(source, how, samples=8))
    x0, truth = ends(source, how, 8)
    width = min(11, (side - 1) // 2 * 2 + 1)
    assert figures["ssim/source"] == pytest.approx(similarity(x0, truth, width, window_std(side)), rel=1e-5)
    if side >= 11:
        usual = structural_similarity_index_measure(x0, truth, data_range=2.0)
        assert figures["ssim/source"] == pytest.approx(float(usual), rel=1e-5)
        assert window_std(side) == 1.5


def test_the_batch_size_does_not_matter(tmp_path):
    one, two = (validate(tmp_path, data(batch_size=size)) for size in (50, 3))
    assert one == pytest.approx(two, rel=1e-6)


def test_rows_tell_step_sampler_and_number(tmp_path):
    validate(tmp_path, data())
    found = [{key: value for key, value in row.items() if key not in ("psnr", "ssim")} for row in rows(tmp_path)]
    shared = {"step": 0, "samples": SAMPLES, "checkpoint": "none"}  # weights as they were given, not the run's own
    assert found == [{**shared, "sampler": name} for name in ("source", "half", "loud")]
    trainer(tmp_path).test(Fixed(), data(), verbose=False)
    assert rows(tmp_path)[3:] == rows(tmp_path)[:3]


def test_training_measures_every_validation_anew_and_skips_the_sanity_check(tmp_path):
    options = {"max_steps": 2, "val_check_interval": 1, "check_val_every_n_epoch": None, "num_sanity_val_steps": 1}
    trainer(tmp_path, **options).fit(Fixed(), data())
    assert [row["step"] for row in rows(tmp_path)] == [1, 1, 1, 2, 2, 2]
    assert {row["samples"] for row in rows(tmp_path)} == {SAMPLES}
    assert rows(tmp_path)[0]["psnr"] == rows(tmp_path)[3]["psnr"]


class Silent(Fixed):
    def evaluated(self):
        return {"latent": lambda batch: batch.z}


@pytest.mark.parametrize(
    "datamodule",
    [
        lambda: MatchingDataModule(Digits(), 4, eval_samples=8),
        lambda: data(paired=False),
        lambda: MatchingDataModule(Toy2D("moons", 9), 4, origin=Toy2D("rings", 9), eval_samples=8),
        lambda: data(Sided(1, 2, 9), Inpainting(0.0, 0.0, 1.0, 0.5)),
    ],
    ids=["no origin", "unpaired", "points", "two pixels"],
)
def test_without_an_image_to_compare_with_nothing_is_measured(tmp_path, datamodule):
    assert validate(tmp_path, datamodule(), Silent()) == {}
    assert not (tmp_path / "fidelity.jsonl").exists()


def test_a_trial_run_leaves_nothing_behind(tmp_path):
    assert "psnr/half" in validate(tmp_path, data(), fast_dev_run=True)
    assert not (tmp_path / "fidelity.jsonl").exists()


def test_perfect_and_broken_samples_have_figures_too(tmp_path):
    class Extreme(Fixed):
        def evaluated(self):
            return {"exact": lambda batch: batch.x1.clone(), "broken": lambda batch: batch.x1 * float("nan")}

    figures = validate(tmp_path, data(), Extreme())
    assert figures["psnr/exact"] == math.inf
    assert figures["ssim/exact"] == pytest.approx(1)
    assert math.isnan(figures["psnr/broken"])
    assert math.isnan(figures["ssim/broken"])


def test_the_report_shows_what_was_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(UserError, match=r"no figures.jsonl and no fidelity.jsonl"):
        report([str(tmp_path)])
    lines = [
        {"step": step, "sampler": "raw", "psnr": 20.0 + step, "ssim": 0.9 - step / 100, "samples": 7} for step in (2, 1)
    ]
    (tmp_path / "fidelity.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "samp')
    report([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "against the truth" in shown
    assert "f, 4 samples" not in shown
    for word in ("raw", "22", "0.88", "7 samples"):
        assert word in shown
    row = helpers.figure(fid=1.25)
    (tmp_path / "figures.jsonl").write_text(json.dumps(row) + "\n")
    report([str(tmp_path)])
    shown = capsys.readouterr().out
    assert shown.index("f, 4 samples") < shown.index("1.25") < shown.index("against the truth") < shown.index(" 22 ")


SCRIPT = """
import sys
import warnings

warnings.simplefilter("error", UserWarning)
sys.path.insert(0, sys.argv[1])
from test_fidelity import Fixed, FidelityCallback, data, trainer


class Callback(FidelityCallback):
    idle = False

    def on_validation_batch_end(self, trainer, *arguments):
        if not (self.idle and trainer.global_rank == 1):
            super().on_validation_batch_end(trainer, *arguments)


run, callback = trainer(sys.argv[2], devices=2, strategy="ddp"), Callback()
run.callbacks = [callback if type(other) is FidelityCallback else other for other in run.callbacks]
for callback.idle in (False, True):
    run.validate(Fixed(), data(samples=51), verbose=False)
"""


def run(folder):
    """Return the rows that two processes measure, first as they should, then with a second one that sees nothing."""
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    done = processes.run(script, os.path.dirname(__file__), folder, count=2)
    assert done.returncode == 0, done.stderr[-3000:]
    return rows(folder)


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(tmp_path):
    together = run(tmp_path / "two")
    for samples in (51, 25):  # the first process has those below 25, the second the rest
        validate(tmp_path, data(samples=samples))
    assert len(together) == 6
    for one, two in zip(together, rows(tmp_path), strict=True):
        assert (one["psnr"], one["ssim"]) == pytest.approx((two["psnr"], two["ssim"]), rel=1e-12)
        assert one | {"psnr": 0, "ssim": 0} == two | {"psnr": 0, "ssim": 0}


def test_super_resolution_is_measured_too(tmp_path):
    figures = validate(tmp_path, data(how=SuperResolution(2)))
    assert figures["psnr/source"] == pytest.approx(decibel(*ends(how=SuperResolution(2))), rel=1e-6)
