"""Networks divided between two processes train as whole ones do in one, and share checkpoints with them."""

import runpy
import sys
from pathlib import Path

import processes
import pytest
import torch

RUNS = Path(__file__).parent / "fsdp_runs.py"
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(RUNS), str(folder), "1", "auto"])
        patch.setenv("LOCAL_RANK", "0")
        runpy.run_path(str(RUNS), run_name="__main__")
    return folder


@pytest.fixture(scope="module")
def divided(alone, tmp_path_factory):
    """What two processes make."""
    folder = tmp_path_factory.mktemp("two")
    last = alone / "half" / "checkpoints" / "last.ckpt"
    done = processes.run(RUNS, folder, 2, "fsdp_per_network", last, count=2)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def content(folder, name):
    return torch.load(folder / name / "checkpoints" / "last.ckpt", weights_only=True)


def kept(folder, name, rank=0):
    return torch.load(folder / f"{name}.rank{rank}.pt", weights_only=True)


def assert_close(left, right, **tolerance):
    """Compare checkpoints, which must have the same entries."""
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(left[part], right[part], **tolerance)


@pytest.mark.parametrize("name", ["teacher", "unet", "whole"])
def test_two_processes_train_what_one_trains(name, alone, divided):
    assert_close(content(divided, name), content(alone, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["teacher", "unet", "whole"])
def test_measures_are_those_of_one_process(name, alone, divided):
    expected = kept(alone, name)[1]
    same = ("fid/", "grad_norm/", "diagnostics/distance/", "guard/")
    names = [figure for figure in expected if figure.startswith(same)]
    assert len(names) >= 4
    for rank in (0, 1):
        figures = kept(divided, name, rank)[1]
        assert figures.keys() == expected.keys()
        for figure in names:
            assert figures[figure] == pytest.approx(expected[figure], rel=1e-4), figure


@pytest.mark.parametrize("name", ["teacher", "unet", "whole"])
def test_each_process_holds_its_half_of_every_network(name, alone, divided):
    everything = kept(alone, name)[0]
    halves = [kept(divided, name, rank)[0] for rank in (0, 1)]
    assert sum(halves) == everything
    assert max(halves) < 0.51 * everything


def test_resuming_is_exact(divided):
    assert_close(content(divided, "resumed"), content(divided, "whole"), rtol=0, atol=0)


def test_networks_are_divided_from_the_checkpoint_of_one_process(alone, divided):
    assert_close(content(divided, "of one process"), content(alone, "whole"), rtol=1e-5, atol=1e-6)


def test_uneven_shares_of_samples_and_what_divided_networks_can_not_do_are_refused(divided):
    for rank in (0, 1):
        training, predicting, fast = kept(divided, "refused", rank)
        assert "eval_samples must name a multiple of the number of processes, 2" in training
        assert "predict_seeds must name a multiple" in predicting
        for option in ("compile", "channels_last"):
            assert f"{option}: true does not go with networks that are divided" in fast


def test_a_run_goes_on_in_its_own_folder_without_the_teachers_file(divided):
    assert content(divided, "in place")["global_step"] == 4
    assert not list(divided.glob("weights.*"))
