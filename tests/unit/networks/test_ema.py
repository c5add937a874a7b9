import pytest
import torch
from torch import nn

from realuid_lightning.modules import EMA
from realuid_lightning.networks import MLP
from realuid_lightning.networks.ema import ema_faults, ema_name

DECAYS = [0.0, 0.3, 0.5, 0.999, 1 - 1e-9]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def randomise(module):
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.copy_(torch.randn(tensor.shape, dtype=torch.float64) * 100)


def test_values_follow_the_plain_formula():
    net = network()
    ema = EMA(net, DECAYS)
    expected = {decay: [parameter.detach().clone() for parameter in net.parameters()] for decay in DECAYS}
    for _ in range(20):
        randomise(net)
        ema.update(net)
        for decay, average in expected.items():
            average[:] = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, net.parameters(), strict=True)]
    for decay in DECAYS:
        for mine, theirs in zip(ema[decay].parameters(), expected[decay], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "copied"),
    [("update", lambda net: dict(net.named_buffers())), ("reset", lambda net: net.state_dict())],
    ids=["buffers by an update", "everything by a reset"],
)
def test_copies_are_equal_and_apart(method, copied):
    net = network()
    ema = EMA(net, [0.5, 0.9])
    randomise(net)
    getattr(ema, method)(net)
    for average in ema.named().values():
        for name, tensor in copied(net).items():
            assert torch.equal(copied(average.network)[name], tensor)
            assert copied(average.network)[name].data_ptr() != tensor.data_ptr()


def test_the_network_itself_stays_as_it_is():
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    EMA(net, [0.5]).update(net)
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_averages_are_frozen_and_in_eval_mode_for_ever():
    ema = EMA(network(), [0.5]).train()
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert not any(module.training for module in ema[0.5].modules())


def test_names_are_in_the_order_of_the_config():
    ema = EMA(nn.Linear(1, 1), [0.9999, 0.5, 0.0])
    assert list(ema.named()) == ["ema_0.9999", "ema_0.5", "ema_0.0"]
    assert ema_name(0.5) == "ema_0.5"
    assert {key.split(".")[1] for key in ema.state_dict()} == {"0_9999", "0_5", "0_0"}


def test_it_goes_into_a_state_dict_and_back():
    net = network()
    ema, other = EMA(net, [0.5, 1e-5]), EMA(network(), [0.5, 1e-5])
    randomise(net)
    ema.update(net)
    other.load_state_dict(ema.state_dict())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in ema.state_dict().items())


def test_without_decays_there_is_nothing_to_do():
    net = nn.Linear(1, 1)
    ema = EMA(net, [])
    ema.update(net)
    ema.reset(net)
    assert ema.named() == {}
    assert ema.state_dict() == {}


def test_an_average_generates_as_its_network_would():
    net = MLP([2], width=8)
    randomise(net)
    ema = EMA(net, [0.5])
    t, x = torch.rand(4), torch.randn(4, 2)
    assert torch.equal(ema[0.5](t, x), net.eval()(t, x))


@pytest.mark.parametrize(
    ("decays", "words"),
    [
        ([1.0], ["must be in [0, 1), got 1.0"]),
        ([-0.1, 0.5, float("nan")], ["got -0.1", "got nan"]),
        ([0.5, 0.9, 0.5], ["must differ, got [0.5, 0.9, 0.5]"]),
        ([0.0, 0.0], ["must differ"]),
        ([0.0, 0.999, 1 - 1e-9], []),
        ([], []),
    ],
)
def test_faults(decays, words):
    faults = ema_faults(decays)
    assert len(faults) == len(words)
    assert all(word in fault for word, fault in zip(words, faults, strict=True))
