"""Losses and gradients of the official implementation, in float64."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from realuid_lightning.losses import fake_loss, general_fake_loss, general_generator_loss, generator_loss
from realuid_lightning.paths import FlowMatchingPath

VALUES = Path(__file__).parent / "values"
ROWS = json.loads((VALUES / "losses.json").read_text())
TENSORS = load_file(VALUES / "losses.safetensors")
PATH = FlowMatchingPath()


class Setting:
    """The stored batch and the two linear fields u(t, x) = x w + t b, with gradients on what the values pin."""

    def __init__(self):
        names = ("noise", "generated", "real", "t", "fake_w", "fake_b", "teacher_w", "teacher_b")
        for name in names:
            setattr(self, name, TENSORS[name].clone())
        self.leaves = {name: getattr(self, name).requires_grad_() for name in ("fake_w", "fake_b", "generated")}
        self.gen = PATH.sample(self.t, self.noise, self.generated)
        self.true = PATH.sample(self.t, self.noise, self.real)

    def field(self, which, xt):
        w, b = getattr(self, f"{which}_w"), getattr(self, f"{which}_b")
        return xt * w + self.t.view(-1, 1, 1, 1) * b

    def loss(self, row):
        fake_gen, fake_real = self.field("fake", self.gen.xt), self.field("fake", self.true.xt)
        teacher_gen, teacher_real = self.field("teacher", self.gen.xt), self.field("teacher", self.true.xt)
        ab = {"alpha": row["alpha"], "beta": row["beta"]}
        if row["loss"] == "dist":
            if row["turn"] == "fake":
                return fake_loss(fake_gen, self.gen.target, fake_real, self.true.target, **ab)
            return generator_loss(teacher_gen, fake_gen, self.gen.target, **ab)
        abc = {**ab, "gamma": row["alpha"]}
        if row["turn"] == "fake":
            return general_fake_loss(
                fake_gen, teacher_gen, self.gen.target, fake_real, teacher_real, self.true.target, **abc
            )
        return general_generator_loss(teacher_gen, fake_gen, self.gen.target, **abc)

    def dropped_constant(self, alpha, beta):
        """What the expanded form leaves out: nothing in it depends on the fake model."""
        gen = self.gen.target.square().sum((1, 2, 3)).mean() * beta**2 / alpha
        if alpha == 1:
            return gen
        return gen + self.true.target.square().sum((1, 2, 3)).mean() * (1 - beta) ** 2 / (1 - alpha)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['key']}-{row['turn']}")
def test_value_and_gradients(row):
    setting = Setting()
    loss = setting.loss(row)
    # Official signs: the fake turn is maximised.
    sign = -1 if row["turn"] == "fake" else 1
    constant = setting.dropped_constant(row["alpha"], row["beta"]) if is_dist_fake(row) else 0.0
    assert sign * (loss + constant).item() == pytest.approx(row["value"], abs=1e-10 * max(1, abs(row["value"])))
    names = ["fake_w", "fake_b"] if row["turn"] == "fake" else ["generated"]
    grads = torch.autograd.grad(loss, [setting.leaves[name] for name in names])
    for name, grad in zip(names, grads, strict=True):
        torch.testing.assert_close(sign * grad, TENSORS[f"grad/{row['key']}/{name}"], rtol=1e-10, atol=1e-10)


def is_dist_fake(row):
    return row["loss"] == "dist" and row["turn"] == "fake"


@pytest.mark.parametrize("beta", [0.9, 1.1])
def test_the_singular_corner_keeps_the_real_term(beta):
    """At alpha = 1, beta != 1 (where the official code drops it) the loss is the limit of alpha -> 1 ..."""
    near, corner = ({"loss": "dist", "turn": "fake", "alpha": alpha, "beta": beta} for alpha in (1 - 1e-9, 1.0))
    setting = Setting()
    grads = [
        torch.autograd.grad(setting.loss(row), list(setting.leaves.values())[:2], retain_graph=True)
        for row in (near, corner)
    ]
    for left, right in zip(*grads, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-7)
    # ... and its gradient agrees with finite differences.
    with torch.no_grad():
        direction = torch.linspace(-1, 1, setting.fake_w.numel(), dtype=torch.float64).view_as(setting.fake_w)
        values = []
        for step in (1e-5, -1e-5):
            moved = Setting()
            moved.fake_w = setting.fake_w + step * direction
            values.append(moved.loss(corner).item())
    slope = (values[0] - values[1]) / 2e-5
    assert slope == pytest.approx((grads[1][0] * direction).sum().item(), rel=1e-7)
    # The real samples matter: the gradient changes with them.
    other = Setting()
    other.true = PATH.sample(other.t, other.noise, other.real + 1)
    moved = torch.autograd.grad(other.loss(corner), other.leaves["fake_b"])[0]
    assert (moved - grads[1][1]).abs().max() > 1e-3
