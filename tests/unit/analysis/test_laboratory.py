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
# Two share their coefficients, and do not lie side by side, as they are trained; two differ by their gamma alone.
PROBLEMS = [
    Problem(REAL, Normal(1.0, 1.0), 0.92, 0.94),
    Problem(REAL, Normal(0.0, 0.5), 0.5, 0.6),
    Problem(Normal(-0.5, 0.8), Normal(0.5, 1.5), 0.92, 0.94),
    Problem(REAL, Normal(0.3, 1.2), 1.0, 1.0),
    Problem(REAL, Normal(1.0, 1.0), 0.92, 0.94, 1.1),
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


def test_gamma_that_is_alpha_is_realuid(together):
    """Exact and trained, though by the losses of general RealUID."""
    general = [problem._replace(gamma=problem.alpha) for problem in PROBLEMS[:2]]
    for end, same in zip(train_generators(general, **SHORT), together[:2], strict=True):
        assert end == pytest.approx(same, abs=1e-4)
    generated = Normal(0.2, 0.9)
    for problem, same in zip(PROBLEMS[:2], general, strict=True):
        assert realuid_value(generated, *same) == pytest.approx(realuid_value(generated, *problem), rel=1e-9)


def test_training_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    train_generators(PROBLEMS[:1], steps=1, batch_size=8)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="got 0 and 5"):
        train_generators([], steps=5)
    with pytest.raises(ValueError, match=f"got {len(PROBLEMS)} and 0"):
        train_generators(PROBLEMS, steps=0)


def test_velocity_of_many_is_that_of_each():
    t, x = torch.rand(5), torch.randn(5, len(PROBLEMS))
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
    assert is_bounded(generated, REAL, REAL, 1.0, 0.9) == bool(far < near)
    assert is_bounded(generated, REAL, REAL, 1.0, 1.0)
    assert is_bounded(generated, REAL, REAL, 0.99, 0.9)
    assert math.isinf(realuid_value(generated, REAL, REAL, 1.0, 0.9)) == bool(far > near)


@pytest.mark.parametrize(
    ("teacher", "coefficients", "safe"),
    [
        (Normal(0.5, 1.0), (1.0, 1.0, 1.0), True),
        (Normal(0.5, 1.0), (0.99, 2.0, 3.0), True),
        (Normal(0.5, 1.0), (1.0, 2.0, 2.0), False),
        (REAL, (1.0, 2.0, 2.0), True),
        (REAL, (1.0, 2.0, 1.0), False),
        (REAL, (1.0, 1.0, 2.0), False),
    ],
)
def test_the_inner_problem_of_general_realuid_is_bounded_where_nothing_of_the_real_half_is_left(
    teacher, coefficients, safe
):
    narrow, wide = Normal(0.0, 0.6), Normal(0.0, 0.8)
    assert is_bounded(narrow, REAL, teacher, *coefficients) == safe
    assert math.isfinite(realuid_value(narrow, REAL, teacher, *coefficients)) == safe
    assert is_bounded(wide, REAL, teacher, *coefficients)


def test_a_right_teacher_leaves_of_beta_and_gamma_a_factor():
    """At alpha = 1 and beta = gamma = b the real half vanishes, and ``b d`` takes the place of d."""
    generated = Normal(0.2, 0.6)
    of_uid = realuid_value(generated, REAL, REAL, 1.0, 1.0)
    assert realuid_value(generated, REAL, REAL, 1.0, 3.0, 3.0) == pytest.approx(9 * of_uid, rel=1e-9)


@pytest.mark.parametrize(("alpha", "b"), [(0.8, 0.8), (0.3, 2.0), (0.9, 2.0), (0.5, 5.0)])
@pytest.mark.parametrize("error", [(0.01, 0.0), (0.0, 0.01)], ids=["mean", "std"])
def test_beta_and_gamma_divide_a_small_error_of_the_teacher(alpha, b, error):
    teacher = Normal(*(value + wrong for value, wrong in zip(REAL, error, strict=True)))
    expected = [value + wrong / b for value, wrong in zip(REAL, error, strict=True)]
    # What is left is of the second order.
    assert best_generator(REAL, teacher, alpha, b, b) == pytest.approx(expected, abs=2e-4)


def test_beta_and_gamma_of_1_end_at_any_teacher():
    teacher = Normal(-0.7, 1.6)
    assert best_generator(REAL, teacher, 0.5, 1.0, 1.0) == pytest.approx(teacher, abs=1e-5)


@pytest.mark.parametrize("beta", [0.9, 1.1])
def test_the_loss_grows_without_end_towards_the_bound(beta):
    bound = math.sqrt(0.5)
    values = [realuid_value(Normal(0.0, bound + gap), REAL, REAL, 1.0, beta) for gap in (0.02, 0.005, 0.001, -1e-9)]
    assert values == sorted(values)
    assert values[2] > 5 * values[0]
    assert math.isinf(values[3])
