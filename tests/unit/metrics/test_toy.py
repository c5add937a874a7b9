"""The modes of toy densities, by a classifier that knows them."""

import math
from typing import get_args

import pytest
import torch

from realuid_lightning.data import Toy2D
from realuid_lightning.data.toy import ToyName
from realuid_lightning.errors import UserError
from realuid_lightning.metrics import InceptionScore, Modes, Sample, ToyFeatures

NAMES = pytest.mark.parametrize("name", get_args(ToyName))


def sample(name, vectors):
    features = ToyFeatures(name)
    return Sample.of(features(vectors), features.logits(features(vectors)))


@pytest.mark.parametrize("name", ["moons", "rings", "eight_gaussians"])
def test_modes_are_the_classes_of_data_that_have_any(name):
    x, y = Toy2D(name, size=1000).load()
    features = ToyFeatures(name)
    assert features.num_classes == Toy2D(name).num_classes
    assert (features.logits(features(x)).argmax(1) == y).double().mean() > 0.998


def test_squares_are_told_apart_up_to_their_corners():
    x, _ = Toy2D("checkerboard", size=1000).load()
    found = ToyFeatures("checkerboard").logits(x).argmax(1)
    column, row = ((x * 1.155).floor() + 2).long().unbind(1)
    assert torch.equal(found, 2 * column + row // 2)


def test_arms_are_told_apart_away_from_the_origin():
    angle = torch.linspace(math.pi, 3 * math.pi, 50)
    arm = (2 / (3 * math.pi) * angle)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    logits = ToyFeatures("spiral").logits(torch.cat([arm, -arm]))
    assert torch.equal(logits.argmax(1), torch.arange(2).repeat_interleave(50))
    assert logits.amax(1).min() > -0.3  # within a standard deviation of some point


@NAMES
def test_all_modes_of_real_data_are_found(name):
    real, other = (sample(name, Toy2D(name, 2000, draw).load()[0]) for draw in (0, 1))
    classes = ToyFeatures(name).num_classes
    figures = Modes().compute(real, other)
    assert figures["modes"] == classes
    assert figures["modes_tv"] < 0.1
    assert InceptionScore().compute(real, other)["inception_score"] == pytest.approx(classes, rel=0.35)


def test_lost_modes_are_missed():
    x, y = Toy2D("eight_gaussians", 1000).load()
    figures = Modes().compute(sample("eight_gaussians", x), sample("eight_gaussians", x[y < 5]))
    assert figures["modes"] == 5
    assert figures["modes_tv"] == pytest.approx(3 / 8, abs=0.05)


def test_other_names_and_shapes_are_refused(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # a run-time type checker would come first
    with pytest.raises(UserError, match="name must be one of moons"):
        ToyFeatures("cubes")
    assert ToyFeatures("moons").fault((2,)) is None
    assert "shape (1, 8, 8)" in ToyFeatures("moons").fault((1, 8, 8))
