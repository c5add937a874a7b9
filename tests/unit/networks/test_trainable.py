"""Networks that were made ready to evaluate train again, where they are asked to."""

import pytest
import torch
from helpers import acting, fit, points, same
from torch import nn

from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.networks import MLP, Frozen, trainable


class Dropping(nn.Module):
    """A network whose mode matters."""

    def __init__(self):
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(3), acting(MLP([3], width=8, depth=1))

    def forward(self, t, x, y=None):
        return self.inner(t, self.norm(x), y)


HANDED = {
    "as built": lambda network: network,
    "in evaluation mode": lambda network: network.eval(),
    "frozen": lambda network: network.requires_grad_(False),
    "frozen, in evaluation mode": lambda network: network.eval().requires_grad_(False),
    "an average": Frozen,
    "a frozen average": lambda network: Frozen(Frozen(network)),
}


@pytest.mark.parametrize("make", [lambda network: RealUIDModule(network, None, ema=[0.9]), TeacherModule])
def test_a_network_trains_alike_however_it_is_handed_over(make, tmp_path):
    ends = {}
    for name, hand in HANDED.items():
        torch.manual_seed(0)
        model = make(hand(Dropping()))
        fit(model, points(), tmp_path)
        ends[name] = model.state_dict()
    expected = ends.pop("as built")
    for name, found in ends.items():
        assert same(found, expected), name


def test_a_network_that_is_handed_to_a_distillation_is_left_alone():
    network = Dropping().eval().requires_grad_(False)
    model = RealUIDModule(network, None)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    assert not model.teacher.network.training
    assert model.fake.training
    assert model.generator.network.norm.training


def test_parts_that_are_frozen_among_others_stay_so():
    network = Dropping()
    network.norm.requires_grad_(False)
    assert [weight.requires_grad for weight in trainable(network).norm.parameters()] == [False, False]


@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", [lambda network: RealUIDModule(network, None, ema=[0.9]), TeacherModule])
def test_a_network_that_was_kept_in_another_precision_trains_in_that_of_the_trainer(make, kept, tmp_path):
    model = make(Dropping().to(kept))
    fit(model, points(), tmp_path)
    found = [value for value in model.state_dict().values() if value.ndim]
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in found)
