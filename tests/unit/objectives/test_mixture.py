"""Mixtures: shares that sum to one, along a schedule of generator updates, and parts that nobody asks."""

import pytest
from games import compare, draws, mlp, module, turn
from hypothesis import given
from hypothesis import strategies as st

from realuid_lightning.errors import UserError
from realuid_lightning.objectives import GAN, Adversarial, Mixture, RealUID, SiD

PLAYERS = ("fake", "generator")
WEIGHTS = st.lists(st.floats(0, 1e6), min_size=3, max_size=3).filter(lambda weights: sum(weights) > 1e-6)


@pytest.mark.parametrize("player", PLAYERS)
def test_an_objective_mixed_with_itself_is_itself(player):
    mixed = module(Mixture([RealUID(0.9, 0.94), RealUID(0.9, 0.94)], [1.0, 3.0]), mlp)
    compare(turn(mixed, player), turn(module(RealUID(0.9, 0.94), mlp), player))


@pytest.mark.parametrize("player", PLAYERS)
def test_either_player_minimises_the_same_shares(player):
    parts = [RealUID(0.9, 0.94), Adversarial(RealUID(divergence=SiD(1.0)), GAN())]
    made = module(Mixture(parts, [1.0, 3.0]), mlp)
    mixed = turn(made, player)
    found = []
    for made.objective in parts:
        found.append(turn(made, player, draws(module(parts[1], mlp), player=player)))
    compare(mixed[0], 0.25 * found[0][0] + 0.75 * found[1][0])
    compare(mixed[1], [0.25 * left + 0.75 * right for left, right in zip(found[0][1], found[1][1], strict=True)])


@given(st.dictionaries(st.integers(0, 1000), WEIGHTS, min_size=1, max_size=4), st.integers(0, 1200))
def test_shares_are_convex_and_lie_on_lines_between_the_points(points, step):
    mixture = Mixture([RealUID()] * 3, points)
    shares = {at: [each / sum(weights) for each in weights] for at, weights in points.items()}
    for at, expected in shares.items():
        assert mixture.weights(at) == pytest.approx(expected, abs=1e-12)
    found = mixture.weights(step)
    assert sum(found) == pytest.approx(1, abs=1e-9)
    assert min(found) >= 0
    before, after = ([at for at in points if (at <= step) == early] for early in (True, False))
    if not before or not after:
        assert found == mixture.weights(max(before) if before else min(after))
    else:
        gone, left = step - max(before), min(after) - step
        ends = zip(shares[max(before)], shares[min(after)], strict=True)
        expected = [(left * start + gone * end) / (left + gone) for start, end in ends]
        assert found == pytest.approx(expected, abs=1e-12)


def test_weights_whose_sum_is_more_than_a_float_holds_are_shares():
    assert Mixture([RealUID(), RealUID()], [1e308, 1e308]).weights(0) == [0.5, 0.5]


def test_a_part_of_weight_zero_is_not_asked():
    class Never(RealUID):
        fake = generator = prepare_fake = prepare_generator = None  # a call of these would raise

    made = module(Mixture([RealUID(0.9, 0.94), Never()], {0: [1.0, 0.0], 10: [1.0, 0.0], 20: [0.0, 1.0]}), mlp)
    for player in PLAYERS:
        turn(made, player)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ([1.0], "one for each of 2 objectives, got"),
        ([0.0, 0.0], "not all of them 0"),
        ({0: [1.0, 1.0], 5: [-1.0, 2.0]}, "at least 0, not all"),
        ([float("nan"), 1.0], "at least 0, not all"),
        ([float("inf"), 1.0], "at least 0, not all"),
        ({-1: [1.0, 1.0]}, "weights must begin at some number of generator updates"),
        ({}, "weights must begin"),
    ],
)
def test_weights_that_are_none_are_refused(weights, told):
    with pytest.raises(UserError, match=told):
        Mixture([RealUID(), RealUID()], weights)
