from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from realuid_lightning.checkpoints import load_strictly
from realuid_lightning.errors import UserError
from realuid_lightning.networks import MLP, HeadedNetwork

State = dict[str, Tensor]


def test_loads_everything_and_casts() -> None:
    source, target = MLP([2], width=8), MLP([2], width=8).double()
    load_strictly(target, source.state_dict(), "a.pt")
    torch.testing.assert_close(target.state_dict(), source.double().state_dict())


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda state: state.pop("out.2.bias"), ["1 of 34 missing: out.2.bias", "another architecture"]),
        (lambda state: state.update(extra=torch.ones(1)), ["1 of 35 unexpected: extra", "another architecture"]),
        (
            lambda state: state.update({"out.2.bias": torch.ones(3)}),
            ["1 of 34 of another shape: out.2.bias (3,), expected (2,)", "another architecture"],
        ),
        (lambda state: state.update({"out.2.bias": "text"}), ["out.2.bias str, expected (2,)"]),
        (
            lambda state: state.update({"label_emb.weight": torch.ones(10, 4)}),
            ["class-conditional (label_emb.weight has 10 rows): set num_classes: 10 and null_label: false"],
        ),
        (lambda state: state.clear(), ["34 of 34 missing: ", ", ...", "no key is shared"]),
    ],
)
def test_reports_what_does_not_fit_and_loads_nothing(change: Callable[[State], object], parts: list[str]) -> None:
    network = MLP([2], width=8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = MLP([2], width=8).state_dict()
    change(state)
    with pytest.raises(UserError) as caught:
        load_strictly(network, state, "a.pt")
    message = str(caught.value)
    assert message.startswith("a.pt: the weights do not fit MLP, nothing was loaded")
    for part in parts:
        assert part in message
    torch.testing.assert_close(dict(network.state_dict()), before, atol=0, rtol=0)


def test_hints_at_the_number_of_classes() -> None:
    network = MLP([2], width=8, num_classes=5)
    with pytest.raises(UserError, match=r"looks unconditional .*: set num_classes: null"):
        load_strictly(network, MLP([2], width=8).state_dict(), "a.pt")
    for theirs in ({"num_classes": 7}, {"num_classes": 6, "null_label": True}):
        with pytest.raises(
            UserError, match="num_classes: 7 and null_label: false, or num_classes: 6 and null_label: t"
        ):
            load_strictly(network, MLP([2], width=8, **theirs).state_dict(), "a.pt")


@pytest.mark.parametrize("headed_first", [True, False])
def test_a_discriminator_on_one_side_alone_is_told(headed_first: bool) -> None:
    networks = [
        torch.nn.ModuleDict({"fake": network}) for network in (HeadedNetwork(MLP([2], width=8)), MLP([2], width=8))
    ]
    source, target = networks if headed_first else networks[::-1]
    with pytest.raises(UserError, match=r"has a discriminator \(fake.head\): set model.gan"):
        load_strictly(target, source.state_dict(), "a.ckpt")


@pytest.mark.parametrize(("mine", "theirs"), [((1,), ()), ((), (1,))])
def test_a_single_value_fits_with_and_without_a_dimension(mine, theirs) -> None:
    network = nn.Module()
    network.gain = nn.Parameter(torch.zeros(mine))
    load_strictly(network, {"gain": torch.full(theirs, 2.0)}, "a file")
    assert network.gain.item() == 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_of_a_diverged_run_are_refused_and_load_nothing(value: float) -> None:
    network, state = MLP([2], width=8), MLP([2], width=8).state_dict()
    before = {key: kept.clone() for key, kept in network.state_dict().items()}
    state["out.2.bias"][1] = value
    with pytest.raises(UserError, match=r"1 of 34 not finite: out.2.bias\n.* diverged: take an earlier checkpoint"):
        load_strictly(network, state, "a.pt")
    torch.testing.assert_close(network.state_dict(), before)


def test_buffers_may_be_infinite() -> None:
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    for network, value in ((source, -torch.inf), (target, 0.0)):
        network.register_buffer("mask", torch.full((2,), value))
    load_strictly(target, source.state_dict(), "a.pt")
    assert torch.equal(target.mask, source.mask)
