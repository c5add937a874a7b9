"""The objectives beside the squared distance: their formulas, and their gradients between Gaussians.

Between Gaussians the generator is ``g = mu + s z``; what a loss should descend is integrated over ``x`` and
differentiated by autograd, with the exact fake model of every ``(mu, s)``. The loss itself sees the fake model of one
``(mu, s)``, as in training, and quadrature nodes for a batch.
"""

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers import F_DIVERGENCES
from hypothesis import given
from hypothesis import strategies as st

from realuid_lightning.errors import UserError
from realuid_lightning.losses import (
    RATIO_RANGE,
    dmd_generator_loss,
    f_divergence_weight,
    generator_loss,
    normalising_weight,
)
from realuid_lightning.objectives import DMD, L2, Game, Point, PseudoHuber, SiD, SquaredDistance
from realuid_lightning.paths import BridgePath, FlowMatchingPath

ALL = {
    "squared": SquaredDistance(),
    "sid": SiD(),
    "sid_plain": SiD(1.2, normalise=False),
    "pseudo_huber": PseudoHuber(),
    "l2": L2(),
    "dmd": DMD(),
    "dmd_plain": DMD(normalise=False),
    "f_distill": DMD(f="jensen_shannon"),
}
every = pytest.mark.parametrize("divergence", ALL.values(), ids=ALL)
THROUGH = ["squared", "sid", "sid_plain", "pseudo_huber", "l2"]  # the others move samples alone
BY_PATH_WEIGHT = ["squared", "sid_plain", "pseudo_huber", "l2"]


class Step(NamedTuple):
    """What the networks answer in a generator step, all at the same ``(t, xt)``."""

    x1: torch.Tensor
    target: torch.Tensor
    teacher: torch.Tensor
    fake: torch.Tensor
    denoise: Callable[[torch.Tensor], torch.Tensor]
    weight: torch.Tensor | None
    logits: torch.Tensor | None = None
    signal_to_noise: torch.Tensor | None = None


class Answers(Game):
    """A game that gives the answers of a step, whoever asks."""

    def __init__(self, step):
        self.step, self.x1 = step, step.x1
        self.path = SimpleNamespace(signal_to_noise=lambda t: step.signal_to_noise)

    weight = property(lambda self: self.step.weight)

    @property
    def generated(self):
        return Point(self.x1, self.x1.flatten()[: len(self.x1)], self.x1, self.step.target)

    def teacher(self, point):
        return self.step.teacher

    def fake(self, point):
        return self.step.fake

    def logits(self, point):
        return self.step.logits

    def denoise(self, point, prediction):
        return self.step.denoise(prediction)

    def expect(self, **points):
        pass


def loss_of(divergence, step, **coefficients):
    return divergence.loss(Answers(step), **coefficients)


def linear_step(seed=0, shape=(5, 3, 2), weight=None, logits=None, same=False, dtype=torch.float64):
    """A step with fields linear in ``xt``; its ``x1`` is a leaf that gradients can be asked for."""
    rng = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=rng, dtype=torch.float64)
    dims = math.prod(shape[1:])
    x1, x0 = draw(shape).to(dtype).requires_grad_(), draw(shape).to(dtype)
    teacher_matrix, fake_matrix = (draw(dims, dims).to(dtype) / dims for _ in range(2))
    xt = 0.3 * x0 + 0.7 * x1
    fields = [(xt.flatten(1) @ matrix).unflatten(1, shape[1:]) for matrix in (teacher_matrix, fake_matrix)]
    return Step(
        x1=x1,
        target=x1 - x0,
        teacher=fields[0],
        fake=fields[0] if same else fields[1],
        denoise=lambda prediction: xt + 0.3 * prediction,
        weight=weight,
        logits=draw(shape[0]) if logits is None else logits,
        signal_to_noise=torch.linspace(0.3, 3.0, shape[0], dtype=dtype),
    )


def gradient(loss, step):
    return torch.autograd.grad(loss, step.x1, retain_graph=True)[0]


