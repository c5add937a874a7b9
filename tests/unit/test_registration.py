"""Lightning knows our strategies by name once both packages are imported; neither import waits for the other."""

import subprocess
import sys

import pytest
from lightning.pytorch.strategies import StrategyRegistry

from realuid_lightning import strategies
from realuid_lightning.registration import STRATEGIES

LIGHTNING_FIRST = """
from lightning.pytorch import Trainer
import realuid_lightning
trainers = [Trainer(accelerator="cpu", devices=2, strategy="ddp_per_network", barebones=True)]
realuid_lightning.RealUIDModule
trainers += [Trainer(accelerator="cpu", devices=2, strategy="fsdp_per_network", barebones=True)]
print(*(type(trainer.strategy).__name__ for trainer in trainers))
"""


def said(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_trainer_takes_our_strategies_by_name_where_lightning_is_imported_first():
    """It is the other way round where ``realuid`` is launched (distributed/test_failure.py)."""
    assert said(LIGHTNING_FIRST) == "PerNetworkDDP PerNetworkFSDP\n"


def test_importing_the_package_imports_nothing_else():
    code = "import sys, realuid_lightning.cli; print({'torch', 'lightning', 'numpy'} & set(sys.modules))"
    assert said(code) == "set()\n"


def test_the_registry_makes_our_classes():
    for name, (kind, description) in STRATEGIES.items():
        made = StrategyRegistry.get(name)
        assert type(made) is getattr(strategies, kind)
        assert made.name == name
        assert StrategyRegistry[name]["description"] == description
