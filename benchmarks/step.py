"""What training costs: the package's loop, one optimisation after the other, beside a plain loop; in one run.

A micro-step is one update of a network; a cycle is 5 of the fake model and 1 of the generator. Every row trains in a
process of its own, in rounds, so that all rows meet the same moods of the machine; a figure is that of the median cycle
of all rounds. FLOPs are those of a cycle of the package's loop, without what the plain loop does beside them; ``of
rate`` compares FLOP/s with a large matrix product in the dtype of the row's products, measured in the same run, and
``over floor`` the time with those FLOPs at the device's fastest such rate. The textbook and fp32 rows use no TF32.

The textbook trains in a process that imports torch and the networks alone, for each of its updates collects garbage,
which takes longer the more is imported. On CUDA every row with a fused optimizer trains some further cycles in which a
synchronisation would be an error. Sizes, rows and cycles are such that an H100 is done within 9 minutes, most of them
spent on fp32, garbage and compiling.

Usage: python benchmarks/step.py [--device cpu|cuda] [--sizes demo cifar celeba] [--batch N] [--cycles N] [--rounds N]
       [--settings textbook fp32 fused_adam bf16 channels_last on_device checkpoint compile] [--json FILE] [--tiny]
"""

import argparse
import sys
from typing import Any

from parts.lean import ADDED, Setting, cumulated, dtype_of, flops, observe
from parts.measure import afresh, apart, has_bf16, matrix_rates, short
from parts.options import device_name, parsed, parser_of, show, workload, write
from parts.sizes import Workload
from parts.textbook import FAKE_STEPS, observe_textbook

TEXTBOOK = "textbook"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=(TEXTBOOK, *ADDED),
        help="rows; by default all on CUDA; on the CPU no compile, which takes minutes, and bf16 where it is native",
    )
    parser.add_argument("--cycles", type=int, help="timed cycles of a row in a round")
    parser.add_argument("--rounds", type=int, help="times that each row has its turn; 2 on the CPU, 1 on CUDA")
    options = parsed(parser)
    unfit = () if options.device == "cuda" else ("compile",) if has_bf16() else ("bf16", "compile")
    options.settings = options.settings or [name for name in (TEXTBOOK, *ADDED) if name not in unfit]
    options.rounds = options.rounds or (2 if options.device == "cpu" else 1)
    sys.exit(tables(options))


def tables(options: argparse.Namespace) -> bool:
    """Print a table for each size, and write all figures; return whether a row has failed."""
    kind = options.device
    settings = cumulated([name for name in options.settings if name != TEXTBOOK])
    dtypes = sorted({"fp32", *map(dtype_of, settings.values())}, reverse=True)
    rates = apart(matrix_rates, kind, 64 if options.tiny else 8192 if kind == "cuda" else 1024, dtypes)
    told: dict[str, Any] = {"device": apart(device_name, kind), "rates": rates, "sizes": {}}
    for work in (workload(name, options) for name in options.sizes):
        counted = apart(flops, work)
        rows = measured(work, options, settings)
        for row in rows.values():
            row |= figures(row, work, counted["lean"], rates) if "error" not in row else {}
        for row in rows.values():
            if TEXTBOOK in rows and "micro_steps" in row and "micro_steps" in rows[TEXTBOOK]:
                row["ratio"] = row["micro_steps"] / rows[TEXTBOOK]["micro_steps"]
        told["sizes"][work.size] = {"batch": work.batch, "flops": counted, "rows": rows}
        tell(work, told)
        write(told, options)  # after each size: a run that is stopped leaves what it has
    return any("error" in row for size in told["sizes"].values() for row in size["rows"].values())


def measured(work: Workload, options: argparse.Namespace, settings: dict[str, Setting]) -> dict[str, dict[str, Any]]:
    """Return the cycles, the peak memory and a note of every row, or its error."""
    without = ("checkpoint",) if work.size == "demo" else ()  # an MLP has nothing cheap to recompute
    rows: dict[str, dict[str, Any]] = {name: {} for name in options.settings if name not in without}
    for _ in range(options.rounds):
        for name, row in rows.items():
            if "error" in row:
                continue
            try:
                textbook = name == TEXTBOOK
                seen = afresh(observe_textbook, work) if textbook else apart(observe, work, settings[name])
            except Exception as error:  # whatever it is, the other rows go on
                row["error"] = short(error)
                continue
            cycles, peak, row["note"] = seen
            row["cycles"] = row.get("cycles", []) + cycles
            row["peak"] = max(row.get("peak", 0), peak)
            row["dtype"] = dtype_of(settings.get(name, {}))
    return rows


def figures(row: dict[str, Any], work: Workload, flops: int, rates: dict[str, float]) -> dict[str, Any]:
    """Return what the table says of a row, from its median cycle."""
    ordered = sorted(row["cycles"], key=lambda cycle: sum(cycle.values()))
    phases = ordered[(len(ordered) - 1) // 2]
    seconds, micro_steps = sum(phases.values()), FAKE_STEPS + 1
    return {
        "phases": phases,
        "seconds": seconds,
        "range": [sum(ordered[0].values()), sum(ordered[-1].values())],
        "micro_steps": micro_steps / seconds,
        "samples": micro_steps * work.batch / seconds,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "of_rate": flops / seconds / rates[row["dtype"]],
        "over_floor": seconds * max(rates.values()) / flops,
    }


def tell(work: Workload, told: dict[str, Any]) -> None:
    """Print the table of a size, and what belongs to it."""
    size, rows, notes = told["sizes"][work.size], [], []
    for number, (name, row) in enumerate(size["rows"].items()):
        label = ("+ " if name not in (TEXTBOOK, "fp32") and number else "") + name.replace("_", " ")
        if "error" in row:
            rows.append((label, "failed"))
            notes.append(f"{label}: {row['error']}")
            continue
        ratio = f"{row['ratio']:.2f} x" if "ratio" in row else "-"
        speed = f"{row['micro_steps']:.4g}", ratio, f"{row['samples']:.4g}", f"{row['flops_per_second'] / 1e12:.3g}"
        shares = f"{row['of_rate']:.1%}", f"{row['over_floor']:.2f} x", f"{row['peak'] / 1e6:.0f}"
        rows.append((label, *speed, *shares, *(f"{1e3 * value:.4g}" for value in row["phases"].values())))
        notes += [f"{label}: {row['note']}"] if row["note"] else []
    cuda = work.kind == "cuda"
    columns = ("setting", "micro-steps/s", "ratio", "samples/s", "TFLOP/s", "of rate", "over floor")
    columns = (*columns, "peak MB" if cuda else "MB grown", "fake ms", "generator ms", "rest ms")
    show(f"{work.size}, batch {work.batch}, {told['device']}", columns, rows, width=150)
    every = "all allocations of torch" if cuda else "resident memory above that before training"
    print(f"times are those of a cycle ({FAKE_STEPS} fake updates, 1 generator update); memory: {every}")
    lean, textbook = (count / 1e12 for count in size["flops"].values())
    speeds = ", ".join(f"{rate / 1e12:.3g} in {name}" for name, rate in told["rates"].items())
    print(f"a cycle is {lean:.4g} TFLOP, the textbook's {textbook:.4g}; matrix products reach TFLOP/s: {speeds}")
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()
