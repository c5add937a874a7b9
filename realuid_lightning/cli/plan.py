"""``realuid plan``: what ``realuid fit`` with the same words would need, before it is started."""

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table
from torch import nn

from realuid_lightning.cli.building import Builder
from realuid_lightning.cli.parsing import check_configs
from realuid_lightning.cli.training import RealUIDCLI, ignore_notices
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.evaluation import MetricsCallback
from realuid_lightning.planning import Plan
from realuid_lightning.planning.units import parse_size, show
from realuid_lightning.running.monitors import check_monitors

NOT_COUNTED = (
    "Not counted: the device's context and libraries (about half a GiB with CUDA), workspace of convolutions, "
    "fragmentation, temporaries of optimizers that are not fused, stages that fsdp_per_network gathers, training "
    "samples that data.on_device holds, what compiled networks keep beyond that of eager ones, the feature extractor "
    "of the Frechet distance."
)
SMALLER = (
    "Smaller are: data.batch_size, trainer.precision bf16-mixed, model.network.checkpoint cheap or true, fewer "
    "averages in model.ema; where evaluation is the peak, model.eval_batch_size; fsdp_per_network divides networks "
    "among devices."
)


def plan(words: Sequence[str]) -> None:
    """Print what a ``fit`` with the same words would need; nothing is trained, downloaded, read or written.

    Raises:
        UserError: If ``fit`` would refuse the options or the config.
    """
    with quiet():
        cli = checked_fit(words)
        limit = cli.device_memory()
        made = Plan(cli.model, cli.datamodule, cli.trainer, cli.devices, cli.gpu)
    _print(cli, made, limit)


def checked_fit(words: Sequence[str]) -> "PlanCLI":
    """Return what ``fit`` with these words would build, with networks that have no memory, once it is checked.

    Raises:
        UserError: If ``fit`` would refuse the options or the config.
    """
    ignore_notices()
    check_configs(words)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # classes of the user's own files, named by path in a config
    with quiet():
        try:
            cli = PlanCLI("fit", ["fit", *words])
        except MisconfigurationException as error:
            raise UserError(f"trainer: {error}") from error
        cli.check()
    return cli


def weightless(class_type: type[Any], *args: Any, **kwargs: Any) -> Any:
    """Call a constructor; modules are built on the meta device, unless that needs numbers."""
    if issubclass(class_type, nn.Module):
        try:
            with torch.device("meta"):
                return class_type(*args, **kwargs)
        except UserError:
            raise
        except Exception:
            return class_type(*args, **kwargs)
    return class_type(*args, **kwargs)


class PlanCLI(RealUIDCLI):
    """Parses and builds what ``fit`` would, with networks that have no memory, and stops there."""

    def make_builder(self) -> Builder:
        """Return what builds networks without memory."""
        return Builder(weightless)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the memory to compare with."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--device_memory", type=str | None, default=None, help="Memory of a device to judge by, such as 24GiB."
        )

    def trainer_options(self, config: Any) -> dict[str, Any]:
        """Ask for as many CPU devices, which need not be there: a plan is made before the launch."""
        self.gpu = config["accelerator"] in ("gpu", "cuda") or (
            config["accelerator"] == "auto" and torch.cuda.is_available()
        )
        devices = device_count(self.gpu, config["devices"])
        self.devices = devices * config["num_nodes"]
        self.precision = str(config["precision"] or "32-true")
        # The CPU makes float16 something else, before the module can refuse it.
        precision = "32-true" if self._scaled else config["precision"]
        options = {"accelerator": "cpu", "devices": devices, "logger": False, "precision": precision}
        return {**super().trainer_options(config), **options}

    @property
    def _scaled(self) -> bool:
        return self.gpu and self.precision.startswith("16")

    def before_fit(self) -> None:
        """Prepare nothing."""

    def fit(self, **_: Any) -> None:
        """Do not train."""

    def device_memory(self) -> int | None:
        """Return the bytes to judge by: as asked for, or those of the device that is there; None for neither."""
        asked = self.config[self.command]["device_memory"]
        if asked is not None:
            return parse_size(asked)
        there = self.gpu and torch.cuda.is_available()
        return int(torch.cuda.get_device_properties(0).total_memory) if there else None

    def check(self) -> None:
        """Make the checks that ``fit`` makes once module, data and trainer have met.

        Raises:
            UserError: If they do not go together.
        """
        trainer, module, data = self.trainer, self.model, self.datamodule
        trainer.state.fn = TrainerFn.FITTING
        module.trainer = data.trainer = trainer
        trainer.datamodule = data  # type: ignore[attr-defined]

        def meet() -> None:
            module.setup("fit")
            check_monitors(trainer, module)

        faults = Faults(type(module).__name__)
        faults.unless(not self._scaled, f"trainer.precision is {self.precision}: use bf16-mixed or 32-true")
        name, known = type(data.source).__name__, not data.labels or data.num_classes is not None
        faults.unless(known, f"a plan, which reads nothing, knows class labels alone, but {name} has none here")
        faults.attempt(meet)
        faults.attempt(lambda: data.check("fit"))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, MetricsCallback) and trainer.limit_val_batches:
                faults.attempt(partial(callback.check, trainer))
        faults.raise_any()
        module.trainer = None  # it would be copied with the module
        trainer.precision_plugin.convert_module(module)  # in place


