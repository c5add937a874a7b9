"""The objective between Gaussians, by our losses with the exact inner maximiser, against quadrature values."""

import json
import math
from pathlib import Path

import pytest
import torch

from realuid_lightning.analysis import Normal, best_fake, realuid_value
from realuid_lightning.losses import fake_loss, generator_loss

TOLD = json.loads((Path(__file__).parent / "values" / "gaussian1d.json").read_text())
BOUNDED = [row for row in TOLD["values"] if row["value"] < 1e6]


def test_all_but_one_inner_problem_is_bounded():
    assert len(TOLD["values"]) - len(BOUNDED) == 1


@pytest.mark.parametrize("row", BOUNDED, ids=lambda row: f"{row['generator']}-{row['alpha']}-{row['beta']}")
def test_values(row):
    got = realuid_value(
        *(Normal(*row[name]) for name in ("generator", "real", "teacher")), float(row["alpha"]), float(row["beta"])
    )
    assert got == pytest.approx(row["value"], rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("row", TOLD["corrupted_teacher_minimisers"], ids=str)
def test_minimisers_under_a_wrong_teacher(row):
    real, teacher = Normal(*row["real"]), Normal(*row["teacher"])
    alpha, beta = float(row["alpha"]), float(row["beta"])

    def value(mean, std):
        return realuid_value(Normal(mean, std), real, teacher, alpha, beta, points=2001)

    least = realuid_value(Normal(row["mean"], row["std"]), real, teacher, alpha, beta)
    assert least == pytest.approx(row["value"], rel=1e-6, abs=1e-9)
    # It is a minimum: no neighbour is lower.
    for step in [(0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)]:
        assert value(row["mean"] + step[0], row["std"] + step[1]) > least


def test_the_maximiser_maximises_and_the_generator_loss_is_its_generated_half():
    generated, real = Normal(0.4, 0.7), Normal(-0.2, 1.1)
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(4096, dtype=torch.float64, generator=generator)
    s = torch.randn(4096, dtype=torch.float64, generator=generator)
    alpha, beta = 0.9, 0.94
    x = t * generated.mean + generated.variance(t).sqrt() * s
    best = best_fake(t, x, generated, real, alpha, beta)
    p_g, p_r = generated.density(t, x), real.density(t, x)

    def pointwise(fake):
        """The integrand at each x, both halves weighed by their densities."""
        squares = (alpha * p_g + (1 - alpha) * p_r) * fake**2
        return squares - 2 * fake * (beta * p_g * generated.velocity(t, x) + (1 - beta) * p_r * real.velocity(t, x))

    for shift in (-0.3, 1e-3, 0.2):
        assert (pointwise(best + shift) > pointwise(best)).all()
    teacher, target = real.velocity(t, x)[:, None], generated.velocity(t, x)[:, None]
    fake = best[:, None]
    halves = [fake_loss(f, target, torch.zeros_like(f), target, alpha=alpha, beta=beta) for f in (teacher, fake)]
    assert generator_loss(teacher, fake, target, alpha=alpha, beta=beta).item() == pytest.approx(
        (halves[0] - halves[1]).item(), rel=1e-12
    )


def test_velocity_is_the_regression_of_the_flow_target():
    generator = torch.Generator().manual_seed(1)
    data, n, t = Normal(1.5, 0.6), 400_000, 0.35
    x0, noise = torch.randn(2, n, dtype=torch.float64, generator=generator)
    x1 = data.mean + data.std * noise
    xt = (1 - t) * x0 + t * x1
    residual = (x1 - x0) - data.velocity(torch.full((n,), t, dtype=torch.float64), xt)
    for feature in (torch.ones(n), xt, xt**2):  # a conditional mean leaves residuals uncorrelated with functions of xt
        assert abs((residual * feature).mean()) < 6 * (residual * feature).std() / math.sqrt(n)