def same_loss(left, right, step):
    """Value and gradient of two losses on one step agree."""
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient(left, step), gradient(right, step), rtol=1e-9, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------- formulas


@given(st.floats(0.1, 1.0), st.floats(-0.5, 1.5))
def test_sid_at_a_half_is_the_squared_distance_and_that_the_generator_loss(alpha, beta):
    step = linear_step(weight=torch.linspace(0.5, 2.0, 5, dtype=torch.float64))
    plain = generator_loss(step.teacher, step.fake, step.target, alpha=alpha, beta=beta, weight=step.weight)
    same_loss(loss_of(SiD(alpha_sid=0.5, normalise=False), step, alpha=alpha, beta=beta), plain, step)
    same_loss(loss_of(SquaredDistance(), step, alpha=alpha, beta=beta), plain, step)


@given(st.floats(0.1, 1.0), st.floats(-0.5, 1.5), st.floats(-0.5, 1.5))
def test_formulas_as_written(alpha, beta, alpha_sid):
    step = linear_step()
    gap, rest = step.teacher - step.fake, alpha * step.teacher - beta * step.target

    def mean(product):
        return product.sum((1, 2)).mean()

    sid = mean(2 * gap * rest - 2 * alpha_sid * alpha * gap**2)
    same_loss(loss_of(SiD(alpha_sid, normalise=False), step, alpha=alpha, beta=beta), sid, step)
    b = gap / (gap.square().sum((1, 2), keepdim=True) + 0.3**2).sqrt()
    same_loss(loss_of(PseudoHuber(0.3), step, alpha=alpha, beta=beta), mean(b * rest - alpha * b * gap), step)
    direction = gap / gap.square().sum((1, 2), keepdim=True).sqrt()
    same_loss(loss_of(L2(), step, alpha=alpha, beta=beta), mean(direction * rest), step)


def test_pseudo_huber_lies_between_the_norm_and_sid():
    step = linear_step()
    coefficients = {"alpha": 0.9, "beta": 0.86}
    same_loss(
        2e6 * loss_of(PseudoHuber(1e6), step, **coefficients),
        loss_of(SiD(1.0, normalise=False), step, **coefficients),
        step,
    )
    # A small h leaves the direction alone, and the norm that L2 does not subtract.
    norm = (step.teacher - step.fake).flatten(1).norm(dim=1).mean()
    same_loss(
        loss_of(PseudoHuber(1e-9), step, **coefficients),
        loss_of(L2(), step, **coefficients) - 0.9 * norm,
        step,
    )


@pytest.mark.parametrize("shape", [(5, 3, 2), (4, 7)])
def test_default_h_grows_with_the_root_of_the_dimensions(shape):
    step = linear_step(shape=shape)
    h = 0.00054 * math.prod(shape[1:]) ** 0.5
    assert loss_of(PseudoHuber(), step, alpha=0.9, beta=0.9) == PseudoHuber(h).loss(Answers(step), alpha=0.9, beta=0.9)
    assert loss_of(PseudoHuber(), step, alpha=0.9, beta=0.9) != PseudoHuber(1.5 * h).loss(
        Answers(step), alpha=0.9, beta=0.9
    )


def test_eps_is_the_least_norm_that_is_divided_by():
    step = linear_step()
    norms = (step.teacher - step.fake).flatten(1).norm(dim=1)
    eps = norms.sort().values[2:4].mean().item()  # at a norm itself, rounding would decide on the gradient
    floored = loss_of(L2(eps), step, alpha=0.9, beta=0.86)
    products = ((step.teacher - step.fake) * (0.9 * step.teacher - 0.86 * step.target)).sum((1, 2))
    same_loss(floored, (products / norms.clamp(min=eps)).mean(), step)
    assert abs(floored - loss_of(L2(), step, alpha=0.9, beta=0.86)) > 1e-3


