"""Kill a run again and again, anywhere, resume it each time, and compare the end with that of an uninterrupted run.

Every life of the run is ended by SIGKILL at a random moment: while it starts, makes a step, validates, or writes a
checkpoint (one is written at every step, so that many kills fall into the writing). Then the same command is given
again; ``--ckpt_path resume`` does the rest. In the end weights, optimizers, averages, schedules, the best checkpoint
and every measured distance must be those of the run that nobody killed, bit for bit.

Usage: python benchmarks/kills.py [--kills 30] [--steps 400] [--seed 0] [--folder FOLDER]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

CONFIG = Path(__file__).parents[1] / "configs" / "demo" / "teacher.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=400, help="steps of the run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which it is killed")
    parser.add_argument("--folder", type=Path, default=None, help="where the runs go; a temporary one unless given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        command = fit(folder / "whole", options.steps)
        finish(command)
        kills, halves, steps = kill(fit(folder / "killed", options.steps), folder / "killed", options)
        differences = compare(folder / "whole", folder / "killed")
    print(f"{kills} kills, {halves} of them in the middle of writing a checkpoint; resumed at steps {steps}")
    print("the end is that of the uninterrupted run, bit for bit" if not differences else f"DIFFERENT: {differences}")
    sys.exit(1 if differences or kills < options.kills else 0)


def fit(folder: Path, steps: int) -> list[str]:
    """Return the command of a small run that writes a checkpoint at every step."""
    words = [
        *("--config", CONFIG, f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps // 8}"),
        *("--checkpoint.every=1", "--checkpoint.monitor=fid/ema_0.999_steps_1", "--data.batch_size=16"),
        *("--data.eval_samples=64", "--model.network.width=64", "--trainer.enable_progress_bar=false"),
        *("--trainer.enable_model_summary=false", f"--trainer.default_root_dir={folder}", "--ckpt_path=resume"),
    ]
    script = "from realuid_lightning.cli import main; raise SystemExit(main())"
    return [sys.executable, "-c", script, "fit", *map(str, words)]


def start(command: list[str]) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(command: list[str]) -> None:
    with start(command) as process:
        said = process.communicate()[1]
    if process.returncode:
        sys.exit(f"exit code {process.returncode}: {said}")


def kill(command: list[str], folder: Path, options: argparse.Namespace) -> tuple[int, int, list[int]]:
    """Start the run until it has been killed often enough, then let it finish.

    Returns:
        The kills, those in the middle of a writing, and the step from which each life went on.
    """
    chance, kills, halves = random.Random(options.seed), 0, 0
    steps: list[int] = []
    last = folder / "checkpoints" / "last.ckpt"
    # A life lasts, on average, for a share of the steps; one in ten ends before its first step.
    share = options.steps / options.kills
    while kills < options.kills:
        began = step_of(last)
        with start(command) as process:
            early = chance.random() < 0.1
            wanted = began + chance.uniform(0, 1.5 * share)
            deadline = time.monotonic() + chance.uniform(0.5, 4) if early else float("inf")
            while process.poll() is None and time.monotonic() < deadline and (early or step_of(last) < wanted):
                time.sleep(0.01)
            if chance.random() < 0.5:
                time.sleep(chance.uniform(0, 0.1))
            else:  # in the middle of a writing
                while process.poll() is None and not early and not halves_of(folder):
                    pass
            if process.poll() is not None:
                if process.returncode:
                    sys.exit(f"exit code {process.returncode}: {process.communicate()[1]}")
                break  # finished before it could be killed
            process.kill()
        kills += 1
        halves += bool(halves_of(folder))
        steps.append(step_of(last))
    finish(command)
    return kills, halves, steps


def halves_of(folder: Path) -> list[Path]:
    """Return the checkpoints that are being written, or were when the run was killed."""
    return list(folder.glob("checkpoints/.*.ckpt"))


def step_of(file: Path) -> int:
    return int(torch.load(file, weights_only=True, mmap=True)["global_step"]) if file.is_file() else 0


def compare(whole: Path, killed: Path) -> list[str]:
    """Return what differs between the ends of two runs."""
    one, other = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, killed))
    parts = ("global_step", "state_dict", "optimizer_states", "lr_schedulers")
    differences = [part for part in parts if not same(one[part], other[part])]
    best = [content["callbacks"]["RunCheckpoint"]["best_model_score"] for content in (one, other)]
    names = [sorted(file.name for file in (run / "checkpoints").iterdir()) for run in (whole, killed)]
    figures = [measured(run / "figures.jsonl") for run in (whole, killed)]
    for name, pair in {"best score": best, "files": names, "distances": figures}.items():
        if pair[0] != pair[1]:
            differences.append(f"{name}: {pair[0]} and {pair[1]}")
    return differences


def measured(file: Path) -> dict[str, float]:
    """Return every distance by step and sampler; one that was measured twice must have come out the same."""
    found: dict[str, float] = {}
    for row in map(json.loads, file.read_text().splitlines()):
        key = f"{row['step']} {row['sampler']}"
        if found.setdefault(key, row["figures"]) != row["figures"]:
            found[f"{key} again"] = row["figures"]
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


if __name__ == "__main__":
    main()
