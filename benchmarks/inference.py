"""What a sample costs: one call of the generator, and 50 steps of the teacher by Euler's method.

Generator and teacher are one network with the same weights, as after the start of a distillation. Images a second are
those of a large batch, latency is that of a single image, from its latent on the device to the finished image. Every
row is measured in a process of its own; bf16 is autocast, as in training. Nothing is downloaded.

Usage: python benchmarks/inference.py [--device cpu|cuda] [--sizes demo cifar celeba] [--batch N] [--steps 50]
       [--seconds 3] [--json FILE] [--tiny]
"""

import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import torch
from parts.measure import DTYPES, apart, exact, short
from parts.options import device_name, parsed, parser_of, show, write
from parts.sizes import Workload
from torch import Tensor

from realuid_lightning.networks import Generator
from realuid_lightning.paths import FlowMatchingPath
from realuid_lightning.solvers import Euler

FEWEST, MOST = 2, 200  # measurements of a figure


class Row(NamedTuple):
    """What a row measures.

    Attributes:
        work: Network, device and batch.
        dtype: ``fp32`` or ``bf16``.
        compiled: Whether the network is compiled.
        steps: Network calls of the teacher.
        seconds: About how long a figure is measured.
    """

    work: Workload
    dtype: str
    compiled: bool
    steps: int
    seconds: float


def main() -> None:
    parser = parser_of(__doc__, "images at a time; 256 on CUDA, 16 on the CPU")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--steps", type=int, default=50, help="network calls of the teacher")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long each figure is measured")
    options = parsed(parser)
    kind, batch = options.device, options.batch or (16 if options.device == "cpu" else 256)
    told = []
    for name, dtype, compiled in product(options.sizes, options.dtypes, [False, True] if kind == "cuda" else [False]):
        row = Row(Workload(name, options.tiny, kind, batch, 0, 0), dtype, compiled, options.steps, options.seconds)
        told.append({"size": name, "dtype": dtype, "compiled": compiled, **figures(row)})
    write(told, options)
    speeds = "generator images/s", f"teacher images/s, {options.steps} steps", "ratio"
    columns = "network", *speeds, "one image ms", "95 % below ms"
    show(f"one-step inference, batch {batch}, {device_name(kind)}", columns, map(cells, told))
    sys.exit(any("error" in row for row in told))


def figures(row: Row) -> dict[str, Any]:
    """Return what was measured, in a process of its own, or the error."""
    try:
        measured: dict[str, Any] = apart(measure, row)
    except Exception as error:  # whatever it is, the other rows go on
        return {"error": short(error)}
    return measured


def measure(row: Row) -> dict[str, Any]:
    """Return images a second of generator and teacher, and latencies of a single image in seconds."""
    device = row.work.device
    exact(device)
    path, network = FlowMatchingPath(), row.work.network().to(device).eval()
    if row.compiled:
        network.compile(dynamic=False)
    generator = Generator(network, path)
    z = torch.randn(row.work.batch, *network.shape, device=device)
    half = torch.autocast(device.type, torch.bfloat16, enabled=row.dtype == "bf16", cache_enabled=False)
    with torch.inference_mode(), half:
        calls: dict[str, Callable[[], Tensor]] = {
            "generator": lambda: generator(z),
            "teacher": lambda: Euler().sample(path, network, z, None, row.steps),
        }
        seconds = {name: statistics.median(durations(call, device, row.seconds)) for name, call in calls.items()}
        single = sorted(durations(lambda: generator(z[:1]), device, row.seconds))
    return {
        **{name: row.work.batch / value for name, value in seconds.items()},
        "ratio": seconds["teacher"] / seconds["generator"],
        "latency": statistics.median(single),
        "latency_95": single[round(0.95 * (len(single) - 1))],
    }


def durations(call: Callable[[], Any], device: torch.device, seconds: float) -> list[float]:
    """Return the seconds that each of several calls takes, after one to warm up."""
    found: list[float] = []
    end = float("inf")
    while len(found) <= FEWEST or (len(found) <= MOST and time.perf_counter() < end):
        begun = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
        end = time.perf_counter() + seconds if len(found) == 1 else end
    return found[1:]


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what the table says of a row."""
    label = f"{row['size']}, {row['dtype']}, {'compiled' if row['compiled'] else 'eager'}"
    if "error" in row:
        return label, f"failed: {row['error']}"
    speeds = f"{row['generator']:.4g}", f"{row['teacher']:.4g}", f"{row['ratio']:.1f} x"
    return label, *speeds, *(f"{1e3 * row[name]:.3g}" for name in ("latency", "latency_95"))


if __name__ == "__main__":
    main()
