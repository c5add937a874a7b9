"""Corrected: general RealUID in other units, what each coefficient does, and where it ends under wrong teachers."""

import pytest
import torch
from games import compare, draws, mlp, module, turn

from realuid_lightning.analysis import Normal
from realuid_lightning.errors import UserError
from realuid_lightning.losses import corrected_fake_loss, general_fake_loss, general_generator_loss
from realuid_lightning.objectives import Corrected, RealUID, SiD, SquaredDistance

REAL = Normal(0.0, 1.0)
TEACHERS = (Normal(1.0, 1.0), Normal(0.0, 0.5), Normal(0.5, 1.5))


def tensors(count):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(count, 5, 3, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("b", [1.0, 1.5, 4.0])
def test_it_is_general_realuid_with_a_fake_model_that_goes_farther(b):
    """``d -> b d`` at ``beta = gamma = b``, divided by ``b^2``: both players' losses, to rounding."""
    gap, on_real, teacher, target, real_teacher, real_target = tensors(6)
    whole = {"alpha": 0.7, "beta": b, "gamma": b}
    fake = corrected_fake_loss(
        *(teacher + gap, teacher, target),
        *(real_teacher + on_real, real_teacher, real_target),
        **{"alpha": 0.7, "rho": 1 - 1 / b},
    )
    general = general_fake_loss(
        *(teacher + b * gap, teacher, target),
        *(real_teacher + b * on_real, real_teacher, real_target),
        **whole,
    )
    compare(fake * b**2, general)
    generator = general_generator_loss(teacher, teacher + gap, target, alpha=0.7, beta=1.0, gamma=1.0)
    compare(generator * b**2, general_generator_loss(teacher, teacher + b * gap, target, **whole))


@pytest.mark.parametrize("player", ["fake", "generator"])
def test_without_rho_it_is_general_realuid_in_training_too(player):
    compare(turn(module(Corrected(0.0, 0.7), mlp), player), turn(module(RealUID(0.7, 1.0, 1.0), mlp), player))


@pytest.mark.parametrize("player", ["fake", "generator"])
def test_without_rho_and_with_generated_samples_alone_it_is_uid_and_needs_no_data(player):
    made, uid = module(Corrected(0.0, 1.0), mlp), module(RealUID(), mlp)
    assert not made.objective.needs_real
    asked = []
    made.teacher.register_forward_pre_hook(lambda *_: asked.append(player))
    compare(turn(made, player), turn(uid, player))
    assert asked == ([] if player == "fake" else ["generator"])


def test_a_divergence_takes_the_place_of_the_value():
    made, sid = module(Corrected(1.0, 0.5, SiD(1.2)), mlp), module(RealUID(divergence=SiD(1.2)), mlp)
    compare(turn(made, "generator"), turn(sid, "generator"))
    compare(turn(made, "fake"), turn(module(Corrected(1.0, 0.5), mlp), "fake"))


def test_the_squared_distance_by_name_is_the_value_of_the_game_with_alpha():
    made = module(Corrected(0.8, 0.5, SquaredDistance()), mlp)
    compare(turn(made, "generator"), turn(module(Corrected(0.8, 0.5), mlp), "generator"))


def test_another_divergence_stands_to_the_value_as_told():
    guess = module(Corrected(0.8, 0.5, SiD(0.5 * 0.5, normalise=False)), mlp)
    compare(turn(guess, "generator"), turn(module(Corrected(0.8, 0.5), mlp), "generator"))


def test_the_generator_gets_no_gradient_of_a_fake_step_and_the_teacher_no_graph():
    made = module(Corrected(), mlp)
    for weight in made.teacher.parameters():
        weight.requires_grad_(True)
    loss = made.fake_loss(draws(made))
    found = torch.autograd.grad(loss, [*made.teacher.parameters(), *made.generator.parameters()], allow_unused=True)
    assert all(gradient is None for gradient in found)


def value(generated, teacher, alpha, rho):
    """``max_f`` of the game between Gaussians, written out by itself; 0 where both networks agree."""
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64).repeat_interleave(601)
    x = torch.linspace(-12, 12, 601, dtype=torch.float64).repeat(25)
    p_g, p_r = generated.density(t, x), REAL.density(t, x)
    said = teacher.velocity(t, x)
    flux = p_g * (generated.velocity(t, x) - said) - rho * p_r * (REAL.velocity(t, x) - said)
    return (flux**2 / (alpha * p_g + (1 - alpha) * p_r).clamp(min=1e-300)).sum().item() * 24 / 600 / 25


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_under_any_teacher_the_real_distribution_solves_the_whole_game(teacher, alpha):
    assert value(REAL, teacher, alpha, 1.0) == 0
    for other in (teacher, Normal(0.1, 1.0), Normal(0.0, 1.1)):
        assert value(other, teacher, alpha, 1.0) > 1e-4
    assert value(teacher, teacher, alpha, 0.0) == 0  # UID's solution


@pytest.mark.parametrize("rho", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_mixture_of_real_samples_and_the_teachers_solves_the_game(teacher, rho):
    """No error of the teacher is small here; the flux of a mixture is the mixture of the fluxes."""
    t, x = torch.linspace(0.1, 0.9, 5).double().repeat_interleave(101), torch.linspace(-6, 6, 101).double().repeat(5)
    p_r, p_t, said = REAL.density(t, x), teacher.density(t, x), teacher.velocity(t, x)
    p_g = rho * p_r + (1 - rho) * p_t
    u_g = (rho * p_r * REAL.velocity(t, x) + (1 - rho) * p_t * said) / p_g
    agree = p_g * (u_g - said) - rho * p_r * (REAL.velocity(t, x) - said)
    assert agree.abs().max() < 1e-14


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_exact_fake_model_is_where_its_loss_is_least(teacher):
    """By gradients of the package's loss at the formula of the docstring, on a quadrature of both halves."""
    generated, alpha, rho, t = Normal(0.4, 0.8), 0.6, 0.8, torch.full((1201,), 0.6, dtype=torch.float64)
    x = torch.linspace(-8, 8, 1201, dtype=torch.float64)
    p_g, p_r, said = generated.density(t, x), REAL.density(t, x), teacher.velocity(t, x)
    u_g, u_r = generated.velocity(t, x), REAL.velocity(t, x)
    best = said + (p_g * (u_g - said) - rho * p_r * (u_r - said)) / (alpha * p_g + (1 - alpha) * p_r)
    fake = best.clone().requires_grad_()
    # The loss of one node at a time, so that each half may have a weight of its own: the density there.
    zero = torch.zeros(1, 1, dtype=torch.float64)
    on_generated = corrected_fake_loss(
        fake[:, None], said[:, None], u_g[:, None], *[zero.expand(1201, 1)] * 3, alpha=alpha, rho=rho, weight=p_g
    )
    on_real = corrected_fake_loss(
        *[zero.expand(1201, 1)] * 3, fake[:, None], said[:, None], u_r[:, None], alpha=alpha, rho=rho, weight=p_r
    )
    (gradient,) = torch.autograd.grad(on_generated + on_real, fake)
    assert gradient.abs().max() < 1e-15


def test_a_missing_real_half_is_told():
    one = torch.ones(4, 2)
    with pytest.raises(ValueError, match="the real half counts"):
        corrected_fake_loss(one, one, one, None, None, None, alpha=1.0, rho=0.1)


def test_arguments_out_of_range_are_told_at_once():
    with pytest.raises(UserError) as error:
        Corrected(rho=1.5, alpha=0.0)
    assert "rho must be in [0, 1], got 1.5" in str(error.value)
    assert "alpha must be in (0, 1], got 0.0" in str(error.value)
