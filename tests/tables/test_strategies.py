"""Every strategy with every option that it may meet: what one process makes of the joined batch, or a clear refusal.

All cells are made by one set of processes, of strategy_runs.py. A strategy or an option that is shipped needs a row.
"""

import inspect
import runpy
from pathlib import Path

import processes
import pytest
import torch
from helpers import same

from realuid_lightning import strategies
from realuid_lightning.modules import MatchingModule, RealUIDModule, TeacherModule

RUNS = Path(__file__).parent / "strategy_runs.py"
TABLE = runpy.run_path(str(RUNS), run_name="table")
STRATEGIES, CELLS, SHARES = TABLE["STRATEGIES"], TABLE["CELLS"], TABLE["SHARES"]

REFUSED = {
    ("fsdp_per_network", "compile"): "compile: true does not go with networks that are divided",
    ("fsdp_per_network", "compile of a teacher"): "compile: true does not go with networks that are divided",
    ("fsdp_per_network", "channels_last"): "channels_last: true does not go with networks that are divided",
    ("fsdp_per_network", "gradient penalty"): "networks that are divided among devices cannot follow",
    ("fsdp_per_network", "tied weights"): "last.weight is first.weight; use ddp_per_network",
    (
        "fsdp_per_network",
        "adapters on the teacher's weights",
    ): "fake cannot follow, for it shares the weights of teacher",
    ("fsdp_per_network", "tied weights of a teacher"): "last.weight is first.weight; use ddp_per_network",
}

# Each option of the modules, and the row that tries it.
ROW_OF = {
    **dict.fromkeys(("network", "path", "teacher_ckpt", "fake_steps", "alpha", "beta"), "distillation"),
    **dict.fromkeys(("generator_optimizer", "generator_schedule", "fake_optimizer", "fake_schedule"), "distillation"),
    **dict.fromkeys(("optimizer", "schedule", "solver"), "teacher"),
    **{"ema": "averages", "clip": "clipping", "compile": "compile", "channels_last": "channels_last"},
    **{"sampling_steps": "several steps", "gan": "discriminator", "objective": "a GAN alone"},
    **dict.fromkeys(("generator_network", "fake_network", "generator_init"), "networks of their own"),
    **dict.fromkeys(("generator_frozen", "fake_frozen"), "patterns of frozen weights"),
    "accumulate": "parts of a batch and a discriminator",
    **{"label_dropout": "labels left out", "guidance": "guidance"},
    "guide_fake": "guidance of both, and a discriminator",
}
# Those that change a formula, a start or an evaluation of one process, and send nothing.
LOCAL = {"gamma", "divergence", "fake_init", "teacher_ema", "generator_ckpt", "generator_ema"}
LOCAL |= {"evaluate", "predict_with", "eval_batch_size", "max_skips", "fresh_optimizers"}
OPTIONS = {
    name
    for module in (MatchingModule, TeacherModule, RealUIDModule)
    for name, parameter in inspect.signature(module.__init__).parameters.items()
    if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What one process makes of all rows, and what several make by each strategy."""
    folders = {1: tmp_path_factory.mktemp("one"), SHARES: tmp_path_factory.mktemp("several")}
    for count, folder in folders.items():
        done = processes.run(RUNS, folder, count, count=count, seconds=300)
        assert done.returncode == 0, done.stderr[-3000:]
    return {
        count: [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(count)]
        for count, folder in folders.items()
    }


@pytest.fixture(scope="module")
def alone(made):
    """What one process makes."""
    return made[1][0]["auto"]


@pytest.fixture(scope="module")
def shared(made):
    """What several processes make, one entry a process."""
    return made[SHARES]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_train_what_one_trains_on_the_joined_batch_or_refuse(strategy, cell, alone, shared):
    if cell.startswith("adapters"):
        pytest.importorskip("peft")
    found = [rank[strategy][cell] for rank in shared]
    if (strategy, cell) in REFUSED:
        assert all(REFUSED[strategy, cell] in text for text in found)
        return
    assert not isinstance(found[0], str), found[0]
    assert all(same(found[0], other) for other in found[1:])
    torch.testing.assert_close(found[0], alone[cell], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resuming_is_exact(strategy, shared):
    for rank in shared:
        whole, resumed = rank[strategy]["resumed"]
        assert same(whole, resumed)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_sample_is_evaluated_once_with_lightnings_default_sampler(strategy, shared):
    assert sorted(index for rank in shared for index in rank[strategy]["normed"][0]) == list(range(24))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_running_statistics_are_alike_in_evaluation_and_checkpoint(strategy, shared):
    saved = shared[0][strategy]["normed"][2]
    for rank in shared:
        buffers = rank[strategy]["normed"][1]
        moved = [name for name in buffers if name.startswith("fake.") and name.endswith("running_mean")]
        assert moved
        assert all(buffers[name].abs().sum() > 0 for name in moved)
        for name, buffer in buffers.items():
            assert torch.equal(buffer, saved[name]), name


def test_every_strategy_that_is_shipped_has_its_cells():
    shipped = {getattr(strategies, name).name for name in strategies.__all__}
    assert shipped - set(STRATEGIES) == set()


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_every_option_has_a_row_or_sends_nothing(option):
    assert option in LOCAL or ROW_OF.get(option) in CELLS, f"{option} has no row"
