"""What a run ran on, and how long it took."""

import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from realuid_lightning import __version__
from realuid_lightning.atomic import replacing
from realuid_lightning.redaction import without_secrets_in_words
from realuid_lightning.reporting.reading import FITS, read_fits

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy")


class FitRecord(Callback):
    """Keeps ``fits.json`` in the run folder: an entry for each time that ``fit`` began the run, or went on with it.

    It holds the command without secrets, versions, devices, precision and number of processes, and, as of the last
    validation or the end, the steps made, the seconds of training and of validation (on the clock of process 0) and the
    peak memory of its device in bytes, where that is a GPU. Nothing waits for the device.
    """

    def __init__(self) -> None:
        self._entry: dict[str, Any] = {}
        self._begun = self._paused = self._validation = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the run runs on, and start the clock."""
        self._begun, self._validation = time.monotonic(), 0.0
        self._entry = {
            "started": datetime.now(UTC).isoformat(timespec="microseconds"),
            "command": without_secrets_in_words([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "versions": versions(),
            "devices": device_name(pl_module.device),
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
            "from_step": trainer.global_step,
        }
        self._write(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of training."""
        del trainer, pl_module
        self._paused = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what has been done so far."""
        if self._entry and not trainer.sanity_checking:
            self._validation += time.monotonic() - self._paused
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what has been done."""
        self._write(trainer, pl_module)
        self._entry = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note what has been done, of a run that was stopped."""
        del exception
        if self._entry:
            self._write(trainer, pl_module)
            self._entry = {}

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        device = pl_module.device
        spent = {
            "to_step": trainer.global_step,
            "training_seconds": round(time.monotonic() - self._begun - self._validation, 3),
            "validation_seconds": round(self._validation, 3),
            "peak_memory": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        }
        target = Path(trainer.default_root_dir) / FITS
        earlier = [entry for entry in read_fits(target.parent) if entry.get("started") != self._entry["started"]]
        with replacing(target) as file:
            file.write_text(json.dumps([*earlier, self._entry | spent], indent=1) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and what numbers depend on.

    Example:
        >>> "torch" in versions()
        True
    """
    found = {"python": platform.python_version(), "realuid_lightning": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found if torch.version.cuda is None else {**found, "cuda": torch.version.cuda}


def device_name(device: torch.device) -> str:
    """Return what a device calls itself; of a CPU also the number of cores that this process may use.

    Example:
        >>> "cores" in device_name(torch.device("cpu"))
        True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
