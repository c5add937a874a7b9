"""DDP of each network on its own: two processes train what one trains, and send the gradients of one network."""

import runpy
import sys
from pathlib import Path

import processes
import pytest
import torch
import yaml
from helpers import same, trainer
from torch import nn

from realuid_lightning.cli.training import run
from realuid_lightning.errors import UserError
from realuid_lightning.strategies import PerNetworkDDP

RUNS = Path(__file__).parent / "per_network_runs.py"
OURS, SEARCHING = "ddp_per_network", "ddp_find_unused_parameters_true"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes have made."""
    folder = tmp_path_factory.mktemp("two")
    done = processes.run(RUNS, folder, 2, count=2)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """What one process makes of both batches, and of a checkpoint of the two."""
    one = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        for more in ([], [str(folder / f"{OURS}.ckpt")]):
            patch.setattr(sys, "argv", [str(RUNS), str(one), "1", *more])
            runpy.run_path(str(RUNS), run_name="__main__")
    return one


def kept(folder, name, rank=0):
    return torch.load(folder / f"{name}.rank{rank}.pt", weights_only=True)


@pytest.mark.parametrize("case", ["gan", "uid", "overriding"])
def test_gradients_are_those_of_one_process_on_both_batches(case, folder, alone):
    expected, weights = kept(alone, case)
    for rank in (0, 1):
        found, trained = kept(folder, case, rank)
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert {name for name, _ in found} == {"fake", "generator"}
        for (_, mine), (_, theirs) in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(trained, weights, rtol=1e-6, atol=1e-12)  # which compares the keys too
    assert all(any(gradient.norm() > 1e-3 for gradient in each) for _, each in expected)
    assert same(kept(folder, case)[1], kept(folder, case, 1)[1])


def test_a_step_sends_the_gradients_of_the_active_network_alone(folder):
    sent, weights = kept(folder, f"sent.{OURS}")
    assert sent[-1] == [weights] * 3  # two fake updates, one of the generator
    # Once for each wrapper DDP agrees on the order in which gradients arrive, by a number for each weight.
    assert all(3 * weights <= sum(step) < 3.1 * weights for step in sent)
    searching, _ = kept(folder, f"sent.{SEARCHING}")
    assert all(sum(step) > 6 * weights for step in searching)  # both networks at each update, and which were used


def test_resuming_is_exact_and_checkpoints_fit_either_strategy(folder):
    (whole,) = kept(folder, "whole")
    for name in (f"{OURS}.{OURS}", f"{OURS}.{SEARCHING}", f"{SEARCHING}.{OURS}"):
        for rank in (0, 1):
            assert same(kept(folder, name, rank)[0], whole), name
    file = torch.load(folder / f"{OURS}.ckpt", weights_only=True)
    assert file["state_dict"].keys() == whole.keys()
    assert not same(file["state_dict"], whole)


def test_one_process_goes_on_with_the_checkpoint_of_two(folder, alone):
    torch.testing.assert_close(kept(alone, "alone"), kept(folder, "whole"), rtol=1e-4, atol=1e-5)
    start = torch.load(folder / f"{OURS}.ckpt", weights_only=True)["state_dict"]
    end = kept(alone, "alone")[0]
    for trained in ("fake.", "generator."):
        assert max((end[key] - start[key]).abs().max() for key in end if key.startswith(trained)) > 1e-3


def test_a_generator_of_several_steps_and_a_teacher_train_as_under_the_search(folder):
    for name in ("steps", "teacher"):
        ours, searching = (kept(folder, f"{name}.{strategy}")[0] for strategy in (OURS, SEARCHING))
        assert same(ours, searching)
        assert same(ours, kept(folder, f"{name}.{OURS}", 1)[0])


def test_accumulated_gradients_are_sent_once(folder):
    assert kept(folder, f"teacher.{OURS}")[1] == [False, True, False, True]


@pytest.mark.parametrize("strategy", [OURS, SEARCHING])
def test_all_processes_begin_with_the_weights_of_the_first(strategy, folder):
    (first, trained, before), (second, _, other) = (kept(folder, f"started.{strategy}", rank) for rank in (0, 1))
    assert same(first, second)
    assert not same(before, other)
    assert all(torch.equal(first[key].float(), before[key]) for key in first if key.startswith("teacher."))
    for copied in ("fake.network.", "generator.network.", "ema.copies.0_999.network.network."):
        keys = [key for key in first if key.startswith(copied)]
        assert keys
        assert all(torch.equal(first[key], first[key.replace(copied, "teacher.network.")]) for key in keys)
    assert not same(first, trained)


def test_what_would_differ_between_processes_is_refused(folder):
    for rank in (0, 1):
        (told,) = kept(folder, "PastTheNetwork", rank)
        assert "call self.generator(...) rather than a part of it" in told
        (told,) = kept(folder, "Forgetful", rank)
        assert "got further.weight, further.bias beside them; add that network to `trained`" in told


def test_other_modules_and_hooks_with_a_state_are_refused():
    strategy = PerNetworkDDP()
    strategy._lightning_module = nn.Linear(1, 1)
    with pytest.raises(UserError, match="expects a module that names its trained networks, a MatchingModule, got Lin"):
        strategy.configure_ddp()
    with pytest.raises(UserError, match="choose a ddp_comm_hook without state"):
        PerNetworkDDP(ddp_comm_state=object())


def test_it_is_chosen_by_its_short_name():
    assert isinstance(trainer(strategy=OURS, devices=2).strategy, PerNetworkDDP)


def test_compiled_networks_train_alike():
    done = processes.run(Path(__file__).with_name("compiled_runs.py"), count=2)
    assert done.stdout.splitlines()[-1:] == ["[] True {}"], done.stderr[-3000:]


def test_gradients_are_views_of_what_is_sent_unless_told_otherwise():
    assert PerNetworkDDP()._ddp_kwargs["gradient_as_bucket_view"] is True
    assert PerNetworkDDP(gradient_as_bucket_view=False)._ddp_kwargs["gradient_as_bucket_view"] is False


@pytest.mark.parametrize("chosen", [OURS, "PerNetworkDDP", "realuid_lightning.strategies.PerNetworkDDP"])
def test_a_config_names_it_or_its_class(chosen, capsys, monkeypatch):
    config = Path(__file__).parents[2] / "configs" / "demo" / "distil.yaml"
    words = ["fit", "-c", str(config), "--trainer.strategy", chosen, "--print_config"]
    if chosen != OURS:
        words[-1:] = ["--trainer.strategy.gradient_as_bucket_view", "false", "--print_config"]
    monkeypatch.setattr(sys, "argv", ["realuid", *words])
    with pytest.raises(SystemExit):
        run(words)
    strategy = yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"]
    if chosen == OURS:
        assert strategy == OURS
    else:
        assert strategy["class_path"] == "realuid_lightning.strategies.PerNetworkDDP"
        assert {**strategy["init_args"], **strategy.get("dict_kwargs", {})}["gradient_as_bucket_view"] is False
