"""The adversarial term: what its losses are worth at the best discriminator, and its settings."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realuid_lightning.data import Draws
from realuid_lightning.errors import UserError
from realuid_lightning.losses import adversarial_generator_loss, discriminator_loss
from realuid_lightning.objectives import GAN, Game
from realuid_lightning.paths import FlowMatchingPath

REAL, GENERATED = NormalDist(-0.4, 1.1), NormalDist(0.5, 0.8)


def quantiles(distribution, count=20_000):
    """Nodes of equal weight, as a batch."""
    nodes = [distribution.inv_cdf((index + 0.5) / count) for index in range(count)]
    return torch.tensor(nodes, dtype=torch.float64)


def log_density(distribution, x):
    return -(((x - distribution.mean) / distribution.stdev) ** 2) / 2 - math.log(distribution.stdev)


def log_ratio(x):
    return log_density(REAL, x) - log_density(GENERATED, x)


def test_the_best_discriminator_measures_jensen_shannon():
    x = torch.linspace(-8.0, 8.0, 16001, dtype=torch.float64)
    real, generated = (torch.exp(log_density(each, x)) / math.sqrt(2 * math.pi) for each in (REAL, GENERATED))
    middle = (real + generated) / 2
    integrand = real * torch.log(real / middle) + generated * torch.log(generated / middle)
    jensen_shannon = 0.5 * integrand.sum().item() * 1e-3

    at_generated, at_real = quantiles(GENERATED), quantiles(REAL)
    best = discriminator_loss(log_ratio(at_generated), log_ratio(at_real)).item()
    assert best == pytest.approx(math.log(4) - 2 * jensen_shannon, rel=1e-4)
    assert jensen_shannon > 0.05
    for shift, scale in [(0.1, 1.0), (-0.1, 1.0), (0.0, 1.1), (0.0, 0.9), (0.0, -1.0)]:
        other = [shift + scale * log_ratio(x) for x in (at_generated, at_real)]
        assert discriminator_loss(*other).item() > best + 1e-4


def test_a_blind_discriminator_costs_log_four():
    zeros = torch.zeros(7, dtype=torch.float64)
    assert discriminator_loss(zeros, zeros[:3]).item() == pytest.approx(math.log(4))
    assert adversarial_generator_loss(zeros).item() == pytest.approx(math.log(2))


def test_the_halves_are_averaged_alone():
    generated, real = torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.0, 2.0, 5.0])
    expected = math.fsum(math.log1p(math.exp(value)) for value in (1, 3)) / 2
    expected += math.fsum(math.log1p(math.exp(-value)) for value in (-2, 0, 2, 5)) / 4
    assert discriminator_loss(generated, real).item() == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=6))
def test_the_generator_is_pushed_to_look_real(values):
    logits = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(adversarial_generator_loss(logits), logits)
    torch.testing.assert_close(slope, -torch.sigmoid(-logits.detach()) / len(values))
    (slope,) = torch.autograd.grad(discriminator_loss(logits, torch.zeros(1, dtype=torch.float64)), logits)
    torch.testing.assert_close(slope, torch.sigmoid(logits.detach()) / len(values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_large_logits_stay_finite(dtype):
    large = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    for loss in (discriminator_loss(large, large), adversarial_generator_loss(large)):
        assert loss.dtype == torch.float32
        (slope,) = torch.autograd.grad(loss, large)
        assert torch.isfinite(loss)
        assert torch.isfinite(slope).all()
    wide = large.detach().float()
    assert discriminator_loss(large, large).item() == pytest.approx(wide[0].item(), rel=1e-6)
    assert adversarial_generator_loss(large).item() == pytest.approx(wide[0].item() / 2, rel=1e-6)


def nobody(t, x, y=None):
    raise AssertionError("nobody is to be asked")


@given(st.floats(0.0, 0.9), st.floats(0.01, 0.1), st.floats(0.0, 1.0), st.floats(0.0, 0.5), st.floats(0.6, 1.0))
def test_times_lie_in_their_part_of_the_paths_range(low, width, u, start, end):
    high = min(low + width, 1.0)
    path, draws = FlowMatchingPath(), torch.tensor([0.0, u, 1.0], dtype=torch.float64)
    path.t_range = (start, end)
    x = torch.zeros(3, 2, dtype=torch.float64)
    game = Game(path, nobody, nobody, Draws(x1=x, x0=x, z=x, t=draws, u=draws), x1=x)
    times = game.generated_at(GAN(t_range=[low, high]).t_range).t
    expected = [start + (end - start) * part for part in (low, low + (high - low) * u, high)]
    assert times.tolist() == pytest.approx(expected, abs=1e-12)


def test_defaults_are_a_published_pair_at_the_data_end():
    gan = GAN()
    assert (gan.generator_weight, gan.discriminator_weight) == (0.3, 1.0)
    assert gan.t_range == (0.8, 1.0)


def test_all_faults_are_told_at_once():
    with pytest.raises(UserError) as told:
        GAN(generator_weight=0.0, discriminator_weight=-1.0, t_range=[0.5, 0.5])
    for name in ("generator_weight", "discriminator_weight", "t_range"):
        assert name in str(told.value)


@pytest.mark.parametrize("t_range", [(0.8, 0.2), (-0.1, 1.0), (0.5, 1.1), (0.5,), (0.1, 0.2, 0.3)])
def test_t_range_is_two_rising_fractions(t_range):
    with pytest.raises(UserError, match="t_range must be two fractions"):
        GAN(t_range=t_range)