def test_sid_normalises_inner_products_of_guesses_by_the_teachers_guess_without_gradient():
    step = linear_step(weight=torch.full((5,), 7.0, dtype=torch.float64))
    weight = 1 / (step.x1 - step.denoise(step.teacher)).abs().mean((1, 2)).detach()
    plain = SiD(normalise=False)
    expected = 0.3**2 * plain.loss(
        Answers(step._replace(weight=weight)), alpha=0.9, beta=0.86
    )  # of denoise, 0.3 is the slope
    same_loss(loss_of(SiD(), step, alpha=0.9, beta=0.86), expected, step)


@pytest.mark.parametrize("alpha_sid", [0.5, 1.0, 1.2])
def test_with_equal_coefficients_sid_is_told_in_the_guesses_themselves(alpha_sid):
    """As in SiD, arXiv 2404.04057, equation 23, on a path of which the network predicts something else."""
    step = linear_step()
    teacher, fake, x1 = (step.denoise(each) for each in (step.teacher, step.fake, step.target))
    weight = normalising_weight(step.x1, teacher)[:, None, None]
    gap = teacher - fake
    expected = (weight * (2 * gap * (teacher - x1) - 2 * alpha_sid * gap**2)).sum((1, 2)).mean()
    same_loss(loss_of(SiD(alpha_sid), step, alpha=1.0, beta=1.0), expected, step)


def test_normalising_weight_is_floored():
    x1 = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 3.0]], dtype=torch.float64, requires_grad=True)
    guess = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 1e-6], [2.0, 1.0]], dtype=torch.float64)
    weight = normalising_weight(x1, guess)
    assert weight.tolist() == pytest.approx([1e5, 1e5, 1 / 1.5])
    assert not weight.requires_grad


def test_dmd_moves_the_samples_along_the_difference_of_the_guesses():
    step = linear_step(weight=torch.full((5,), 7.0, dtype=torch.float64))
    move = (step.denoise(step.teacher) - step.denoise(step.fake)).detach()
    for normalise, factor in [
        (False, step.signal_to_noise),
        (True, 1 / (step.x1 - step.denoise(step.teacher)).abs().mean((1, 2)).detach()),
    ]:
        loss = loss_of(DMD(normalise=normalise), step, alpha=1.0, beta=1.0)
        scaled = factor[:, None, None] * move
        torch.testing.assert_close(gradient(loss, step), -scaled / 5)
        torch.testing.assert_close(loss, 0.5 * scaled.square().sum((1, 2)).mean())
        goal = (step.x1 + scaled).detach()
        torch.testing.assert_close(loss, 0.5 * (step.x1 - goal).square().sum((1, 2)).mean())
    bare = dmd_generator_loss(step.x1, step.denoise(step.teacher), step.denoise(step.fake))
    torch.testing.assert_close(gradient(bare, step), -move / 5)


def test_dmd_ignores_the_coefficients_and_leaves_networks_and_discriminator_alone():
    step = linear_step(logits=torch.randn(5, dtype=torch.float64, requires_grad=True))
    assert loss_of(DMD(), step, alpha=0.9, beta=0.5) == loss_of(DMD(), step, alpha=1.0, beta=1.0)
    loss = loss_of(DMD(f="forward_kl"), step, alpha=1.0, beta=1.0)
    assert torch.autograd.grad(loss, [step.teacher, step.fake, step.logits], allow_unused=True) == (None,) * 3


