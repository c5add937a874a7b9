"""R1GAN: the penalty against what is known by hand, logits of several layers, and networks that cannot bear it."""

import pytest
import torch
from games import compare, draws, encoder, mlp, module, turn, unet
from torch import nn

from realuid_lightning.data import Draws
from realuid_lightning.errors import UserError
from realuid_lightning.losses import discriminator_loss
from realuid_lightning.objectives import GAN, R1GAN, Adversarial, Game, RealUID
from realuid_lightning.objectives.r1 import _skip_shapes
from realuid_lightning.paths import DiffusionPath, FlowMatchingPath

EVERYWHERE = (0.0, 1.0)


class Quadratic(nn.Module):
    """Logits ``x A x / 2 + b x``, of which the gradient is ``A x + b``, and perhaps a second one that is ``c x``."""

    def __init__(self, several):
        super().__init__()
        root, self.b, self.c = (torch.randn(*size, dtype=torch.float64) for size in ((3, 3), (3,), (3,)))
        self.a, self.several = root + root.T, several

    def forward(self, t, x, y=None, predicted=None, judged=0, apart=0):
        logits = (x @ self.a * x).sum(1) / 2 + x @ self.b
        logits = torch.stack([logits, x @ self.c], 1)[-judged:] if self.several else logits[-judged:]
        return x[:0], logits[: judged - apart], logits[judged - apart :]

    def slope(self, x):
        return (x @ self.a + self.b + self.c) / 2 if self.several else x @ self.a + self.b


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("path", [FlowMatchingPath(), DiffusionPath()], ids=lambda path: type(path).__name__)
def test_the_penalty_of_a_quadratic_logit_is_known(path, several):
    """The gradient is that by ``xt``, whatever scale the network is shown it in."""
    torch.manual_seed(0)
    x1, x0, z, *times = (torch.randn(5, 3, dtype=torch.float64) for _ in range(5))
    t, u = (each[:, 0].sigmoid() for each in times)
    judge, gan = Quadratic(several), R1GAN(0.7, generator_weight=1.0, discriminator_weight=3.0, t_range=EVERYWHERE)
    game = Game(path, judge, judge, Draws(x1=x1, x0=x0, z=z, t=t, u=u), x1=z)
    gan.prepare_fake(game)
    loss = gan.fake(game)
    generated, real = game.generated_at(EVERYWHERE), game.real_at(EVERYWHERE)
    scale = path.inputs(real.t, torch.ones_like(real.xt), None)[1]
    penalty = (judge.slope(scale * real.xt) * scale).square().sum(1).mean()
    adversarial = discriminator_loss(game.logits(generated), game.logits(real))
    compare(loss, 3 * (adversarial + 0.35 * penalty))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("layers", [(), (0, 2)])
def test_loss_and_gradients_are_those_of_separate_forwards(layers, beside):
    gan, matching = R1GAN(0.7, layers, discriminator_weight=3.0), RealUID(0.9, 0.94)
    made = module(Adversarial(matching, gan) if beside else gan)
    loss, gradients = turn(made, "fake")
    batch = draws(made)
    game = made.game(batch, made.generated(batch).detach())

    def logits(point):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return made.fake(point.t, point.xt, None, judged=len(point.t))[1]

    generated, real = game.generated_at(gan.t_range), game.real_at(gan.t_range)
    real.xt.requires_grad_()
    at_real = logits(real)
    assert at_real.shape == ((3, 3) if layers else (3,))
    (slope,) = torch.autograd.grad(at_real.reshape(3, -1).mean(1).sum(), real.xt, create_graph=True)
    penalty = (slope**2).sum((1, 2, 3)).mean()
    by_hand = 3 * (discriminator_loss(logits(generated), at_real) + 0.35 * penalty)
    by_hand = by_hand + (matching.fake(game) if beside else 0)
    weights = list(made.fake.parameters())
    expected = torch.autograd.grad(by_hand, weights, allow_unused=True)
    compare(loss, by_hand)
    compare(gradients, [w * 0 if grad is None else grad for w, grad in zip(weights, expected, strict=True)])
    assert penalty > 1e-6


