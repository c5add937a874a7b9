"""RealUIDModule with other distances than the squared one: what changes, what must not, and what it costs."""

import pytest
import torch
from helpers import drawn, fit, mlp, points, shaken, started
from torch import nn

from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, Warmup
from realuid_lightning.objectives import DMD, GAN, L2, Adversarial, Corrected, PseudoHuber, SiD, SquaredDistance
from realuid_lightning.paths import DiffusionPath, FlowMatchingPath

PATHS = [FlowMatchingPath, DiffusionPath]
COEFFICIENTS = [(1.0, 1.0), (0.9, 0.94)]
OTHERS = [
    SiD(),
    SiD(normalise=False),
    PseudoHuber(),
    PseudoHuber(h=1.0),
    L2(),
    DMD(),
    DMD(normalise=False),
]


def told(divergence):
    return "-".join([type(divergence).__name__, *(f"{key}={value}" for key, value in vars(divergence).items())])


def network():
    return mlp([3], depth=2)


def module(**options):
    return started(RealUIDModule(network(), None, **options)).double()


def generator_gradients(made, batch):
    loss = made.generator_loss(batch)
    return loss, torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(made.generator.parameters()))])


class Watched:
    """Notes every forward of the three networks, and whether it could build a graph."""

    def __init__(self, made):
        self.calls = []
        for name in ("teacher", "fake", "generator"):
            of = getattr(made, name)
            of = of.network if name == "generator" else of  # its own forward is not what training calls
            of.register_forward_pre_hook(lambda *_, name=name: self.calls.append((name, torch.is_grad_enabled())))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("alpha", "beta"), COEFFICIENTS)
