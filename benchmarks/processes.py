"""What a second process adds: two on the CPU, with one thread and a batch each, against one, and two that send nothing.

Usage: python benchmarks/processes.py [--sizes demo cifar celeba] [--batch N] [--cycles N] [--rounds 2] [--json FILE]
       [--tiny]
"""

import os
import statistics

import torch
from parts.lean import Noise, module_of, trainer_of
from parts.measure import Stopwatch, apart, crowd
from parts.options import parser_of, workload, write
from parts.sizes import Workload

import realuid_lightning.strategies  # noqa: F401 - makes ddp_per_network known
from realuid_lightning.data import MatchingDataModule

PROCESSES = 2


def main() -> None:
    parser = parser_of(__doc__, "samples per update and process")
    parser.add_argument("--cycles", type=int, help="timed cycles of a run")
    parser.add_argument("--rounds", type=int, default=2, help="times that each number of processes has its turn")
    parser.set_defaults(device="cpu", sizes=["demo"])
    options = parser.parse_args()
    works = [workload(name, options) for name in options.sizes]
    if "LOCAL_RANK" in os.environ:  # Lightning has started this program anew, as the second process of one size
        cycle_of(next(work for work in works if work.size == os.environ["BENCHMARKED"]), PROCESSES)
        return
    write({work.size: measured(work, options.rounds) for work in works}, options)


def measured(work: Workload, rounds: int) -> dict[str, float]:
    """Print and return what a second process adds at one size."""
    os.environ["BENCHMARKED"] = work.size
    seen = []
    for _ in range(rounds):
        # Two runs that know nothing of each other tell what the machine lets two processes have.
        seen.append([*map(statistics.mean, (crowd(cycle_of, count, work) for count in (1, PROCESSES)))])
        seen[-1].append(apart(cycle_of, work, PROCESSES))
    alone, crowded, together = map(statistics.median, zip(*seen, strict=True))
    gain, most = (PROCESSES * alone / seconds for seconds in (together, crowded))
    print(
        f"{work.size}, batch {work.batch} a process: a cycle takes {1e3 * alone:.1f} ms in one process, "
        f"{1e3 * together:.1f} ms in {PROCESSES}: {gain:.2f} x the samples a second; "
        f"{PROCESSES} runs side by side, which send nothing, {1e3 * crowded:.1f} ms: {most:.2f} x"
    )
    return {"alone": alone, "crowded": crowded, "together": together, "gain": gain, "most": most}


def cycle_of(work: Workload, processes: int = 1) -> float:
    """Return the seconds of the median cycle in the first of some processes of one thread each, on the CPU."""
    torch.set_num_threads(1)
    network = work.network()
    module = module_of(network, Stopwatch(work.device), {"fused_adam": True})
    strategy = "ddp_per_network" if processes > 1 else "auto"
    trainer = trainer_of("cpu", work.warm_up + work.cycles, devices=processes, strategy=strategy)
    trainer.fit(module, MatchingDataModule(Noise(network.shape), work.batch))
    return statistics.median(sum(cycle.values()) for cycle in module.watch.cycles()[work.warm_up :])


if __name__ == "__main__":
    main()
