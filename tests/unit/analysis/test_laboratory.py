"""Where generators end by training: deterministic, and each problem as if it were alone."""

import math

import pytest
import torch

from realuid_lightning.analysis import (
    Normal,
    Problem,
    best_generator,
    is_bounded,
    realuid_value,
    train_generators,
    velocity,
)

REAL = Normal(0.0, 1.0)
# Two share their coefficients, and they do not lie in the order in which they are trained.
PROBLEMS = [
    Problem(REAL, Normal(1.0, 1.0), 0.92, 0.94),
    Problem(REAL, Normal(0.0, 0.5), 0.5, 0.6),
    Problem(Normal(-0.5, 0.8), Normal(0.5, 1.5), 0.92, 0.94),
    Problem(REAL, Normal(0.3, 1.2), 1.0, 1.0),
]
SHORT = {"steps": 25, "batch_size": 64}


@pytest.fixture(scope="module")
def together():
    return train_generators(PROBLEMS, **SHORT)


def test_the_seed_decides_and_nothing_else(together):
    torch.manual_seed(7)
    assert train_generators(PROBLEMS, **SHORT) == together
    assert train_generators(PROBLEMS, seed=1, **SHORT) != together


@pytest.mark.parametrize("index", range(len(PROBLEMS)))
def test_a_problem_ends_among_others_where_it_ends_alone(index, together):
    (alone,) = train_generators([PROBLEMS[index]], **SHORT)
    assert alone == pytest.approx(together[index], abs=1e-4)
    assert alone != PROBLEMS[index].teacher  # it has moved


def test_training_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    train_generators(PROBLEMS[:1], steps=1, batch_size=8)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="got 0 and 5"):
        train_generators([], steps=5)
    with pytest.raises(ValueError, match="got 4 and 0"):
        train_generators(PROBLEMS, steps=0)


def test_velocity_of_many_is_that_of_each():
    t, x = torch.rand(5), torch.randn(5, 4)
    mean, std = torch.tensor([problem.teacher for problem in PROBLEMS]).T
    each = [problem.teacher.velocity(t, x[:, column]) for column, problem in enumerate(PROBLEMS)]
    torch.testing.assert_close(velocity(mean, std, t[:, None], x), torch.stack(each, dim=1))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.9, 0.9), (0.92, 0.94), (0.9, 0.88), (0.5, 0.6), (1.0, 0.9)])
def test_a_right_teacher_makes_the_real_distribution_the_minimum(alpha, beta):
    real = Normal(0.4, 0.7)
    assert best_generator(real, real, alpha, beta) == pytest.approx(real, abs=1e-5)


@pytest.mark.parametrize("std", [0.65, 0.70, 0.715, 0.8, 1.0])
def test_the_inner_problem_is_bounded_where_its_integrand_decays(std):
    """At alpha = 1 the tail of ``m f_opt^2`` is that of ``p_r^2 / p_g``, and t = 1 is the worst time."""
    generated, t = Normal(0.0, std), torch.ones(2, dtype=torch.float64)
    near, far = REAL.density(t, x := torch.tensor([5.0, 15.0], dtype=torch.float64)) ** 2 / generated.density(t, x)
    assert is_bounded(generated, REAL, 1.0, 0.9) == bool(far < near)
    assert is_bounded(generated, REAL, 1.0, 1.0)
    assert is_bounded(generated, REAL, 0.99, 0.9)
    assert math.isinf(realuid_value(generated, REAL, REAL, 1.0, 0.9)) == bool(far > near)


@pytest.mark.parametrize("beta", [0.9, 1.1])
def test_the_loss_grows_without_end_towards_the_bound(beta):
    bound = math.sqrt(0.5)
    values = [realuid_value(Normal(0.0, bound + gap), REAL, REAL, 1.0, beta) for gap in (0.02, 0.005, 0.001, -1e-9)]
    assert values == sorted(values)
    assert values[2] > 5 * values[0]
    assert math.isinf(values[3])
