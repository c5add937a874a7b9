"""The benchmark scripts at tiny sizes: their figures fit together, and both loops make the same updates."""

import importlib
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import processes
import pytest
import torch
from torch.utils.data import DataLoader

from realuid_lightning.data import Batch

HOME = Path(__file__).parents[2]


def script(name, *words, tiny=True):
    """Run a benchmark as a process that has imported what most do; return its exit code and what it printed."""
    words = ["--device=cpu", *(["--tiny"] if tiny else []), *words]
    paths = os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")])  # of those that it starts itself
    done = processes.run(HOME / "benchmarks" / name, *words, seconds=400, PYTHONPATH=paths)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.returncode, done.stdout


def test_a_table_of_the_training_step(tmp_path):
    file = tmp_path / "told.json"
    names = ["textbook", "fp32", "checkpoint"]
    code, written = script(
        "step.py", "--sizes", "cifar", "--rounds=1", "--cycles=2", "--settings", *names, "--json", file
    )
    assert code == 0, written
    told = json.loads(file.read_text())["sizes"]["cifar"]
    rows = told["rows"]
    assert list(rows) == names
    assert told["flops"]["textbook"] > told["flops"]["lean"] > 0
    for row in rows.values():
        assert row["flops"] == told["flops"]["lean"]
        assert row["micro_steps"] == pytest.approx(6 / row["seconds"])
        assert row["samples"] == pytest.approx(told["batch"] * row["micro_steps"])
        assert sum(row["phases"].values()) == pytest.approx(row["seconds"])
        assert all(seconds > 0 for seconds in row["phases"].values())
        assert row["range"][0] <= row["seconds"] <= row["range"][1]
        assert row["flops_per_second"] == pytest.approx(row["flops"] / row["seconds"])
        assert row["ratio"] == pytest.approx(row["micro_steps"] / rows["textbook"]["micro_steps"])
        assert row["peak"] > 0
    for words in ("textbook", "fp32", "+ checkpoint", "collecting garbage takes"):
        assert words in written


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 avx512_vnni", True),
        ("flags\t\t: fpu amx_tile amx_bf16", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("flags\t\t: fpu avx2 avx512f avx512bw", False),
        ("model name\t: Zen with avx512_bf16", False),
        ("flags\t\t: fpu avx512_bf16\n\nflags\t\t: fpu avx2", False),
        (None, False),
    ],
)
def test_processors_that_multiply_bf16_are_known(told, expected, tmp_path):
    if told is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{told}\n")
    apart(know, tmp_path / "cpuinfo", expected)


def know(file, expected):
    (measure,) = parts("measure")
    assert measure.has_bf16(file) is expected


@pytest.mark.parametrize("able", [False, True])
def test_on_a_cpu_bf16_has_a_row_where_there_are_instructions_for_it(able):
    apart(plan_rows, able)


def plan_rows(able):
    parts("measure")
    step = importlib.import_module("step")
    step.has_bf16, asked = lambda: able, []
    step.tables = lambda options: asked.append(options.settings)
    sys.argv = ["step.py", "--device=cpu", "--tiny"]
    with pytest.raises(SystemExit):
        step.main()
    assert ("bf16" in asked[0]) is able
    assert "compile" not in asked[0]


def test_a_row_that_fails_is_told():
    code, written = script("step.py", "--sizes", "demo", "--rounds=1", "--batch=-1", "--settings", "fp32")
    assert code == 1
    assert "fp32: UserError: MatchingDataModule: batch_size must be at least 1, got -1" in written


def test_inference(tmp_path):
    file = tmp_path / "told.json"
    words = "--sizes", "demo", "cifar", "--dtypes", "fp32", "--seconds=0.1", "--steps=4", "--json", file
    code, written = script("inference.py", *words)
    assert code == 0, written
    rows = json.loads(file.read_text())
    assert [row["size"] for row in rows] == ["demo", "cifar"]
    for row in rows:
        assert row["generator"] > row["teacher"] > 0
        assert row["ratio"] == pytest.approx(row["generator"] / row["teacher"])
        assert 0 < row["latency"] <= row["latency_95"]


SERVED = """
import multiprocessing
import processes, torch
def tell():
    print(torch.get_num_threads(), flush=True)
if __name__ == "__main__":
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["torch"])
    process = server.Process(target=tell)
    process.start()
    process.join()
"""