def test_a_point_may_be_matched_and_differentiated_in_one_forward():
    made, calls = module(R1GAN(0.7)), []
    made.fake.register_forward_pre_hook(lambda *_: calls.append(1))
    batch = draws(made)
    game, apart = (made.game(batch, batch.z) for _ in range(2))
    apart.differentiate(apart.real)
    for each in (game, apart):
        each.expect(fake=[each.real, each.generated], logits=[each.generated, each.real])
        answers = [each.fake(each.generated), each.logits(each.real), each.fake(each.real), each.logits(each.generated)]
        expected = answers if each is game else expected
    assert len(calls) == 2
    compare(answers, expected)
    (slope,) = torch.autograd.grad(answers[1].sum(), apart.real.xt, create_graph=True)
    assert slope.requires_grad
    assert slope.abs().max() > 1e-6


def test_the_generator_descends_what_it_does_with_a_gan():
    made = module(R1GAN(0.7))
    loss, gradients = turn(made, "generator")
    made.objective = GAN()
    compare((loss, gradients), turn(made, "generator"))


@pytest.mark.parametrize("option", ["recomputed", "partly frozen"])
def test_the_penalty_acts_on_networks_that_spare_memory(option):
    changed = {"fake_network": unet(checkpoint=True)} if option == "recomputed" else {"fake_frozen": ["input_blocks.*"]}
    plain, other = module(R1GAN(0.7, [1])), module(R1GAN(0.7, [1]), **changed)
    (loss, gradients), (expected, wanted) = turn(other, "fake"), turn(plain, "fake")
    kept = [weight.requires_grad for weight in other.fake.parameters()]
    compare(loss, expected)
    compare(gradients, [gradient for gradient, trains in zip(wanted, kept, strict=True) if trains])


def test_heads_read_the_layers_that_are_named_whose_shapes_are_found_without_a_draw():
    expected, network, rng = encoder(unet()), unet(num_classes=3, dropout=0.3), torch.get_rng_state()
    assert [tuple(shape) for shape in _skip_shapes(network)] == expected
    assert torch.equal(torch.get_rng_state(), rng)
    head = R1GAN(0.1, [3, 0]).head(network)
    channels = [layer[0].num_channels for layer in head.layers]
    assert channels == [expected[each][0] for each in (3, 0)]
    network.requires_grad_(False)
    logits = head(network.encode(torch.zeros(2), torch.randn(2, 1, 8, 8), torch.tensor([0, 2])))
    assert torch.equal(logits, torch.zeros(2, 3))  # densities alike, at first


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: R1GAN(0.0, [1, 1], generator_weight=-1.0), ["gamma must be above 0", "layers must differ", "weight"]),
        (lambda: R1GAN(float("nan")), ["gamma must be finite"]),
        (lambda: module(R1GAN(0.1, [4])), [r"skips that encode of UNet returns \(0, 1, 2, 3\), got \(4,\)"]),
        (lambda: module(R1GAN(0.1, [0]), mlp), [r"encode of MLP returns \(none\)"]),
        (lambda: module(R1GAN(0.1), lambda: unet(checkpoint="cheap")), ["checkpoint: cheap cannot: set it to true or"]),
        (lambda: module(Adversarial(RealUID(), R1GAN(0.1)), compile=True), ["compile: true does not go with Adv"]),
    ],
)
def test_what_cannot_be_is_refused_at_once(build, told):
    for each in told:
        with pytest.raises(UserError, match=each):
            build()


def test_penalised_logits_are_no_ratios():
    assert GAN(t_range=EVERYWHERE).gives_ratio
    assert not R1GAN(0.1, t_range=EVERYWHERE).gives_ratio
