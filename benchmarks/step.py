"""What training costs: the package's loop, one optimisation after the other, beside a plain loop; in one run.

A micro-step is one update of a network; a cycle is 5 of the fake model and 1 of the generator. Every row trains in a
process of its own, in rounds, so that all rows meet the same moods of the machine; a figure is that of the median cycle
of all rounds. FLOPs are those of a cycle of the package's loop, without what the plain loop does beside them; ``of
rate`` compares FLOP/s with a large matrix product in the dtype of the row's products, measured in the same run, and
``over floor`` the time with those FLOPs at the device's fastest such rate. The textbook and fp32 rows use no TF32.

The textbook trains in a process that imports torch and the networks alone, for each of its updates collects garbage,
which takes longer the more is imported. On CUDA every row with a fused optimizer trains some further cycles in which a
synchronisation would be an error.

With ``--losses N`` the loss curves of fp32 and of all settings together are compared over N cycles from the same seed:
mean losses of the fake model and of the generator in windows of 50 cycles, their difference in units of the standard
error of fp32's mean, which is the standard deviation of the cycles of that window over the root of their number. They
agree if the largest of all these is below 3. Batches are of 32 unless told otherwise.

With ``--processes 2`` two processes on the CPU, each with one thread and a batch of its own, are compared with one, and
with two that do not train together.

Usage: python benchmarks/step.py [--device cpu|cuda] [--sizes demo cifar celeba] [--batch N] [--cycles N] [--rounds N]
       [--settings textbook fp32 fused_adam bf16 channels_last on_device checkpoint compile] [--json FILE] [--tiny]
       [--losses N | --processes 2]
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from parts.comparisons import beside, curves, largest_difference
from parts.lean import ADDED, Setting, cumulated, dtype_of, flops, observe
from parts.measure import afresh, apart, crowd, has_bf16, matrix_rates, short
from parts.sizes import SIZES, Plan, size_of
from parts.textbook import FAKE_STEPS, observe_textbook
from rich.console import Console
from rich.table import Table

TEXTBOOK = "textbook"
LOSSES_BATCH = 32  # where losses are compared
WINDOW = 50  # cycles of a mean loss


def main() -> None:
    options = arguments()
    if options.processes:
        sys.exit(processes(options))
    options.device = options.device or ("cuda" if apart(torch.cuda.is_available) else "cpu")
    if options.losses is not None:  # for hundreds of cycles in fp32
        options.sizes, options.batch = options.sizes or ["demo", "cifar"], options.batch or LOSSES_BATCH
    options.sizes = options.sizes or (["demo", "cifar"] if options.device == "cpu" else list(SIZES))
    unfit = () if options.device == "cuda" else ("compile",) if has_bf16() else ("bf16", "compile")
    options.settings = options.settings or [name for name in (TEXTBOOK, *ADDED) if name not in unfit]
    plans = [plan_of(name, options) for name in options.sizes]
    sys.exit(losses(plans, options) if options.losses is not None else tables(plans, options))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="CUDA where there is a GPU")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="all on CUDA; demo and cifar on the CPU")
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=(TEXTBOOK, *ADDED),
        help="rows; by default all on CUDA; on the CPU no compile, which takes minutes, and bf16 where it is native",
    )
    parser.add_argument("--batch", type=int, help="samples per update")
    parser.add_argument("--cycles", type=int, help="timed cycles of a row in a round")
    parser.add_argument("--rounds", type=int, help="times that each row has its turn; 2 on the CPU, 1 on CUDA")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--tiny", action="store_true", help="networks and batches for tests")
    parser.add_argument("--losses", type=int, nargs="?", const=500, metavar="N", help="compare losses over N cycles")
    parser.add_argument("--processes", type=int, choices=(2,), help="compare two processes with one, at one size")
    return parser.parse_args()


def plan_of(name: str, options: argparse.Namespace) -> Plan:
    size, kind = size_of(name, options.tiny), options.device
    batch, cycles = options.batch or size.batch[kind], options.cycles or size.cycles[kind]
    return Plan(name, options.tiny, kind, batch, size.warm_up[kind], cycles)


# ------------------------------------------------------------------------------------------------------------ tables


def tables(plans: list[Plan], options: argparse.Namespace) -> int:
    """Print a table for each size, and write all figures; return whether a row has failed."""
    kind = options.device
    dtypes = sorted({"fp32", *map(dtype_of, cumulated_rows(options).values())}, reverse=True)
    rates = apart(matrix_rates, kind, 64 if options.tiny else 8192 if kind == "cuda" else 1024, dtypes)
    told: dict[str, Any] = {"device": apart(device_name, kind), "rates": rates, "sizes": {}}
    for plan in plans:
        counted = apart(flops, plan)
        rows = measured(plan, options)
        for row in rows.values():
            row |= figures(row, plan, counted["lean"], rates) if "error" not in row else {}
        for row in rows.values():
            if TEXTBOOK in rows and "micro_steps" in row and "micro_steps" in rows[TEXTBOOK]:
                row["ratio"] = row["micro_steps"] / rows[TEXTBOOK]["micro_steps"]
        told["sizes"][plan.size] = {"batch": plan.batch, "flops": counted, "rows": rows}
        show(plan, told)
        if options.json:  # after each size: a run that is stopped leaves what it has
            options.json.write_text(json.dumps(told, indent=1))
    return any("error" in row for size in told["sizes"].values() for row in size["rows"].values())


def cumulated_rows(options: argparse.Namespace) -> dict[str, Setting]:
    """Return the setting of every row but the textbook's."""
    return cumulated([name for name in options.settings if name != TEXTBOOK])