def test_dmd_keeps_moves_that_are_small_beside_the_sample():
    x1 = torch.full((1, 4), 1000.0, requires_grad=True)
    loss = dmd_generator_loss(x1, torch.full((1, 4), 1e-6), torch.zeros(1, 4))
    torch.testing.assert_close(torch.autograd.grad(loss, x1)[0], torch.full((1, 4), -1e-6), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_weights_are_the_second_derivatives_of_the_divergences(name):
    r = torch.linspace(0.15, 9.0, 11, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F_DIVERGENCES[name](r).sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    h = (r**2 * curvature).detach()
    weight = f_divergence_weight(r.log(), name)
    torch.testing.assert_close(weight, h / h.mean())
    assert not weight.requires_grad


def test_ratio_is_clipped():
    low, high = RATIO_RANGE
    logits = torch.tensor([-1e4, 0.0, 1e4])
    expected = torch.tensor([low, 1.0, high])
    torch.testing.assert_close(f_divergence_weight(logits, "forward_kl"), expected / expected.mean())


def test_f_distill_weighs_each_sample():
    step = linear_step(weight=torch.linspace(0.5, 2.0, 5, dtype=torch.float64))
    h = f_divergence_weight(step.logits, "forward_kl")
    assert h.max() > 2 * h.min()
    for normalise in (True, False):
        plain = gradient(loss_of(DMD(normalise=normalise), step, alpha=1.0, beta=1.0), step)
        weighted = gradient(loss_of(DMD(normalise=normalise, f="forward_kl"), step, alpha=1.0, beta=1.0), step)
        torch.testing.assert_close(weighted, h[:, None, None] * plain)


# ---------------------------------------------------------------------------------------------------------- contracts


def test_what_a_divergence_asks_for():
    assert [name for name, divergence in ALL.items() if divergence.reads_ratio] == ["f_distill"]
    assert not list(DMD(normalise=False).faults(FlowMatchingPath()))
    (fault,) = DMD(normalise=False).faults(BridgePath(condition=False))
    assert "gives no signal_to_noise" in fault
    assert not any(list(divergence.faults(BridgePath(condition=False))) for divergence in (DMD(), SiD(), L2()))
    assert loss_of(DMD(), linear_step()._replace(logits=None), alpha=1.0, beta=1.0) > 0


@pytest.mark.parametrize("make", [partial(PseudoHuber, 0.0), partial(PseudoHuber, -1.0), partial(L2, 0.0)])
def test_lengths_are_positive(make):
    with pytest.raises(UserError, match="must be above 0"):
        make()


def test_unknown_divergence_is_told_with_the_known():
    unchecked = DMD.__init__.__wrapped__
    with pytest.raises(UserError, match=r"one of reverse_kl, .* jeffreys, got 'total_variation'"):
        unchecked(object.__new__(DMD), f="total_variation")


@every
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.9, 0.86)])
def test_no_gradient_where_the_fake_model_is_the_teacher(divergence, alpha, beta):
    step = linear_step(same=True)
    loss = loss_of(divergence, step, alpha=alpha, beta=beta)
    assert loss.item() == 0
    assert gradient(loss, step).abs().max() < 1e-9


@every
@given(order=st.permutations(range(5)), seed=st.integers(0, 3))
def test_order_of_the_batch_does_not_matter(divergence, order, seed):
    step = linear_step(seed, weight=torch.linspace(0.5, 2.0, 5, dtype=torch.float64))
    fields = {name: field[order] for name, field in step._asdict().items() if name != "denoise"}
    point = step.denoise(torch.zeros_like(step.teacher))[order]
    shuffled = Step(**fields, denoise=lambda prediction: point + 0.3 * prediction)
    left, right = (loss_of(divergence, each, alpha=0.9, beta=0.86) for each in (step, shuffled))
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("name", BY_PATH_WEIGHT)
@given(scale=st.floats(0.1, 10.0))
def test_the_gradient_is_linear_in_the_paths_weight(name, scale):
    weight = torch.linspace(0.0, 2.0, 5, dtype=torch.float64)
    one, scaled, bare = (linear_step(weight=each) for each in (weight, scale * weight, None))
    gradients = [gradient(loss_of(ALL[name], step, alpha=0.9, beta=0.86), step) for step in (one, scaled, bare)]
    torch.testing.assert_close(gradients[1], scale * gradients[0])
    torch.testing.assert_close(gradients[0], weight[:, None, None] * gradients[2])


