"""Every objective that ships: its forwards, the same answers without preparation, runs from YAML, resumed."""

import pytest
import torch
from games import compare, mlp, module, turn, unet
from helpers import fit, same, weights
from jsonargparse import ArgumentParser

from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.objectives import (
    D2O,
    DMD,
    GAN,
    R1GAN,
    Adversarial,
    Corrected,
    Mixture,
    Objective,
    RealUID,
    SiD,
    SiDAdversary,
    Sum,
)

REAL = RealUID(0.9, 0.94)
OBJECTIVES = {
    "RealUID": REAL,
    "general RealUID": RealUID(0.9, 0.94, 0.8),
    "corrected": Corrected(0.8),
    "corrected SiD and GAN": Adversarial(Corrected(1.0, 0.5, SiD()), GAN()),
    "SiD": RealUID(divergence=SiD()),
    "GAN": GAN(),
    "R1GAN": R1GAN(0.5),
    "D2O": D2O(),
    "RealUID and R1GAN": Adversarial(REAL, R1GAN(0.5)),
    "f-distill": Adversarial(RealUID(divergence=DMD(f="forward_kl")), GAN(t_range=(0.0, 1.0))),
    "SiDA": Adversarial(RealUID(divergence=SiD()), SiDAdversary()),
    "SiDA's term": SiDAdversary(),
    "sum": Sum([GAN(), REAL, RealUID(divergence=SiD())]),
    "mixture": Mixture([REAL, Adversarial(RealUID(divergence=SiD()), R1GAN(0.5))], [1.0, 3.0]),
}

YAML = {
    "R1GAN": "{class_path: R1GAN, init_args: {gamma: 0.1}}",
    "R1GAN on layers": "{class_path: R1GAN, init_args: {gamma: 0.1, layers: [0, 3]}}",
    "D2O": "D2O",
    "corrected": "{class_path: Corrected, init_args: {rho: 0.9, divergence: {class_path: SiD}}}",
    "SiDA": """
class_path: Adversarial
init_args:
  objective: {class_path: RealUID, init_args: {divergence: {class_path: SiD, init_args: {alpha_sid: 1.0}}}}
  gan: SiDAdversary
""",
    "mixture": """
class_path: Mixture
init_args:
  objectives:
  - {class_path: RealUID, init_args: {alpha: 0.98, beta: 0.96}}
  - {class_path: Adversarial, init_args: {objective: RealUID, gan: {class_path: GAN}}}
  weights: {0: [1, 1], 3: [1, 4]}
""",
}


def parts(objective):
    """The objective and all that it is made of."""
    return [objective, *(each for part in getattr(objective, "objectives", []) for each in parts(part))]


def shipped(base):
    """The classes of the package below a class."""
    below = {each for child in base.__subclasses__() for each in {child, *shipped(child)}}
    return {each for each in below if each.__module__.startswith("realuid_lightning")}


def test_every_objective_that_ships_is_here():
    here = {type(each) for objective in OBJECTIVES.values() for each in parts(objective)}
    assert shipped(Objective) == here


@pytest.mark.parametrize("network", [mlp, unet])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_network_is_asked_once_and_not_to_prepare_changes_nothing_else(name, network, monkeypatch):
    """Once with a graph, once without: what carries none is asked for apart, to spare memory."""
    made, calls = module(OBJECTIVES[name], network), []
    for role in ("teacher", "fake", "generator"):
        note = lambda *_, role=role: calls.append((role, torch.is_grad_enabled()))  # noqa: E731
        getattr(made, role).register_forward_pre_hook(note)
    prepared = {}
    for player in ("fake", "generator"):
        calls.clear()
        prepared[player] = turn(made, player)
        assert len(set(calls)) == len(calls)
        assert ("fake", True) in calls
        assert player == "generator" or calls == [call for call in calls if call != ("teacher", True)]
    for player in ("fake", "generator"):
        for part in parts(made.objective):
            monkeypatch.setattr(part, f"prepare_{player}", lambda game: None, raising=True)
        compare(turn(made, player), prepared[player])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", YAML)
def test_what_yaml_names_trains_and_resumes_bit_for_bit(name, precision, tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "objective")
    data = MatchingDataModule(Digits(), 4)

    def build():
        objective = parser.instantiate(parser.parse_object({"objective": YAML[name]})).objective
        torch.manual_seed(0)
        network = unet() if "layers" in name else mlp(dropout=0.1)
        return RealUIDModule(network, None, objective=objective, fake_steps=1, ema=[0.5])

    whole, first, second = (build() for _ in range(3))
    start = weights(whole)
    fit(whole, data, tmp_path, 3, precision=precision)
    fit(first, data, tmp_path, 1, precision=precision).save_checkpoint(tmp_path / "half.ckpt")
    fit(second, data, tmp_path, 3, tmp_path / "half.ckpt", precision=precision)
    assert same(weights(whole), weights(second))
    assert int(whole.guard.skipped) == 0
    for role in ("generator.", "fake."):
        assert any(not torch.equal(value, start[key]) for key, value in weights(whole).items() if key.startswith(role))
