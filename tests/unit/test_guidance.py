"""Guidance in games, modules and samplers; that it is right is told by tests/tables/test_guidance_of_mixtures.py."""

from functools import partial

import pytest
import torch
from helpers import mlp
from torch import nn

from realuid_lightning.conditions import rows
from realuid_lightning.data import Batch
from realuid_lightning.errors import UserError
from realuid_lightning.guidance import guided
from realuid_lightning.losses import fake_loss, generator_loss
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.networks import MLP, unconditional
from realuid_lightning.objectives import GAN, Game
from realuid_lightning.paths import FlowMatchingPath
from realuid_lightning.solvers import Ancestral, ManySteps


def labelled(seed=0, **options):
    return mlp([3], seed=seed, num_classes=4, null_label=True, **options)


def module(**options):
    made = RealUIDModule(labelled(), None, **{"guidance": 1.5, **options})
    made.start()
    made.fake.load_state_dict(labelled(1).state_dict()) if "gan" not in options else None
    return made


def batch(made, y=None, size=6):
    y = torch.arange(size) % 4 if y is None else y
    x1 = torch.randn(size, 3, generator=torch.Generator().manual_seed(0))
    return made.draw(Batch(x1=x1, y=y), torch.Generator().manual_seed(1))


class Counting(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.rows = network, []

    def forward(self, t, x, y=None, **rows):
        self.rows.append(len(x))
        return self.network(t, x, y, **rows)


def leaning(network, t, x, y, scale):
    without, told = network(t, x, torch.full_like(y, 4)), network(t, x, y)
    return without + scale[:, None] * (told - without)


@pytest.mark.parametrize("both", [False, True])
def test_a_game_guides_the_teacher_or_both_by_one_call_each(both):
    made = module(guidance=(1.0, 3.0), guide_fake=both)
    given = batch(made)
    teacher, fake = Counting(made.teacher), Counting(made.fake)
    game = Game(made.path, teacher, fake, given, x1=given.z + 1)
    game.expect(teacher=[game.generated, game.real], fake=[game.generated, game.real])
    for point in (game.generated, game.real):
        led = leaning(made.teacher, point.t, point.xt, given.y, given.guidance)
        torch.testing.assert_close(game.teacher(point), led)
        own = made.fake(point.t, point.xt, given.y)
        own = leaning(made.fake, point.t, point.xt, given.y, given.guidance) if both else own
        torch.testing.assert_close(game.fake(point), own)
    assert (teacher.rows, fake.rows) == ([24], [24 if both else 12])


@pytest.mark.parametrize("both", [False, True])
def test_losses_are_those_of_guided_predictions(both):
    made = module(guide_fake=both, alpha=0.9, beta=0.94)
    given = batch(made)
    x1 = made.generated(given)
    points = [made.sample(given, each) for each in (x1, given.x1)]
    asks = [partial(made.predict, network, batch=given) for network in (made.teacher, made.fake)]
    (on_generated, on_real), on_teacher = [asks[1](point) for point in points], asks[0](points[0])
    coefficients = {"alpha": 0.9, "beta": 0.94}
    expected = fake_loss(on_generated, points[0].target, on_real, points[1].target, **coefficients)
    torch.testing.assert_close(made.fake_loss(given), expected)
    expected = generator_loss(on_teacher, on_generated, points[0].target, **coefficients)
    torch.testing.assert_close(made.generator_loss(given), expected)
    torch.testing.assert_close(on_teacher, leaning(made.teacher, given.t, points[0].xt, given.y, given.guidance))
    null = made.fake.label_emb.weight
    (gradient,) = torch.autograd.grad(made.fake_loss(given), null)
    assert bool(gradient[4].any()) == both  # a guided fake model learns to do without a label, too


def test_a_scale_of_one_is_no_guidance():
    plain, made = module(guidance=None), module(guidance=1.0, guide_fake=True)
    for player in ("fake", "generator"):
        torch.testing.assert_close(*(getattr(each, f"{player}_loss")(batch(each)) for each in (plain, made)))


def test_logits_are_those_of_the_label():
    def logits(**options):
        made = module(gan=GAN(), **options)
        for weight in made.fake.head.parameters():
            nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(2))
        game = made.game(batch(made), torch.ones(6, 3))
        game.expect(fake=[game.generated], logits=[game.real])
        return game.logits(game.real), game.fake(game.generated)

    plain, led = logits(guidance=None), logits(guide_fake=True)
    torch.testing.assert_close(plain[0], led[0])
    assert not torch.allclose(plain[1], led[1])