def device_count(gpu: bool, devices: Any) -> int:
    """Return the devices of one node that the trainer's option ``devices`` means.

    Args:
        gpu: Whether they are GPUs.
        devices: A number, a list, either as a text, ``auto`` or -1.
    """
    if isinstance(devices, list | tuple):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        return max(torch.cuda.device_count(), 1) if gpu else 1
    numbers = [part for part in str(devices).split(",") if part.strip()]
    return int(numbers[0]) if len(numbers) == 1 and "," not in str(devices) else len(numbers)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from telling which devices this machine has: the plan's need not be there."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            warnings.filterwarnings("ignore", "GPU available but not used")
            yield
    finally:
        logging.disable(logging.NOTSET)


# -------------------------------------------------------------------------------------------------------------- tables


Rows = Iterator[Sequence[str]]


def _print(cli: PlanCLI, made: Plan, limit: int | None) -> None:
    trainer, console = cli.trainer, Console()
    on = f"{cli.devices} under {type(trainer.strategy).__name__}, precision {trainer.precision}"
    memory = "what", "bytes", "of it kept for the backward pass"
    work = "what", "times", "forward, each", "with backward, each", "in the run"
    for title, columns, rows in (
        ("Networks", ("network", "parameters", "weights", "gradients", "optimizer", "total"), _networks(made)),
        (f"Memory of each device: {on}", memory, _memory(made, cli.model.eval_batch_size)),
        ("Work of all devices, FLOPs", work, _work(made, cli.devices)),
        (f"Disk: {trainer.default_root_dir}", ("what", "files", "bytes"), _disk(made)),
    ):
        table = Table(title=title)
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if limit is None:
        verdict = "Not judged: give --device_memory, such as 24GiB."
    elif made.total <= limit:
        verdict = f"It fits: {show(made.total)} of {show(limit)} on each device."
    else:
        verdict = f"It does not fit: {show(made.total)}, and a device has {show(limit)}. {SMALLER}"
    console.print(f"{verdict} {NOT_COUNTED}", highlight=False)


def _networks(made: Plan) -> Rows:
    sums = [sum(column) for column in list(zip(*made.networks, strict=True))[1:]]
    for name, parameters, *sizes in (*made.networks, ("all", *sums)):
        yield name, f"{parameters:,}", *map(show, (*sizes, sum(sizes)))


def _memory(made: Plan, eval_batch_size: int) -> Rows:
    whose = "networks" if made.shards == 1 else f"networks, a {made.shards}th of each"
    in_turn = made.gradients < sum(network.gradients for network in made.networks)
    yield whose + " (gradients in turn)" * in_turn, show(made.lasting - made.buckets)
    if made.buckets:
        yield "DDP's copies of gradients", show(made.buckets)
    for name, each in made.passes.items():
        yield f"{name} pass, {each.samples} samples", show(each.peak), show(each.kept)
    if made.evaluation is not None:
        yield f"evaluation, {eval_batch_size} samples", show(made.evaluation.peak)
    yield "peak", show(made.total)


def _work(made: Plan, devices: int) -> Rows:
    rows = [
        (f"{name} pass", made.steps, each.times * devices, each.forward, each.flops)
        for name, each in made.passes.items()
    ]
    if made.evaluation is not None:
        passes, flops, _, validations = made.evaluation
        rows.append((f"validation, {passes:,} network passes", validations, 1, flops, flops))
    total: float = 0
    for what, rounds, each_round, forward, flops in rows:
        times = math.inf if rounds is None else rounds * each_round
        total += times * flops
        both = f"{flops:.3e}" if flops > forward else ""
        yield what, f"{times:,}", f"{forward:.3e}", both, f"{times * flops:.3e}"
    yield "all", "", "", "", f"{total:.3e}"


def _disk(made: Plan) -> Rows:
    rows = {"one checkpoint": 1, "kept, and the one being written": made.files, "written over the run": made.writes}
    for what, files in rows.items():
        yield what, *(("inf", "inf") if files is None else (f"{files:,}", show(files * made.checkpoint)))