def device_name(kind: str) -> str:
    """Return what the figures were measured on."""
    return torch.cuda.get_device_name() if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def measured(plan: Plan, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the cycles, the peak memory and a note of every row, or its error."""
    settings = cumulated_rows(options)
    without = ("checkpoint",) if plan.size == "demo" else ()  # an MLP has nothing cheap to recompute
    rows: dict[str, dict[str, Any]] = {name: {} for name in options.settings if name not in without}
    for _ in range(options.rounds or (2 if plan.kind == "cpu" else 1)):
        for name, row in rows.items():
            if "error" in row:
                continue
            try:
                textbook = name == TEXTBOOK
                seen = afresh(observe_textbook, plan) if textbook else apart(observe, plan, settings[name])
            except Exception as error:  # whatever it is, the other rows go on
                row["error"] = short(error)
                continue
            cycles, peak, row["note"] = seen
            row["cycles"] = row.get("cycles", []) + cycles
            row["peak"] = max(row.get("peak", 0), peak)
            row["dtype"] = dtype_of(settings.get(name, {}))
    return rows


def figures(row: dict[str, Any], plan: Plan, flops: int, rates: dict[str, float]) -> dict[str, Any]:
    """Return what the table says of a row, from its median cycle."""
    ordered = sorted(row["cycles"], key=lambda cycle: sum(cycle.values()))
    phases = ordered[(len(ordered) - 1) // 2]
    seconds, micro_steps = sum(phases.values()), FAKE_STEPS + 1
    return {
        "phases": phases,
        "seconds": seconds,
        "range": [sum(ordered[0].values()), sum(ordered[-1].values())],
        "micro_steps": micro_steps / seconds,
        "samples": micro_steps * plan.batch / seconds,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "of_rate": flops / seconds / rates[row["dtype"]],
        "over_floor": seconds * max(rates.values()) / flops,
    }


def show(plan: Plan, told: dict[str, Any]) -> None:
    size, rates = told["sizes"][plan.size], told["rates"]
    memory = "peak MB" if plan.kind == "cuda" else "MB grown"
    columns = ("setting", "micro-steps/s", "ratio", "samples/s", "TFLOP/s", "of rate", "over floor", memory)
    table = Table(title=f"{plan.size}, batch {plan.batch}, {told['device']}")
    for column in (*columns, "fake ms", "generator ms", "rest ms"):
        table.add_column(column, justify="left" if column == "setting" else "right", no_wrap=True)
    notes = []
    for number, (name, row) in enumerate(size["rows"].items()):
        label = f"+ {name.replace('_', ' ')}" if name not in (TEXTBOOK, "fp32") and number else name.replace("_", " ")
        if "error" in row:
            table.add_row(label, "failed")
            notes.append(f"{label}: {row['error']}")
            continue
        ratio = f"{row['ratio']:.2f} x" if "ratio" in row else "-"
        speed = f"{row['micro_steps']:.4g}", ratio, f"{row['samples']:.4g}", f"{row['flops_per_second'] / 1e12:.3g}"
        shares = f"{row['of_rate']:.1%}", f"{row['over_floor']:.2f} x", f"{row['peak'] / 1e6:.0f}"
        table.add_row(label, *speed, *shares, *(f"{1e3 * value:.4g}" for value in row["phases"].values()))
        notes += [f"{label}: {row['note']}"] if row["note"] else []
    console = Console(width=150, soft_wrap=True)
    console.print(table)
    every = "all allocations of torch" if plan.kind == "cuda" else "resident memory above that before training"
    console.print(f"times are those of a cycle ({FAKE_STEPS} fake updates, 1 generator update); memory: {every}")
    lean, textbook = (count / 1e12 for count in size["flops"].values())
    speeds = ", ".join(f"{rate / 1e12:.3g} in {name}" for name, rate in rates.items())
    console.print(
        f"a cycle is {lean:.4g} TFLOP, the textbook's {textbook:.4g}; matrix products reach TFLOP/s: {speeds}"
    )
    for note in notes:
        console.print(note, markup=False, highlight=False)


# ------------------------------------------------------------------------------------------------------- comparisons


def losses(plans: list[Plan], options: argparse.Namespace) -> int:
    """Print whether loss curves agree; return whether one does not."""
    settings = {name: setting for name, setting in cumulated_rows(options).items() if name != "fp32"}
    told, width = {}, min(WINDOW, options.losses)
    for plan in plans:
        setting = list(settings.values())[-1] if settings else {}
        exact_curves, fast_curves = (
            apart(curves, plan._replace(warm_up=0, cycles=options.losses), each) for each in ({}, setting)
        )
        told[plan.size] = largest = largest_difference(exact_curves, fast_curves, width)
        verdict = "agree" if largest < 3 else "DIFFER"
        print(
            f"{plan.size}: losses of fp32 and of {' + '.join(settings)} {verdict}: in windows of {width} cycles, "
            f"{options.losses} in all, means differ by {largest:.3f} standard errors at most"
        )
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))
    return not all(largest < 3 for largest in told.values())


def processes(options: argparse.Namespace) -> int:
    """Print what a second process adds; return 0."""
    options.device = "cpu"
    plan = plan_of((options.sizes or ["demo"])[0], options)
    if "LOCAL_RANK" in os.environ:  # Lightning has started this script anew, as the second process
        beside(plan, options.processes)
        return 0
    rounds = []
    for _ in range(options.rounds or 2):
        # Two runs that know nothing of each other tell what the machine lets two processes have.
        rounds.append([*map(statistics.mean, (crowd(beside, count, plan) for count in (1, 2)))])
        rounds[-1].append(apart(beside, plan, options.processes))
    alone, crowded, together = map(statistics.median, zip(*rounds, strict=True))
    gain, most = (options.processes * alone / seconds for seconds in (together, crowded))
    print(
        f"{plan.size}, batch {plan.batch} a process: a cycle takes {1e3 * alone:.1f} ms in one process, "
        f"{1e3 * together:.1f} ms in {options.processes}: {gain:.2f} x the samples a second; "
        f"{options.processes} runs side by side, which send nothing, {1e3 * crowded:.1f} ms: {most:.2f} x"
    )
    if options.json:
        options.json.write_text(
            json.dumps({"alone": alone, "crowded": crowded, "together": together, "gain": gain, "most": most}, indent=1)
        )
    return 0


if __name__ == "__main__":
    main()
