"""Compiled and eager training on two processes: python compiled_runs.py; the first process prints what differs."""

import functools
import os

import torch
from helpers import acting, fit, weights
from torch import nn
from torch._dynamo.utils import counters

import realuid_lightning.strategies  # noqa: F401 - makes ddp_per_network known
from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import DiT


def trained(compiled):
    """Train for two cycles; return all weights."""
    torch.manual_seed(1)
    network = acting(DiT(8, 4, 1, 32, 1, 2, num_classes=None, learn_sigma=False, checkpoint="cheap"), 0.05)
    module = RealUIDModule(network, None, alpha=0.9, beta=0.94, fake_steps=2, ema=[0.9], compile=compiled)
    fit(module, MatchingDataModule(Digits(), batch_size=4), None, devices=2, strategy="ddp_per_network")
    return weights(module)


if __name__ == "__main__":
    # Operations are traced, split by DDP and divided into both passes, but run as they are.
    nn.Module.compile = functools.partialmethod(nn.Module.compile, backend="aot_eager")
    eager, compiled = (trained(compiled) for compiled in (False, True))
    different = [name for name in eager if not torch.equal(eager[name], compiled[name])]
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(different, counters["stats"]["unique_graphs"] >= 4, dict(counters["graph_break"]))
