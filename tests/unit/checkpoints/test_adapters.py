"""Adapters in state dicts: what fits is added to its weight, what a stranger made up is left for strict loading."""

import pytest
import torch
from torch import nn

from realuid_lightning.checkpoints import load_strictly
from realuid_lightning.checkpoints.adapters import merged
from realuid_lightning.errors import UserError


def state(**others):
    """A layer of 3 outputs and 2 inputs with adapters of rank 1, under the name 0."""
    parts = {"base_layer.weight": torch.zeros(3, 2), "base_layer.bias": torch.ones(3)}
    parts |= {"lora_A.distilled.weight": torch.tensor([[2.0, 3.0]])}
    parts |= {"lora_B.distilled.weight": torch.tensor([[1.0], [0.0], [-1.0]])}
    return {f"0.{name}": value for name, value in (parts | others).items() if value is not None}


def test_weights_are_added_and_biases_kept():
    given = state()
    network = nn.Sequential(nn.Linear(2, 3))
    load_strictly(network, merged(given), "file")
    assert network[0].weight.tolist() == [[2, 3], [0, 0], [-2, -3]]
    assert network[0].bias.tolist() == [1, 1, 1]
    assert given.keys() == state().keys()


def test_a_state_without_adapters_stays_as_it_is():
    plain = nn.Sequential(nn.Linear(2, 3)).state_dict()
    kept = merged(plain)
    assert list(kept) == list(plain)
    assert all(kept[name] is plain[name] for name in plain)


WIDE = torch.zeros(1)
STRANGE = {
    "no B": {"lora_B.distilled.weight": None},
    "no weight": {"base_layer.weight": None},
    "another rank": {"lora_B.distilled.weight": torch.zeros(3, 4)},
    "another width": {"lora_A.distilled.weight": torch.zeros(1, 5)},
    "another type": {"lora_A.distilled.weight": torch.zeros(1, 2, dtype=torch.float64)},
    "integers": {"base_layer.weight": torch.zeros(3, 2, dtype=torch.int64)},
    "no tensor": {"lora_A.distilled.weight": [[2.0, 3.0]]},
    "a scalar": {"lora_B.distilled.weight": torch.zeros(())},
    "sparse": {"base_layer.weight": torch.zeros(3, 2).to_sparse()},
    "empty": {"base_layer.weight": torch.zeros(3, 2, device="meta")},
    "claims more than it holds": {
        "base_layer.weight": WIDE.expand(10**7, 10**7),
        "lora_B.distilled.weight": WIDE.expand(10**7, 1),
        "lora_A.distilled.weight": WIDE.expand(1, 10**7),
    },
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_does_not_fit_is_refused_by_its_name(name):
    given = state(**STRANGE[name])
    kept = merged(given)
    assert kept.keys() == given.keys()
    told = r"(?s)unexpected: 0\..*distilled.*adapters \(LoRA\) of another rank or target.*name a whole network's file"
    with pytest.raises(UserError, match=told):
        load_strictly(nn.Sequential(nn.Linear(2, 3)), kept, "file")
