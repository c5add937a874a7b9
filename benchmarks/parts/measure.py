"""Clocks that do not wait, peak memory, matrix rates, and processes of their own."""

import os
import pickle
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

Cycle = dict[str, float]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # as Linux names the instructions of x86 and Arm


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a process of its own, so that memory and compiled code are its own; return what it returns.

    The process is forked, so imports are made already. Nothing may have computed in this one: neither CUDA nor a pool
    of threads survives a fork.
    """
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(function, *args).result()


def crowd(function: Callable[..., Any], count: int, *args: Any) -> list[Any]:
    """Call a function in ``count`` processes at once, each as in ``apart``; return what they return."""
    with ProcessPoolExecutor(count, get_context("fork")) as pool:
        return [call.result() for call in [pool.submit(function, *args) for _ in range(count)]]


def afresh(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a new interpreter that imports its module alone; return what it returns.

    Raises:
        RuntimeError: With the last line that it wrote, if it fails.
    """
    code = "import pickle, sys; call, args = pickle.load(sys.stdin.buffer); pickle.dump(call(*args), sys.stdout.buffer)"
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((function, args)),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.decode().strip() or f"exit code {done.returncode}").splitlines()[-1])
    return pickle.loads(done.stdout)


def short(error: Exception) -> str:
    """Return an error in one short line."""
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:150]}"


class Stopwatch:
    """Charges the time of cycles to phases; on CUDA that of its stream, by events, so that nothing waits.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._laps: list[tuple[str, Any]] = []

    def lap(self, phase: str) -> None:
        """Charge the time since the last lap to ``phase``; ``end`` charges it to ``rest`` and ends a cycle."""
        if not self.cuda:
            self._laps.append((phase, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._laps.append((phase, event))

    def cycles(self) -> list[Cycle]:
        """Return the seconds of each cycle by phase; the first lap only starts the watch. The device must be done."""
        found, current = [], {"fake": 0.0, "generator": 0.0, "rest": 0.0}
        for (_, before), (phase, after) in pairwise(self._laps):
            seconds = before.elapsed_time(after) / 1e3 if self.cuda else after - before
            current["rest" if phase == "end" else phase] += seconds
            if phase == "end":
                found.append(current)
                current = dict.fromkeys(current, 0.0)
        return found


class PeakMemory:
    """The most memory in use since the object was made.

    On CUDA what torch's allocator has given out at most; on the CPU the process' greatest resident size, less the size
    when the object was made. That is ``VmHWM`` of Linux: ``ru_maxrss`` knows also what the parent held before a fork.

    Args:
        device: Whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        torch.optim.Adam([torch.ones(1, requires_grad=True)]).step()  # imports what training would
        with suppress(OSError):  # forgets earlier peaks, such as those of imports, where the kernel lets us
            Path("/proc/self/clear_refs").write_text("5")
        self.before = _resident("VmRSS")

    def bytes(self) -> int:
        """Return the peak so far."""
        return torch.cuda.max_memory_allocated() if self.cuda else _resident("VmHWM") - self.before


def _resident(field: str) -> int:
    """Return a size in bytes that the kernel states of this process."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux: the peak is all that is told
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def exact(device: torch.device) -> None:
    """Let float32 be float32 on CUDA: no TF32 in products and convolutions, the choice of kernels as by default."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor multiplies bf16; without, torch does so by way of float32, and slower.

    Not so ``torch.backends.mkldnn``, which also says so of processors that make it up. Where Linux does not tell, no.

    Args:
        cpuinfo: What Linux tells of the processor.
    """
    try:
        told = cpuinfo.read_text()
    except OSError:
        return False
    features = re.findall(r"^(?:flags|Features)\s*:(.*)$", told, re.MULTILINE)
    return bool(features) and all(BF16 & set(words.split()) for words in features)


def matrix_rates(kind: str, width: int, dtypes: list[str]) -> dict[str, float]:
    """Return FLOP/s of a large matrix product, by dtype: the device's practical ceiling.

    Args:
        kind: ``cpu`` or ``cuda``.
        width: Rows and columns of the matrices.
        dtypes: Names of dtypes.
    """
    device = torch.device(kind)
    exact(device)
    rates = {}
    for name in dtypes:
        left, right = (torch.randn(width, width, device=device).to(DTYPES[name]) for _ in range(2))
        watch = Stopwatch(device)
        for _ in range(7):  # the first two warm up
            watch.lap("end")
            torch.mm(left, right)
        watch.lap("end")
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = statistics.median(sum(cycle.values()) for cycle in watch.cycles()[2:])
        rates[name] = 2 * width**3 / seconds
    return rates
