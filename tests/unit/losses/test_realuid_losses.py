"""Properties of the losses that no reference value pins."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realuid_lightning.losses import (
    fake_loss,
    general_fake_loss,
    general_generator_loss,
    generator_loss,
    matching_loss,
    needs_real,
)
from realuid_lightning.losses._sums import expectation

COEFFICIENTS = st.floats(0.1, 0.99), st.floats(-0.5, 1.5)


def batch(count, seed=0, shape=(5, 3, 2)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(count)]


def test_sums_over_a_sample_and_averages_over_the_batch():
    prediction, target = torch.zeros(4, 3, 2, 2), torch.full((4, 3, 2, 2), 2.0)
    assert matching_loss(prediction, target).item() == 12 * 4
    assert matching_loss(prediction, target, torch.tensor([1.0, 0.0, 0.0, 0.0])).item() == 12


@given(*COEFFICIENTS)
def test_fake_loss_is_the_papers_up_to_a_constant(alpha, beta):
    """Its gradient in f is that of alpha |f - beta/alpha c|^2 and of the real counterpart."""
    fake_gen, c_gen, fake_real, c_real = batch(4)
    fake_gen.requires_grad_(), fake_real.requires_grad_()
    ours = fake_loss(fake_gen, c_gen, fake_real, c_real, alpha=alpha, beta=beta)
    paper = alpha * matching_loss(fake_gen, beta / alpha * c_gen)
    paper = paper + (1 - alpha) * matching_loss(fake_real, (1 - beta) / (1 - alpha) * c_real)
    for left, right in zip(
        torch.autograd.grad(ours, [fake_gen, fake_real]), torch.autograd.grad(paper, [fake_gen, fake_real]), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@given(*COEFFICIENTS)
def test_general_with_gamma_alpha_is_realuid(alpha, beta):
    fake_gen, f_gen, c_gen, fake_real, f_real, c_real = batch(6)
    fakes = [fake_gen.requires_grad_(), fake_real.requires_grad_()]
    general = general_fake_loss(fake_gen, f_gen, c_gen, fake_real, f_real, c_real, alpha=alpha, beta=beta, gamma=alpha)
    plain = fake_loss(fake_gen, c_gen, fake_real, c_real, alpha=alpha, beta=beta)
    for left, right in zip(torch.autograd.grad(general, fakes), torch.autograd.grad(plain, fakes), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    left = general_generator_loss(f_gen, fake_gen, c_gen, alpha=alpha, beta=beta, gamma=alpha)
    torch.testing.assert_close(left, generator_loss(f_gen, fake_gen, c_gen, alpha=alpha, beta=beta))


def test_gamma_acts():
    fake_gen, f_gen, c_gen, fake_real, f_real, c_real = batch(6)

    def losses(gamma):
        c = {"alpha": 0.9, "beta": 0.94, "gamma": gamma}
        fake = general_fake_loss(fake_gen, f_gen, c_gen, fake_real, f_real, c_real, **c)
        return fake.item(), general_generator_loss(f_gen, fake_gen, c_gen, **c).item()

    assert all(abs(left - right) > 1e-3 for left, right in zip(losses(0.9), losses(0.8), strict=True))


def test_data_free_needs_no_real_half_and_others_do():
    fake_gen, c_gen, fake_real, c_real = batch(4)
    data_free = fake_loss(fake_gen, c_gen, None, None, alpha=1.0, beta=1.0)
    assert data_free == fake_loss(fake_gen, c_gen, fake_real, c_real, alpha=1.0, beta=1.0)
    for alpha, beta in [(0.9, 1.0), (1.0, 0.9), (0.9, 0.9)]:
        assert needs_real(alpha, beta)
        with pytest.raises(ValueError, match="real half counts"):
            fake_loss(fake_gen, c_gen, None, None, alpha=alpha, beta=beta)
    with pytest.raises(ValueError, match="real half counts"):
        general_fake_loss(fake_gen, c_gen, c_gen, None, None, None, alpha=1.0, beta=1.0, gamma=0.9)


def test_f_equal_to_teacher_gives_zero():
    teacher, target = batch(2)
    assert generator_loss(teacher, teacher.clone(), target, alpha=0.9, beta=0.94).item() == 0


def test_weight_scales_each_sample():
    teacher, fake, target = batch(3)
    weight = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    whole = generator_loss(teacher, fake, target, alpha=0.9, beta=0.94, weight=weight)
    one = generator_loss(teacher[1:2], fake[1:2], target[1:2], alpha=0.9, beta=0.94)
    torch.testing.assert_close(whole, one * 2 / 5)
    real = batch(2, seed=1)
    whole = fake_loss(fake, target, *real, alpha=0.9, beta=0.94, weight=weight)
    one = fake_loss(fake[1:2], target[1:2], real[0][1:2], real[1][1:2], alpha=0.9, beta=0.94)
    torch.testing.assert_close(whole, one * 2 / 5)


def test_a_column_of_weights_is_refused():
    with pytest.raises(ValueError, match=r"weight must have shape \(5,\), one a sample, got \(5, 1\)"):
        expectation(torch.ones(5), torch.ones(5, 1))  # that losses call; they check types besides, in tests alone


def test_half_precision_is_summed_in_float32():
    ones = torch.full((2, 4096), 1.0, dtype=torch.bfloat16)
    loss = matching_loss(ones * 1.0625, torch.zeros_like(ones))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(4096 * 1.0625**2, rel=1e-6)


def test_gradients_of_the_generator_loss_reach_all_three():
    tensors = [tensor.requires_grad_() for tensor in batch(3)]
    assert torch.autograd.gradcheck(lambda f, g, c: generator_loss(f, g, c, alpha=0.92, beta=0.94), tensors)
