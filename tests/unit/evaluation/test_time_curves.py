"""Curves by time: closed forms between Gaussians, any objective on any path, and training that goes its own way."""

import json

import helpers
import pytest
import torch
from helpers import mlp
from torch import nn

from realuid_lightning.analysis import velocity
from realuid_lightning.data import Degraded, Digits, Gaussian, MatchingDataModule, Sketch
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation import TimeCurves
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.objectives import DMD, GAN, Objective, SiD
from realuid_lightning.paths import BridgePath, DiffusionPath, FlowMatchingPath, InterpolantPath

REAL, GENERATED = (0.5, 0.2), (0.4, 0.1)


class Exact(nn.Module):
    """What a perfect network predicts of a Gaussian on the flow path."""

    def __init__(self, law):
        super().__init__()
        self.mean, self.std = (nn.Parameter(torch.tensor(each)) for each in law)

    def forward(self, t, x, y=None):
        return velocity(self.mean, self.std, t[:, None], x)


class Pushed(Objective):
    """The generator is pushed by 3 along each of the first two values of a sample."""

    def fake(self, game):
        return 0 * game.fake(game.generated).sum()

    def generator(self, game):
        return 3 * game.x1[:, :2].sum(1).mean()


class Between(RealUIDModule):
    def generated(self, batch):
        return GENERATED[0] + GENERATED[1] * batch.z + 0 * self.generator(batch.z)


def fit(module, data, folder, steps=1, **options):
    options = {"callbacks": [TimeCurves(bins=4)], "limit_val_batches": None, **options}
    options |= {"val_check_interval": 1, "check_val_every_n_epoch": None}
    return helpers.fit(module, data, folder, steps, **options)


def lines(folder):
    return [json.loads(line) for line in (folder / "times.jsonl").read_text().splitlines()]


def test_curves_between_gaussians(tmp_path):
    module = Between(Exact(REAL), None, objective=Pushed(), fake_network=Exact(GENERATED), fake_init="random")
    dim = 64
    data = MatchingDataModule(Gaussian([REAL[0]] * dim, [REAL[1]] * dim, size=4096), batch_size=256, eval_samples=4)
    trainer = fit(module, data, tmp_path)
    (curves,) = lines(tmp_path)
    assert curves["bins"] == [0.125, 0.375, 0.625, 0.875]
    for part, middle in enumerate(curves["bins"]):
        t = torch.linspace(middle - 0.125, middle + 0.125, 1001, dtype=torch.float64)

        def residual(law, t=t):
            """Mean variance of ``c`` given ``xt``."""
            squared = law[1] ** 2
            return dim * (1 + squared - (t * squared - (1 - t)) ** 2 / ((1 - t) ** 2 + t**2 * squared)).mean()

        def square(predict, t=t):
            """Mean of a squared linear function over ``xt`` of generated samples: mean squared plus variance."""
            mean, std = t * GENERATED[0], ((1 - t) ** 2 + (t * GENERATED[1]) ** 2).sqrt()
            return (predict(t, mean) ** 2 + (predict(t, mean + std) - predict(t, mean)) ** 2).mean()

        expected = {
            "gap": square(lambda t, x: velocity(*REAL, t, x) - velocity(*GENERATED, t, x))
            / square(lambda t, x: velocity(*REAL, t, x)),
            "fake_residual": residual(GENERATED),
            "real_residual": residual(REAL),
            "gradient": 3 * 2**0.5,
        }
        for name, value in expected.items():
            assert curves[name][part] == pytest.approx(float(value), rel=0.06), (name, middle)
            logged = trainer.callback_metrics[f"time/{name}/{middle:.4g}"]
            assert logged == pytest.approx(curves[name][part])


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (FlowMatchingPath(), {"alpha": 0.9, "beta": 0.94, "gan": GAN(), "sampling_steps": 2}),
        (DiffusionPath(), {"divergence": SiD()}),
        (InterpolantPath(), {"divergence": DMD()}),
        (BridgePath(), {"alpha": 0.9}),
    ],
    ids=["flow", "diffusion", "interpolant", "bridge"],
)
def test_any_objective_on_any_path_and_training_is_the_same(path, options, tmp_path):
    states = []
    for measured in (True, False):
        origin = {"origin": Degraded(Digits(), Sketch())} if path.translates else {}
        data = MatchingDataModule(Digits(), batch_size=8, eval_samples=8, **origin)
        network = mlp(dropout=0.5, condition_channels=path.conditions)
        module = RealUIDModule(network, None, path=path, fake_steps=1, **options)
        fit(module, data, tmp_path, 2, **({} if measured else {"callbacks": []}))
        states.append(module.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)
    first, second = lines(tmp_path)
    assert (first["step"], second["step"]) == (1, 2)
    for curve in (second[name] for name in ("gap", "fake_residual", "real_residual", "gradient")):
        assert len(curve) == 4
        assert min(curve) > 0


def test_only_distillations_in_training_have_curves(tmp_path):
    data = MatchingDataModule(Digits(), batch_size=8, eval_samples=8)
    fit(TeacherModule(mlp(), sampling_steps=[1]), data, tmp_path)
    helpers.trainer(tmp_path, callbacks=[TimeCurves()]).validate(RealUIDModule(mlp(), None), data, verbose=False)
    assert not (tmp_path / "times.jsonl").exists()


def test_options_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"bins must be at least 1, got 0(.|\n)*count must be at least 1, got 0"):
        TimeCurves(0, 0)
