"""The game: every network is asked once at a point, points asked for together by one forward."""

import pytest
import torch
from helpers import mlp

from realuid_lightning.data import Draws
from realuid_lightning.networks import HeadedNetwork
from realuid_lightning.objectives import DMD, GAN, L2, Adversarial, Game, PseudoHuber, RealUID, SiD
from realuid_lightning.paths import BridgePath, FlowMatchingPath

EVERYWHERE = GAN(t_range=(0.0, 1.0))
# Of each: forwards of teacher and fake model in a fake step, and in a generator step.
OBJECTIVES = {
    "UID": (RealUID(), (0, 1), (1, 1)),
    "RealUID": (RealUID(0.9, 0.94), (0, 1), (1, 1)),
    "general": (RealUID(0.9, 0.94, 0.8), (1, 1), (1, 1)),
    "SiD": (RealUID(divergence=SiD()), (0, 1), (1, 1)),
    "SIM": (RealUID(divergence=PseudoHuber()), (0, 1), (1, 1)),
    "L2": (RealUID(divergence=L2()), (0, 1), (1, 1)),
    "DMD": (RealUID(divergence=DMD()), (0, 1), (1, 1)),
    "UID + GAN": (Adversarial(RealUID(), GAN()), (0, 1), (1, 1)),
    "general + GAN": (Adversarial(RealUID(0.9, 0.94, 0.8), GAN()), (1, 1), (1, 1)),
    "f-distill": (
        Adversarial(RealUID(divergence=DMD(f="forward_kl")), EVERYWHERE),
        (0, 1),
        (1, 2),
    ),  # one without graph
    "GAN alone": (GAN(), (0, 1), (0, 1)),
}


class Counted(torch.nn.Module):
    """Notes the rows of every call."""

    def __init__(self, network):
        super().__init__()
        self.network, self.rows = network, []

    def forward(self, t, x, y=None, **rows):
        self.rows.append(len(x))
        return self.network(t, x, y, **rows)


def play(path=None, size=4, seed=0, **fields):
    """A game in float64, and its two networks."""
    path = path or FlowMatchingPath()
    rng = torch.Generator().manual_seed(seed)
    x1, x0, z, eps = torch.randn(4, size, 3, generator=rng, dtype=torch.float64)
    t, u = torch.rand(2, size, generator=rng, dtype=torch.float64)
    draws = Draws(**{"x1": x1, "x0": x0, "z": z, "t": t, "eps": eps if path.noisy else None, "u": u, **fields})
    teacher, fake = (mlp([3], seed=each, condition_channels=3 * path.conditions).double() for each in (1, 2))
    headed = HeadedNetwork(fake).double()
    torch.nn.init.normal_(headed.head[-1].weight, generator=torch.Generator().manual_seed(3))
    networks = Counted(teacher), Counted(headed)
    return Game(path, *networks, draws, (0.5 * z).requires_grad_()), networks


def value(player, prepared):
    """A loss of a player and its gradients, with what is expected told beforehand or not."""

    def of(objective, path=None):
        game, networks = play(path)
        if prepared:
            getattr(objective, f"prepare_{player}")(game)
        loss = getattr(objective, player)(game)
        moved = [game.x1] if player == "generator" else list(networks[1].parameters())
        return loss, torch.autograd.grad(loss, moved, allow_unused=True), networks

    return of


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_network_is_called_as_often_as_it_must(name):
    objective, *expected = OBJECTIVES[name]
    for player, calls in zip(("fake", "generator"), expected, strict=True):
        _, _, networks = value(player, prepared=True)(objective)
        assert tuple(len(network.rows) for network in networks) == calls, player


@pytest.mark.parametrize("path", [FlowMatchingPath(), BridgePath()], ids=["flow", "bridge"])
@pytest.mark.parametrize("player", ["fake", "generator"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_expected_changes_no_value(name, player, path):
    objective = OBJECTIVES[name][0]
    (loss, gradients, _), (other, others, _) = (value(player, prepared)(objective, path) for prepared in (True, False))
    torch.testing.assert_close(loss, other, rtol=1e-10, atol=1e-12)
    for left, right in zip(gradients, others, strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)


def test_points_of_one_part_are_one_point():
    game, _ = play()
    assert game.generated is game.generated
    assert game.generated_at((0.8, 1.0)) is game.generated_at((0.8, 1.0))
    assert game.generated_at((0.8, 1.0)) is not game.generated_at((0.5, 1.0))
    assert torch.equal(game.generated_at((0.8, 1.0)).t, game.real_at((0.8, 1.0)).t)
    assert game.real.x1 is game.draws.x1


def test_an_answer_is_given_once_with_a_graph_and_once_without():
    game, (teacher, fake) = play()
    with torch.no_grad():
        bare = game.fake(game.generated)
    graph = game.fake(game.generated)
    assert (bare.requires_grad, graph.requires_grad) == (False, True)
    assert torch.equal(bare, graph)
    with torch.no_grad():
        assert game.fake(game.real) is game.fake(game.real)
        game.teacher(game.generated)
    assert fake.rows == [4, 4, 4]
    assert teacher.rows == [4]
    game.teacher(game.generated)
    with torch.no_grad():
        game.teacher(game.generated)  # known without a graph
    assert teacher.rows == [4, 4]


def test_predictions_and_logits_of_a_point_come_of_one_encoding():
    game, (_, fake) = play()
    encoded = []
    fake.network.network.input.register_forward_hook(lambda _, inputs, __: encoded.append(len(inputs[0])))
    game.expect(fake=[game.generated, game.real], logits=[game.real, game.generated_at((0.8, 1.0))])
    answers = [game.fake(game.generated), game.fake(game.real), game.logits(game.real)]
    answers.append(game.logits(game.generated_at((0.8, 1.0))))
    assert encoded == [12]  # three points, of which one is predicted for and judged
    again, _ = play()
    alone = [again.fake(again.generated), again.fake(again.real), again.logits(again.real)]
    alone.append(again.logits(again.generated_at((0.8, 1.0))))
    torch.testing.assert_close(answers, alone, rtol=1e-12, atol=1e-12)


def test_conditions_are_joined_with_their_points():
    y = {"text": torch.randn(4, 2, 5, dtype=torch.float64), "mask": torch.ones(4, 2, dtype=torch.bool)}
    game, (_, fake) = play(y=y)
    seen = []
    fake.forward = lambda t, x, y, **rows: (seen.append(y), x)[1]
    game.expect(fake=[game.generated, game.real])
    game.fake(game.generated)
    assert {key: value.shape[0] for key, value in seen[0].items()} == {"text": 8, "mask": 8}
    assert torch.equal(seen[0]["text"], torch.cat([y["text"]] * 2))


def test_what_is_missing_is_told():
    game, _ = play(x1=None, u=None)
    with pytest.raises(ValueError, match="compares with real samples: the loader must give x1, got None"):
        _ = game.real
    with pytest.raises(ValueError, match="looks at times of its own: draws must have u, got None"):
        game.generated_at((0.8, 1.0))
