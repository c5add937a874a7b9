"""The objective between Gaussians, by our losses with the exact inner maximiser, against quadrature values."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from realuid_lightning.analysis import Normal, best_fake, realuid_value
from realuid_lightning.losses import fake_loss, general_fake_loss, generator_loss

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
    best = best_fake(t, x, generated, real, real, alpha, beta)
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


def value_by_quadrature(generated, real, teacher, alpha, beta, gamma):
    """``m d = beta p_g u_g + (1-beta) p_r u_r - (gamma p_g + (1-gamma) p_r) f*``, squared, over m, integrated."""
    x, total = np.linspace(-15, 15, 3001), 0.0

    def density_and_velocity(mean, std, t):
        variance = (1 - t) ** 2 + (t * std) ** 2
        density = np.exp(-((x - t * mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        return density, mean + (t * std**2 - (1 - t)) / variance * (x - t * mean)

    for node, share in zip(*np.polynomial.legendre.leggauss(60), strict=True):
        (p_g, u_g), (p_r, u_r), (_, f) = (
            density_and_velocity(*data, (node + 1) / 2) for data in (generated, real, teacher)
        )
        flux = beta * p_g * u_g + (1 - beta) * p_r * u_r - (gamma * p_g + (1 - gamma) * p_r) * f
        total += share / 2 * (flux**2 / (alpha * p_g + (1 - alpha) * p_r)).sum() * (x[1] - x[0])
    return total


@pytest.mark.parametrize(
    "coefficients",
    [(0.5, 1.0, 1.0), (0.5, 4.0, 4.0), (0.9, 1.1, 0.3), (0.8, 0.9, 0.8), (1.0, 2.0, 2.0), (1.0, 0.9, 2.0)],
)
def test_values_of_general_realuid(coefficients):
    generated, real, teacher = Normal(0.4, 0.9), Normal(-0.2, 1.1), Normal(0.5, 1.3)
    expected = value_by_quadrature(generated, real, teacher, *coefficients)
    assert realuid_value(generated, real, teacher, *coefficients) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("b", [2, 5])
def test_a_mixture_of_real_data_and_the_teachers_makes_the_teacher_the_best_fake_model(b):
    """At beta = gamma = b and ``p_g = (1 - 1/b) p_r + p_teacher / b`` only squares of ``d = f - f*`` are left."""
    real, teacher, alpha = Normal(0.0, 1.0), Normal(1.0, 0.6), 0.4
    generator = torch.Generator().manual_seed(2)
    t, (s, *gaps) = torch.rand(500, generator=generator), torch.randn(3, 500, generator=generator)
    halves, squares = [], []
    for data, gap in zip((real, teacher), gaps, strict=True):
        x = t * data.mean + data.variance(t).sqrt() * s
        f = teacher.velocity(t, x)
        halves.append([f + gap, f, data.velocity(t, x)])
        squares.append(gap.square().mean())
    mixture = [
        torch.cat([of_real] * (b - 1) + [of_teacher])[:, None] for of_real, of_teacher in zip(*halves, strict=True)
    ]
    on_real = [values.repeat(b)[:, None] for values in halves[0]]
    loss = general_fake_loss(*mixture, *on_real, alpha=alpha, beta=float(b), gamma=float(b))
    expected = alpha * ((b - 1) * squares[0] + squares[1]) / b + (1 - alpha) * squares[0]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_velocity_is_the_regression_of_the_flow_target():
    generator = torch.Generator().manual_seed(1)
    data, n, t = Normal(1.5, 0.6), 400_000, 0.35
    x0, noise = torch.randn(2, n, dtype=torch.float64, generator=generator)
    x1 = data.mean + data.std * noise
    xt = (1 - t) * x0 + t * x1
    residual = (x1 - x0) - data.velocity(torch.full((n,), t, dtype=torch.float64), xt)
    for feature in (torch.ones(n), xt, xt**2):  # a conditional mean leaves residuals uncorrelated with functions of xt
        assert abs((residual * feature).mean()) < 6 * (residual * feature).std() / math.sqrt(n)
