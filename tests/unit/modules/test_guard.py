"""UpdateGuard: a skipped update leaves everything as it was, is counted, and too many end the run."""

import copy
from functools import partial

import processes
import pytest
import torch
from helpers import fit, trainer
from lightning import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from realuid_lightning.errors import UserError
from realuid_lightning.modules.guard import UpdateGuard
from realuid_lightning.optimizers import gradient_norm
from realuid_lightning.running import RunCheckpoint

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "fused adam": partial(torch.optim.Adam, fused=True),
    "foreach adamw": partial(torch.optim.AdamW, weight_decay=0.1, foreach=True),
    "fused sgd": partial(torch.optim.SGD, momentum=0.9, fused=True),
    "sgd": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    "rmsprop": torch.optim.RMSprop,
    "adafactor": torch.optim.Adafactor,
}


def update(guard, network, optimizer, scale):
    """One update as a module makes it."""
    loss = scale * network(torch.ones(4, 3)).square().sum()
    optimizer.zero_grad()
    guard.armed(loss).backward()
    guard.watch("network", gradient_norm(network.parameters()), optimizer)
    optimizer.step()


def state(network, optimizer):
    return copy.deepcopy([network.state_dict(), optimizer.state_dict()])


def assert_equal(left, right):
    torch.testing.assert_close(left, right, rtol=0, atol=0)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e38])
def test_a_skipped_update_leaves_no_trace(kind, scale):
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = OPTIMIZERS[kind](network.parameters(), lr=1e-2)
    guard = UpdateGuard()
    update(guard, network, optimizer, 1.0)  # so that there is a state
    before = state(network, optimizer)
    update(guard, network, optimizer, scale)
    assert_equal(state(network, optimizer), before)
    assert guard.state_dict() == {"skipped": 1, "in_a_row": {"network": 1}}
    update(guard, network, optimizer, 1.0)
    assert not torch.equal(network.weight, before[0]["weight"])
    assert guard.state_dict() == {"skipped": 1, "in_a_row": {"network": 0}}


def test_a_sound_update_keeps_every_bit():
    networks = [nn.Linear(3, 2) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    for network, arm in zip(networks, (UpdateGuard.armed, lambda loss: loss), strict=True):
        loss = arm(network(torch.randn(4, 3, generator=torch.Generator().manual_seed(0))).square().sum())
        loss.backward()
        network.weight.value = loss.detach()
    assert_equal(networks[0].weight.value, networks[1].weight.value)
    assert all(
        torch.equal(mine.grad, theirs.grad) for mine, theirs in zip(*(n.parameters() for n in networks), strict=True)
    )


def test_an_infinite_loss_of_finite_gradients_is_told_by_them():
    weight = torch.ones(3, requires_grad=True)
    loss = weight.sum() + torch.tensor(float("inf"))
    UpdateGuard.armed(loss).backward()
    assert weight.grad.isnan().all()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_first_update_that_is_skipped_leaves_nothing_behind(kind):
    torch.manual_seed(0)
    networks = [nn.Linear(3, 2) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    for network, scales in zip(networks, ([1.0], [float("nan"), 1.0]), strict=True):
        optimizer = OPTIMIZERS[kind](network.parameters(), lr=1e-2)
        for scale in scales:
            update(UpdateGuard(), network, optimizer, scale)
    assert_equal(networks[0].state_dict(), networks[1].state_dict())


def test_networks_are_counted_apart_and_counts_survive():
    guard, optimizer = UpdateGuard(2), torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    for _ in range(3):
        guard.watch("fake", torch.tensor(float("nan")), optimizer)
        guard.watch("generator", torch.tensor(1.0), optimizer)
    again = UpdateGuard(2)
    again.load_state_dict(guard.state_dict())
    assert again.skipped == 3
    again._in_a_row = guard._in_a_row
    with pytest.raises(UserError, match="3 updates of fake in a row, more than max_skips 2"):
        again.end_if_lost(trainer())


def test_negative_max_skips_are_refused():
    with pytest.raises(UserError, match="max_skips must be at least 0, got -1"):
        UpdateGuard(-1)


def test_the_norm_of_no_gradients_is_zero():
    assert gradient_norm(nn.Linear(2, 2).parameters()) == 0


class Poisoned(LightningModule):
    """Its losses are NaN from a step on."""

    def __init__(self, first):
        super().__init__()
        self.automatic_optimization = False
        self.weight, self.first, self.guard = nn.Parameter(torch.ones(())), first, UpdateGuard(2)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.weight * (float("nan") if self.global_step >= self.first else 1.0)
        optimizer.zero_grad()
        self.manual_backward(self.guard.armed(loss))
        self.guard.watch("network", gradient_norm([self.weight]), optimizer)
        optimizer.step()

    def on_train_batch_end(self, *_):
        self.guard.end_if_lost(self.trainer)

    def configure_optimizers(self):
        return torch.optim.Adam([self.weight], lr=0.1)


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_too_many_in_a_row_end_the_run_with_a_checkpoint_of_sound_weights(tmp_path):
    module = Poisoned(first=3)
    with pytest.raises(UserError, match=r"more than max_skips 2\. The sound weights of step 6 are in .*last\.ckpt"):
        fit(module, DataLoader(torch.zeros(50, 1)), tmp_path, 20, callbacks=[RunCheckpoint()])
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6  # skipped updates are counted, so that the next draws are others
    assert torch.isfinite(saved["state_dict"]["weight"])
    assert_equal(saved["state_dict"]["weight"], module.weight.detach())
    assert saved["optimizer_states"][0]["state"][0]["step"] == 3


RANKS = """
import os, sys
import torch, torch.distributed as dist
from torch import nn
from realuid_lightning.modules.guard import UpdateGuard
from realuid_lightning.optimizers import gradient_norm
rank, folder = int(os.environ["LOCAL_RANK"]), sys.argv[1]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
network = nn.parallel.DistributedDataParallel(nn.Linear(3, 2))
optimizer, guard = torch.optim.Adam(network.parameters(), fused=True), UpdateGuard()
skipped = []
for step in range(4):
    loss = network(torch.full((2, 3), float(rank + 1))).square().mean()
    if rank == 1 and step == 1:
        loss = loss * float("nan")
    if rank == 0 and step == 2:
        loss = loss + float("inf")  # whose gradients are finite
    optimizer.zero_grad()
    guard.armed(loss).backward()
    guard.watch("network", gradient_norm(network.parameters()), optimizer)
    optimizer.step()
    skipped.append(int(guard.skipped))
assert skipped == [0, 1, 2, 2], skipped
torch.save(network.module.state_dict(), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_all_processes_come_to_one_verdict(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(RANKS)
    done = processes.run(script, tmp_path, count=2)
    assert done.returncode == 0, done.stderr
    left, right = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert_equal(left, right)