@pytest.mark.parametrize("name", [name for name in ALL if name not in BY_PATH_WEIGHT])
def test_normalised_losses_replace_the_paths_weight(name):
    weighted, bare = linear_step(weight=torch.full((5,), 3.0, dtype=torch.float64)), linear_step()
    assert loss_of(ALL[name], weighted, alpha=0.9, beta=0.86) == ALL[name].loss(Answers(bare), alpha=0.9, beta=0.86)


@every
def test_half_precision_is_summed_in_float32(divergence):
    """4096 equal terms, each exact in bfloat16; their sum in bfloat16 would stop growing early."""

    def step(dtype):
        full = partial(torch.full, (2, 4096), dtype=dtype)
        return Step(
            *(full(1.0), full(0.25), full(1.5), full(0.5)),
            *(lambda prediction: prediction, None, torch.zeros(2), torch.ones(2)),
        )

    whole = loss_of(divergence, step(torch.float64), alpha=1.0, beta=1.0)
    for dtype in (torch.bfloat16, torch.float16):
        half = loss_of(divergence, step(dtype), alpha=1.0, beta=1.0)
        assert half.dtype == torch.float32
        assert half.item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("name", THROUGH)
def test_gradients_reach_all_three(name, monkeypatch):
    """The normalising weight has no gradient by design, so it is held."""
    monkeypatch.setattr(
        "realuid_lightning.objectives.divergences.normalising_weight", lambda *_: torch.linspace(1, 2, 5)
    )
    step = linear_step()._replace(denoise=lambda prediction: 0.3 * prediction)

    def loss(teacher, fake, target):
        each = step._replace(teacher=teacher, fake=fake, target=target)
        return loss_of(ALL[name], each, alpha=0.92, beta=0.94)

    tensors = [tensor.detach().requires_grad_() for tensor in (step.teacher, step.fake, step.target)]
    assert torch.autograd.gradcheck(loss, tensors)


# -------------------------------------------------------------------------------------------------- between Gaussians

T = 0.6
GENERATED, REAL = (0.3, 0.8), (-0.2, 1.1)
PAIRS = [(1.0, 1.0), (0.9, 0.86), (0.7, 0.7)]