def test_processes_need_not_change_their_threads_whatever_the_tests_have(tmp_path):
    """A change makes a pool, which does not always survive the fork of `apart`."""
    (tmp_path / "served.py").write_text(SERVED)
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(HOME / "tests")}
    words = [sys.executable, tmp_path / "served.py"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "1\n"


def test_adapters(tmp_path):
    pytest.importorskip("peft")
    file = tmp_path / "told.json"
    code, written = script("adapters.py", "--sizes", "cifar", "--rank=2", "--json", file)
    assert code == 0, written
    whole, adapted = json.loads(file.read_text())["cifar"].values()
    for row in (whole, adapted):
        assert row["all"] == row["planned"] == row["weights"] + row["gradients"] + row["states"]
    assert adapted["all"] < whole["all"] / 3
    assert adapted["checkpoint"] < whole["checkpoint"] / 3


def test_evaluation(tmp_path):
    file = tmp_path / "told.json"
    code, written = script("evaluation.py", "--sizes", "demo", "--rounds=1", "--batches", 2, 20, "--json", file)
    assert code == 0, written
    row = json.loads(file.read_text())["demo"]
    assert math.isfinite(row["validation"])  # the slope of two times, which so short a run may turn round
    assert row["calls"] > 0
    assert row["total"] == pytest.approx(row["fixed"] + 50_000 * row["validation"])
    assert row["overhead"] == pytest.approx(row["total"] / (50_000 * row["calls"]) - 1)


SMALL_LOADER = f"""
import sys

sys.path.insert(0, {str(HOME / "benchmarks")!r})
import loader

loader.SIZES = {{name: size._replace(count=600) for name, size in loader.SIZES.items()}}
loader.main()
"""


def test_the_loader(tmp_path):
    (tmp_path / "small.py").write_text(SMALL_LOADER)
    code, written = script(tmp_path / "small.py", "--seconds=0.02", tiny=False)
    assert code == 0, written
    for words in ("digits", "CIFAR", "CelebA", "streaming, 2 workers", "on_device"):
        assert words in written


def test_features():
    code, written = script("features.py", "--names", "digits", tiny=False)
    assert code == 0, written
    ratios = [int(ratio) for ratio in re.findall(r"(\d+) x ", written)]
    assert len(ratios) == 2
    assert ratios[0] > 10 > ratios[1]


def test_two_processes(tmp_path):
    file = tmp_path / "told.json"
    code, written = script("processes.py", "--rounds=1", "--json", file)
    assert code == 0, written
    told = json.loads(file.read_text())["demo"]
    assert told["gain"] == pytest.approx(2 * told["alone"] / told["together"])
    assert told["most"] == pytest.approx(2 * told["alone"] / told["crowded"])


def apart(function, *words):
    """Call a function in a process of its own: the classes of the benchmarks would be choices of every config here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        pool.submit(function, *words).result()


def parts(*names):
    """Import what the scripts share."""
    sys.path.insert(0, str(HOME / "benchmarks"))
    return [importlib.import_module(f"parts.{name}") for name in names]


@pytest.mark.parametrize("size", ["demo", "cifar"])
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_both_loops_make_the_same_updates_from_the_same_draws(size):
    apart(train_both, size)


def train_both(size):
    textbook, lean, measure, sizes = parts("textbook", "lean", "measure", "sizes")
    network, device = sizes.Workload(size, True, "cpu", 3, 0, 2).network().double(), torch.device("cpu")
    generator = torch.Generator().manual_seed(1)

    def draws():
        x1, x0, z = (torch.randn(3, *network.shape, generator=generator, dtype=torch.double) for _ in range(3))
        return textbook.Draws(x1, x0, z, torch.rand(3, generator=generator, dtype=torch.double))

    cycles = [[draws() for _ in range(textbook.FAKE_STEPS + 1)] for _ in range(2)]
    plain = textbook.Textbook(network, device)
    for cycle in cycles:
        plain.cycle(iter(cycle))
    joined = [[torch.cat(fields) for fields in zip(*cycle, strict=True)] for cycle in cycles]
    loader = DataLoader([Batch(x1=x1, x0=x0, z=z, t=t) for x1, x0, z, t in joined], batch_size=None)
    module = lean.module_of(network, measure.Stopwatch(device), {"fused_adam": True})
    lean.trainer_of("cpu", len(cycles), precision="64-true").fit(module, loader)

    pairs = [(plain.fake, module.fake), (plain.generator, module.generator.network)]
    pairs += [(average, module.ema[decay].network.network) for decay, average in plain.averages.items()]
    for ours, theirs in pairs:
        for before, left, right in zip(network.parameters(), ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(left - before, right - before, rtol=1e-6, atol=1e-10)
    assert any(not torch.equal(*both) for both in zip(network.parameters(), module.fake.parameters(), strict=True))
    assert len(module.watch.cycles()) == len(plain.watch.cycles()) == len(cycles)


def test_losses_are_compared(tmp_path):
    file = tmp_path / "told.json"
    words = "--sizes", "demo", "--cycles=4", "--settings", "fused_adam", "on_device", "--json", file
    code, written = script("losses.py", *words)
    assert code == 0, written
    assert "losses of fp32 and of fused_adam + on_device agree: in windows of 4 cycles" in written
    assert 0 <= json.loads(file.read_text())["demo"] < 3


def test_curves_that_agree_and_that_do_not():
    apart(compare)


def compare():
    parts("measure")
    losses = importlib.import_module("losses")
    curve = torch.randn(200, generator=torch.Generator().manual_seed(2)).tolist()
    same = {"fake": curve, "generator": curve}
    shifted = {"fake": curve, "generator": [*curve[:150], *(value + 1 for value in curve[150:])]}
    assert losses.largest_difference(same, same, 50) == 0
    assert losses.largest_difference(same, shifted, 50) == pytest.approx(50**0.5, rel=0.3)
    broken = {"fake": curve, "generator": [*curve[:-1], float("nan")]}
    assert not losses.largest_difference(same, broken, 50) < 3
