"""Whether the loss curves of fp32 and of all fast settings together agree, from the same seed.

Mean losses of the fake model and of the generator in windows of 50 cycles are compared: their difference in units of
the standard error of fp32's mean, which is the standard deviation of the cycles of that window over the root of their
number. They agree if the largest of all these is below 3.

Usage: python benchmarks/losses.py [--device cpu|cuda] [--sizes demo cifar celeba] [--batch 32] [--cycles 500]
       [--settings fused_adam bf16 channels_last on_device compile] [--json FILE] [--tiny]
"""

import sys

import torch
from parts.lean import ADDED, Setting, cumulated, train
from parts.measure import apart
from parts.options import parsed, parser_of, workload, write
from parts.sizes import Workload
from parts.textbook import FAKE_STEPS
from torch import Tensor

WINDOW = 50  # cycles of a mean loss
FAST = [name for name in ADDED if name not in ("fp32", "checkpoint")]

Curves = dict[str, list[float]]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--settings", nargs="+", choices=ADDED, help="what to train with beside; no compile on the CPU")
    parser.add_argument("--cycles", type=int, default=500, help="cycles that are compared")
    parser.set_defaults(batch=32)  # for hundreds of cycles in fp32
    options = parsed(parser)
    names = options.settings or [name for name in FAST if name != "compile" or options.device == "cuda"]
    setting, width = list(cumulated(names).values())[-1], min(WINDOW, options.cycles)
    told = {}
    for name in options.sizes:
        work = workload(name, options)._replace(warm_up=0)
        told[name] = largest = largest_difference(apart(curves, work, {}), apart(curves, work, setting), width)
        verdict = "agree" if largest < 3 else "DIFFER"
        print(
            f"{name}: losses of fp32 and of {' + '.join(names)} {verdict}: in windows of {width} cycles, "
            f"{options.cycles} in all, means differ by {largest:.3f} standard errors at most"
        )
    write(told, options)
    sys.exit(not all(largest < 3 for largest in told.values()))  # NaN differs


def curves(work: Workload, setting: Setting) -> Curves:
    """Return the losses of each cycle, of the fake model (the mean of its updates) and of the generator."""
    module, _, _ = train(work, setting)
    fake, generator = (torch.stack(losses).double().cpu() for losses in module.losses.values())
    return {"fake": fake.view(-1, FAKE_STEPS).mean(1).tolist(), "generator": generator.tolist()}


def largest_difference(exact_curves: Curves, fast_curves: Curves, width: int) -> float:
    """Return the largest difference of mean losses in windows of ``width`` cycles, in standard errors of the exact."""
    found = []
    for name, curve in exact_curves.items():
        exact_windows, fast_windows = (_windows(losses, width) for losses in (curve, fast_curves[name]))
        error = exact_windows.std(1) / width**0.5
        found.append((exact_windows.mean(1) - fast_windows.mean(1)).abs() / error)
    return torch.cat(found).max().item()  # NaN if there is one


def _windows(losses: list[float], width: int) -> Tensor:
    """Return losses by window and cycle; what is left over at the end is dropped."""
    count = len(losses) // width
    return torch.tensor(losses[: count * width], dtype=torch.float64).view(count, width)


if __name__ == "__main__":
    main()