def test_draws_determine_the_scales_and_are_else_as_without():
    plain, fixed, ranged = (batch(module(guidance=scale), size=400) for scale in (None, 1.5, (1.0, 2.0)))
    for led in (fixed, ranged):
        assert all(torch.equal(getattr(plain, name), getattr(led, name)) for name in ("t", "x0", "z", "y"))
    assert (fixed.guidance == 1.5).all()
    assert 1 <= ranged.guidance.min() < 1.1 < 1.9 < ranged.guidance.max() < 2
    assert torch.equal(ranged.guidance, batch(module(guidance=(1.0, 2.0)), size=400).guidance)
    assert fixed.fake_guidance is None
    parts = ranged.interleaved(4)
    assert torch.equal(torch.stack([part.guidance for part in parts], 1).flatten(), ranged.guidance)
    assert all((part.null == 4).all() for part in parts)


def test_a_teacher_leaves_out_its_share_of_labels():
    y = torch.arange(4000) % 4
    plain, dropping = (batch(TeacherModule(labelled(), label_dropout=share), y=y, size=4000) for share in (0.0, 0.25))
    assert torch.equal(plain.y, y)
    assert torch.equal(plain.t, dropping.t)
    left_out = dropping.y == 4
    assert torch.equal(dropping.y[~left_out], y[~left_out])
    assert 0.22 < left_out.float().mean() < 0.28


def test_a_teacher_is_sampled_by_its_guidance():
    made = TeacherModule(labelled(), sampling_steps=[4], ema=[0.5], guidance=1.5, solver=Ancestral())
    assert list(made.samplers()) == ["raw_steps_4_guidance_1.5", "ema_0.5_steps_4_guidance_1.5"]
    latents = Batch(z=torch.randn(4, 3), y=torch.arange(4), index=torch.arange(4))
    found = made.samplers()["ema_0.5_steps_4_guidance_1.5"](latents)
    ask = guided(made.network, torch.full((4,), 1.5), torch.full((4,), 4))
    noise = partial(made.noise, latents)
    torch.testing.assert_close(found, Ancestral().sample(made.path, ask, latents.z, latents.y, 4, None, noise))


class ByText(nn.Module):
    """A network whose conditions are texts, of which the empty one says nothing."""

    def forward(self, t, x, y=None):
        return x * 0 + (y["text"] * y["mask"]).sum(1, keepdim=True)

    def unconditional(self, y):
        return {"text": torch.zeros_like(y["text"]), "mask": y["mask"]}


def test_conditions_of_other_forms_are_the_networks_own_affair():
    y = {"text": torch.randn(6, 5), "mask": torch.ones(6, 5)}
    network, scale, t = ByText(), torch.linspace(0, 2, 6), torch.zeros(6)
    led = guided(network, scale, unconditional(network, y))(t, torch.zeros(6, 3), y)
    torch.testing.assert_close(led, (scale * y["text"].sum(1))[:, None].expand(6, 3))
    assert torch.equal(rows(unconditional(network, y), slice(0, 2))["text"], torch.zeros(2, 5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RealUIDModule(MLP([3], num_classes=4), None, guidance=1.5), "guidance: MLP has no label that stands"),
        (lambda: RealUIDModule(MLP([3]), None, guidance=1.5), "guidance: MLP has no classes"),
        (lambda: RealUIDModule(Counting(MLP([3])), None, guidance=1.5), r"give it a method unconditional\(y\)"),
        (lambda: RealUIDModule(labelled(), None, guidance=(2.0, 1.0)), "guidance must be a number of at least 0"),
        (lambda: RealUIDModule(labelled(), None, guidance=float("nan")), "guidance must be a number of at least 0"),
        (lambda: RealUIDModule(labelled(), None, guide_fake=True), "guide_fake is true, but guidance is null"),
        (
            lambda: RealUIDModule(
                labelled(),
                None,
                guidance=1.5,
                guide_fake=True,
                fake_network=MLP([3], 8, num_classes=4),
                fake_init="random",
            ),
            "guide_fake: MLP has no label that stands for none: set its null_label: true",
        ),
        (lambda: TeacherModule(MLP([3], num_classes=4), label_dropout=0.1), "label_dropout: MLP has no label"),
        (lambda: TeacherModule(labelled(), label_dropout=1.0), r"label_dropout must be in \[0, 1\)"),
        (lambda: TeacherModule(labelled(), guidance=-1.0), "guidance must be a number of at least 0"),
        (lambda: ManySteps(MLP([3], num_classes=4), FlowMatchingPath(), guidance=2.0), "ManySteps: MLP has no label"),
        (lambda: unconditional(labelled(), None), "set data.labels: true"),
    ],
)
def test_what_cannot_be_guided_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