def test_sid_at_one_half_is_realuid(path, alpha, beta):
    plain = module(path=path(), alpha=alpha, beta=beta)
    sid = module(path=path(), alpha=alpha, beta=beta, divergence=SiD(alpha_sid=0.5, normalise=False))
    batch = drawn(plain, sample_t=plain.path.generator_t)
    (loss, gradients), (sid_loss, sid_gradients) = (generator_gradients(made, batch) for made in (plain, sid))
    torch.testing.assert_close(sid_loss, loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(sid_gradients, gradients, rtol=1e-8, atol=1e-10 * float(gradients.norm()))
    assert gradients.norm() > 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", OTHERS, ids=told)
def test_a_divergence_turns_the_generators_gradient_and_leaves_the_fake_models_loss(path, divergence):
    plain, other = (module(path=path(), alpha=0.9, beta=0.94, divergence=each) for each in (None, divergence))
    batch = drawn(plain)
    assert torch.equal(other.fake_loss(batch), plain.fake_loss(batch))
    directions = [nn.functional.normalize(generator_gradients(made, batch)[1], dim=0) for made in (plain, other)]
    assert directions[0] @ directions[1] < 0.9999
    assert all(direction.isfinite().all() for direction in directions)


def test_f_distill_turns_the_gradient_of_dmd_by_the_discriminators_ratio():
    gan = GAN(t_range=(0.0, 1.0))
    plain, other = (module(divergence=DMD(f=f), gan=gan) for f in ("reverse_kl", "forward_kl"))
    batch = drawn(plain)
    assert torch.equal(other.fake_loss(batch), plain.fake_loss(batch))
    (_, left), (_, right) = (generator_gradients(made, batch) for made in (plain, other))
    assert (left - right).norm() > 1e-3 * left.norm()
    nn.init.zeros_(other.fake.head[-1].weight)  # equal densities wherever it looks: all samples count alike
    nn.init.zeros_(other.fake.head[-1].bias)
    plain.fake.load_state_dict(other.fake.state_dict())
    torch.testing.assert_close(*(generator_gradients(made, batch)[1] for made in (plain, other)))


@pytest.mark.parametrize("divergence", [SquaredDistance(), *OTHERS], ids=told)
def test_dmd_alone_builds_no_graph_through_teacher_and_fake_model(divergence):
    made = module(divergence=divergence)
    batch, watched = drawn(made), Watched(made)
    _, gradients = generator_gradients(made, batch)
    through = not isinstance(divergence, DMD)
    assert watched.calls == [("generator", True), ("teacher", through), ("fake", through)]
    assert gradients.norm() > 0


def test_f_distill_reads_the_ratio_without_a_graph_and_judges_with_one():
    made = module(divergence=DMD(f="forward_kl"), gan=GAN(t_range=(0.0, 1.0)))
    batch, watched = drawn(made), Watched(made)
    made.generator_loss(batch)
    fake = [graph for name, graph in watched.calls if name == "fake"]
    assert fake == [False, True]  # prediction and ratio at xt by one encoding, then the adversarial term
    assert ("teacher", False) in watched.calls


def test_a_loss_that_is_only_measured_builds_no_graph():
    made = module()
    batch, watched = drawn(made), Watched(made)
    with torch.no_grad():
        made.generator_loss(batch)
        made.fake_loss(batch)
    assert watched.calls
    assert not any(graph for _, graph in watched.calls)


@pytest.mark.parametrize(("alpha", "beta"), COEFFICIENTS)
def test_gamma_that_is_alpha_is_realuid_and_calls_no_teacher_in_fake_steps(alpha, beta):
    plain, general, other = (module(alpha=alpha, beta=beta, gamma=gamma) for gamma in (None, alpha, 0.7))
    batch = drawn(plain)
    assert torch.equal(general.fake_loss(batch), plain.fake_loss(batch))
    assert torch.equal(generator_gradients(general, batch)[1], generator_gradients(plain, batch)[1])
    assert (generator_gradients(other, batch)[1] - generator_gradients(plain, batch)[1]).norm() > 1e-3
    for made, expected in [(general, []), (other, [("teacher", False)])]:
        watched = Watched(made)
        made.fake_loss(batch)
        assert [call for call in watched.calls if call[0] == "teacher"] == expected


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", [SquaredDistance(), *OTHERS], ids=told)
def test_a_fake_model_that_is_the_teacher_leaves_the_generator_where_it_is(path, divergence):
    made = RealUIDModule(network(), None, path=path(), alpha=0.9, beta=0.94, divergence=divergence)
    made.start()
    made.double()
    batch = drawn(made, sample_t=made.path.generator_t)
    _, gradients = generator_gradients(made, batch)
    shaken(made.fake)
    _, moved = generator_gradients(made, batch)
    assert gradients.norm() < 1e-9 * moved.norm()


def test_what_does_not_go_together_is_told_at_once_with_all_else():
    with pytest.raises(UserError) as said:
        RealUIDModule(network(), None, alpha=0.0, gamma=0.5, divergence=DMD(f="jeffreys"), fake_steps=0, clip=-1.0)
    for word in ("gamma belongs to", "is DMD", "gan", "alpha must be", "fake_steps must be", "clip must be"):
        assert word in str(said.value)


@pytest.mark.parametrize("gan", [None, GAN(), GAN(t_range=(0.0, 0.9))])
def test_f_distill_needs_a_discriminator_at_all_times(gan):
    with pytest.raises(UserError, match=r"DMD reads density ratios .* GAN with t_range \[0, 1\]"):
        RealUIDModule(network(), None, divergence=DMD(f="softened_reverse_kl"), gan=gan)
    corrected = Corrected(divergence=DMD(f="softened_reverse_kl"))
    with pytest.raises(UserError, match=r"divergence DMD reads .*set gan, here or in an Adversarial objective, to GAN"):
        RealUIDModule(network(), None, objective=corrected if gan is None else Adversarial(corrected, gan))


@pytest.mark.parametrize("divergence", OTHERS[:5], ids=told)
def test_gamma_is_for_the_squared_distance(divergence):
    with pytest.raises(UserError, match=f"to the squared distance, but divergence is {type(divergence).__name__}:"):
        RealUIDModule(network(), None, alpha=0.9, beta=0.9, gamma=0.8, divergence=divergence)
    assert RealUIDModule(network(), None, alpha=0.9, gamma=0.9, divergence=divergence).objective.gamma is None


class TwoTimes(FlowMatchingPath):
    """Its steps can be told apart by their times."""

    def sample_t(self, u):
        return torch.full_like(u, 0.25)

    def generator_t(self, u):
        return torch.full_like(u, 0.75)


def test_generator_steps_draw_from_generator_t_and_fake_steps_from_sample_t(tmp_path):
    schedules = {"fake_schedule": Warmup, "generator_schedule": Warmup}
    made = RealUIDModule(network(), None, path=TwoTimes(), fake_steps=2, divergence=DMD(), **schedules)
    seen = []

    def noting(name, loss):
        return lambda batch: (seen.append((name, set(batch.t.tolist()))), loss(batch))[1]

    made.fake_loss, made.generator_loss = noting("fake", made.fake_loss), noting("generator", made.generator_loss)
    before = made.generator.network.input.weight.clone()
    fit(made, points(), tmp_path)
    assert seen == [("fake", {0.25}), ("fake", {0.25}), ("generator", {0.75})] * 2
    assert not torch.equal(made.generator.network.input.weight, before)