def density(x, mean, std):
    variance = (1 - T) ** 2 + (T * std) ** 2
    return torch.exp(-((x - T * mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi) / variance**0.5


def velocity(x, mean, std):
    variance = (1 - T) ** 2 + (T * std) ** 2
    return mean + (T * std**2 - (1 - T)) / variance * (x - T * mean)


def exact_fake(x, generated, alpha, beta):
    flux = beta * density(x, *generated) * velocity(x, *generated)
    flux = flux + (1 - beta) * density(x, *REAL) * velocity(x, *REAL)
    return flux / mixture(x, generated, alpha)


def mixture(x, generated, alpha):
    return alpha * density(x, *generated) + (1 - alpha) * density(x, *REAL)


def leaves():
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in GENERATED]


def descent_of(functional):
    """The gradient in (mu, s) of an integral over x of ``functional(x, (mu, s))``."""
    parameters = leaves()
    x = torch.linspace(-9.0, 9.0, 20001, dtype=torch.float64)
    return torch.stack(torch.autograd.grad((functional(x, parameters)).sum() * (x[1] - x[0]), parameters))


def descent_by(divergence, alpha=1.0, beta=1.0, ratio=False):
    """The gradient in (mu, s) of a loss with the exact fake model, and the logits there.

    The batch is a grid in ``xt`` (fine enough for the jump of a direction) by three Gauss-Hermite nodes in the part of
    ``(z, x0)`` that ``xt`` does not see, of which no gradient has more than the square.
    """
    mu, s = parameters = leaves()
    seen = torch.linspace(-9.0, 9.0, 20001, dtype=torch.float64).repeat(3)
    shares = torch.exp(-(seen**2) / 2) / math.sqrt(2 * math.pi) * (18.0 / 20000)
    nodes, hermite = (torch.from_numpy(each) for each in np.polynomial.hermite.hermgauss(3))
    unseen = math.sqrt(2) * nodes.repeat_interleave(20001)
    shares = shares * hermite.repeat_interleave(20001) / math.sqrt(math.pi)
    cos, sin = torch.tensor([T * GENERATED[1], 1 - T], dtype=torch.float64) / math.hypot(T * GENERATED[1], 1 - T)
    z, x0 = cos * seen + sin * unseen, sin * seen - cos * unseen
    x1 = mu + s * z
    xt = (1 - T) * x0 + T * x1
    fake = exact_fake(xt, GENERATED, alpha, beta)
    step = Step(
        x1=x1[:, None],
        target=(x1 - x0)[:, None],
        teacher=velocity(xt, *REAL)[:, None],
        fake=fake[:, None],
        denoise=lambda prediction: xt[:, None] + (1 - T) * prediction,
        weight=shares * len(xt),
        signal_to_noise=T**2 / (1 - T) ** 2 * shares * len(xt),
        logits=torch.log(density(xt, *REAL) / density(xt, *GENERATED)) if ratio else None,
    )
    loss = loss_of(divergence, step, alpha=alpha, beta=beta)
    return torch.stack(torch.autograd.grad(loss, parameters)), loss, step


def check(got, expected, rtol=1e-7):
    assert expected.abs().min() > 1e-3, "a gradient of zero would prove nothing"
    torch.testing.assert_close(got, expected, rtol=rtol, atol=0.0)


def average(distance, alpha, beta, held):
    """``E_m distance(f* - f_opt)``; the density m is held at the present generator, or follows it."""

    def functional(x, generated):
        m = mixture(x, GENERATED if held else generated, alpha)
        return m * distance(velocity(x, *REAL) - exact_fake(x, generated, alpha, beta))

    return descent_of(functional)


def pseudo_huber_distance(y):
    return (y**2 + 0.5**2).sqrt() - 0.5


@pytest.mark.parametrize(("alpha", "beta"), PAIRS)
def test_the_squared_distance_descends_the_mean_square(alpha, beta):
    got, _, _ = descent_by(SquaredDistance(), alpha, beta)
    check(got, average(torch.square, alpha, beta, held=False))


@pytest.mark.parametrize("alpha_sid", [0.5, 1.0, 1.2])
@pytest.mark.parametrize(("alpha", "beta"), PAIRS)
def test_sid_descends_the_mean_square_with_a_part_of_the_density_held(alpha, beta, alpha_sid):
    got, _, _ = descent_by(SiD(alpha_sid, normalise=False), alpha, beta)
    free, held = (average(torch.square, alpha, beta, held=held) for held in (False, True))
    check(got, (2 - 2 * alpha_sid) * free + (2 * alpha_sid - 1) * held)


@pytest.mark.parametrize(("alpha", "beta"), PAIRS)
def test_sim_descends_the_mean_distance_with_the_density_held(alpha, beta):
    got, loss, _ = descent_by(PseudoHuber(0.5), alpha, beta)
    check(got, average(pseudo_huber_distance, alpha, beta, held=True))
    free = average(pseudo_huber_distance, alpha, beta, held=False)
    assert ((got - free).abs() > 1e-2 * free.abs()).all(), "the density must matter here"
    if alpha == beta == 1:
        assert abs(loss.item()) < 1e-9


@pytest.mark.parametrize(("alpha", "beta"), PAIRS)
def test_l2_descends_the_mean_norm(alpha, beta):
    """In one dimension: only a floor lets the gradient see that the direction changes where the gap crosses zero."""
    expected = average(torch.abs, alpha, beta, held=False)
    got, _, _ = descent_by(L2(eps=0.02), alpha, beta)
    check(got, expected, rtol=3e-3)
    blind, _, _ = descent_by(L2(), alpha, beta)
    assert (blind - expected).abs().max() > 0.1


def test_l2_descends_the_mean_norm_in_two_dimensions():
    """The same law in both dimensions; nodes as in ``descent_by``, where no node meets the one point of zero gap."""
    mu, s = parameters = leaves()
    line = torch.linspace(-7.0, 7.0, 400, dtype=torch.float64)
    seen = torch.cartesian_prod(line, line).repeat(4, 1)
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)  # Gauss-Hermite with two nodes
    unseen = torch.cartesian_prod(signs, signs).repeat_interleave(400**2, 0)
    cos, sin = torch.tensor([T * GENERATED[1], 1 - T], dtype=torch.float64) / math.hypot(T * GENERATED[1], 1 - T)
    x1 = mu + s * (cos * seen + sin * unseen)
    x0 = sin * seen - cos * unseen
    xt = (1 - T) * x0 + T * x1
    shares = torch.exp(-seen.square().sum(1) / 2) / (2 * math.pi) * (line[1] - line[0]) ** 2 / 4
    step = Step(
        x1=x1,
        target=x1 - x0,
        teacher=velocity(xt, *REAL),
        fake=velocity(xt, *GENERATED),
        denoise=lambda prediction: prediction,
        weight=shares * len(xt),
    )
    loss = loss_of(L2(), step, alpha=1.0, beta=1.0)
    got = torch.stack(torch.autograd.grad(loss, parameters))

    parameters = leaves()
    x = torch.cartesian_prod(line, line)
    norm = (velocity(x, *REAL) - velocity(x, *parameters)).square().sum(1).sqrt()
    value = (density(x, *parameters).prod(1) * norm).sum() * (line[1] - line[0]) ** 2
    assert loss.item() == pytest.approx(value.item(), rel=1e-4)
    check(got, torch.stack(torch.autograd.grad(value, parameters)), rtol=5e-3)


def kl_between(p, q):
    """Closed-form KL between the laws of ``xt`` when ``x1`` is normal with these means and deviations."""
    (p_mean, p_var), (q_mean, q_var) = ((T * mean, (1 - T) ** 2 + (T * std) ** 2) for mean, std in (p, q))
    ratio = torch.as_tensor(p_var / q_var, dtype=torch.float64)
    return 0.5 * (ratio - 1 - ratio.log() + (p_mean - q_mean) ** 2 / q_var)


def test_dmd_descends_the_kl():
    parameters = leaves()
    expected = torch.stack(torch.autograd.grad(kl_between(parameters, REAL), parameters))
    got, _, _ = descent_by(DMD(normalise=False))
    check(got, expected)


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_f_distill_descends_its_divergence(name, monkeypatch):
    monkeypatch.setattr("realuid_lightning.losses.divergences.RATIO_RANGE", (0.0, math.inf))

    def functional(x, generated):
        generated_density = density(x, *generated)
        return generated_density * F_DIVERGENCES[name](density(x, *REAL) / generated_density)

    expected = descent_of(functional)
    got, _, step = descent_by(DMD(normalise=False, f=name), ratio=True)
    r = step.logits.exp().detach()
    normalisation = {
        "reverse_kl": 1.0,
        "softened_reverse_kl": (1 / (1 + r)).mean(),
        "jensen_shannon": (r / (1 + r)).mean(),
        "squared_hellinger": r.sqrt().mean() / 4,
        "forward_kl": r.mean(),
        "jeffreys": (1 + r).mean(),
    }[name]
    check(got * normalisation, expected, rtol=1e-6)
    if name == "forward_kl":
        parameters = leaves()
        closed = torch.stack(torch.autograd.grad(kl_between(REAL, parameters), parameters))
        check(got * normalisation, closed, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_real_data_in_the_fake_model_softens_dmds_reverse_kl(alpha):
    """With alpha = beta the reverse KL's gradient is weighted by ``alpha / (alpha + (1 - alpha) r)``."""

    def functional(x, generated):
        p_g = density(x, *generated)
        r = density(x, *REAL) / p_g
        k = (1 - alpha) / alpha
        return p_g * (1 + k * r) * torch.log((1 + k * r) / r)  # r^2 f''(r) = 1 / (1 + k r)

    got, _, _ = descent_by(DMD(normalise=False), alpha, alpha)
    check(got, descent_of(functional), rtol=1e-6)
