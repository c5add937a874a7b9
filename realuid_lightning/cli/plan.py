"""``realuid plan``: what ``realuid fit`` with the same words would need, before it is started."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table
from torch import nn

from realuid_lightning.cli.building import build
from realuid_lightning.cli.parsing import check_configs
from realuid_lightning.cli.training import RealUIDCLI, _hush
from realuid_lightning.errors import Faults, UserError, gathering_faults
from realuid_lightning.evaluation import FIDCallback
from realuid_lightning.planning import Plan, Setting, alternatives, make_plan
from realuid_lightning.planning.units import count, parse_size, show
from realuid_lightning.running.monitors import check_monitors

NOT_COUNTED = (
    "Not counted: the device's context and libraries (about half a GiB with CUDA), workspace of convolutions, "
    "fragmentation, temporaries of the optimizer, stages that fsdp_per_network gathers, training samples that "
    "data.on_device holds, what compiled networks keep beyond that of eager ones, the feature extractor of the Frechet "
    "distance."
)


def plan(words: Sequence[str]) -> None:
    """Print what a ``fit`` with the same words would need; nothing is trained, downloaded, read or written.

    Raises:
        UserError: If ``fit`` would refuse the options or the config.
    """
    _hush()
    check_configs(words)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # classes of the user's own files, named by path in a config
    with _quiet():
        try:
            cli = PlanCLI("fit", ["fit", *words])
        except MisconfigurationException as error:
            raise UserError(f"trainer: {error}") from error
        setting = cli.setting()
        made = make_plan(setting)
        limit = cli.device_memory()
        _print(setting, made, limit)


class PlanCLI(RealUIDCLI):
    """Parses and builds what ``fit`` would, with networks that have no memory, and stops there."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the memory to compare with."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--device_memory", type=str | None, default=None, help="Memory of a device to judge by, such as 24GiB."
        )

    def before_instantiate_classes(self) -> None:
        """Build networks without memory."""
        super().before_instantiate_classes()
        self.parser.add_instantiator(_weightless, nn.Module, subclasses=True, prepend=True)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Build the trainer for as many CPU devices, which need not be there: a plan is made before the launch."""
        self.gpu = config["accelerator"] in ("gpu", "cuda") or (
            config["accelerator"] == "auto" and torch.cuda.is_available()
        )
        devices = device_count(self.gpu, config["devices"])
        self.devices = devices * config["num_nodes"]
        self.precision = str(config["precision"] or "32-true")
        # The CPU makes float16 something else, before the module can refuse it.
        precision = "32-true" if self._scaled else config["precision"]
        config = {**config, "accelerator": "cpu", "devices": devices, "logger": False, "precision": precision}
        return super()._instantiate_trainer(config, callbacks)

    @property
    def _scaled(self) -> bool:
        return self.gpu and self.precision.startswith("16")

    def _run_subcommand(self, subcommand: str) -> None:
        """Do not train."""

    def device_memory(self) -> int | None:
        """Return the bytes to judge by: as asked for, or those of the device that is there; None for neither."""
        asked = self._get(self.config, "device_memory")
        if asked is not None:
            return parse_size(asked)
        there = self.gpu and torch.cuda.is_available()
        return int(torch.cuda.get_device_properties(0).total_memory) if there else None

    def setting(self) -> Setting:
        """Make the checks that ``fit`` makes once module, data and trainer have met, and return the three.

        Raises:
            UserError: If they do not go together.
        """
        trainer, module, data = self.trainer, self.model, self.datamodule
        trainer.state.fn = TrainerFn.FITTING
        module.trainer = data.trainer = trainer
        trainer.datamodule = data  # type: ignore[attr-defined]
        with gathering_faults():
            module.setup("fit")
            faults = Faults(type(module).__name__)
            faults.unless(not self._scaled, f"trainer.precision is {self.precision}: use bf16-mixed or 32-true")
            faults.raise_any()
            data._check_end()
            if data.labels:
                data._check_classes()
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, FIDCallback) and trainer.limit_val_batches:
                    callback.check(trainer)
            check_monitors(trainer, module)
        module.trainer = None  # it would be copied with the module
        trainer.precision_plugin.convert_module(module)  # in place
        return Setting(module, data, trainer, self.devices, self.gpu)


def _weightless(class_type: type[nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    """Build a module on the meta device, or, if its constructor needs numbers, as usual."""
    kwargs.pop("applied_instantiation_links", None)
    try:
        with torch.device("meta"):
            return class_type(*args, **kwargs)
    except UserError:
        raise
    except Exception:
        return build(class_type, *args, **kwargs)


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
def _quiet() -> Iterator[None]:
    """Keep Lightning from telling which devices this machine has: the plan's need not be there."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            warnings.filterwarnings("ignore", "GPU available but not used")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# -------------------------------------------------------------------------------------------------------------- tables


def _print(setting: Setting, made: Plan, limit: int | None) -> None:
    console = Console()
    console.print(_networks(made))
    console.print(_devices(setting, made))
    console.print(_work(setting, made))
    console.print(_disk(setting, made))
    if limit is None:
        console.print(f"Not judged: give --device_memory, such as 24GiB. {NOT_COUNTED}", highlight=False)
    elif made.total <= limit:
        console.print(f"It fits: {show(made.total)} of {show(limit)} on each device. {NOT_COUNTED}", highlight=False)
    else:
        console.print(f"It does not fit: {show(made.total)}, and a device has {show(limit)}. {NOT_COUNTED}")
        console.print(_changes(setting, made, limit))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _networks(made: Plan) -> Table:
    table = _table("Networks", "network", "parameters", "weights", "gradients", "optimizer", "total")
    for name, parameters, *sizes in made.networks:
        table.add_row(name, f"{parameters:,}", *map(show, (*sizes, sum(sizes))))
    columns = list(zip(*made.networks, strict=True))[1:]
    parameters, *totals = map(sum, columns)
    table.add_section()
    table.add_row("all", f"{parameters:,}", *map(show, (*totals, sum(totals))))
    return table


def _devices(setting: Setting, made: Plan) -> Table:
    strategy = type(setting.trainer.strategy).__name__
    title = f"Memory of each device: {setting.devices} under {strategy}, precision {setting.trainer.precision}"
    table = _table(title, "what", "bytes", "of it kept for the backward pass")
    whose = "networks" if made.shards == 1 else f"networks, a {made.shards}th of each"
    whose += " (gradients in turn)" if made.gradients < sum(each.gradients for each in made.networks) else ""
    table.add_row(whose, show(made.lasting - made.buckets), "")
    if made.buckets:
        table.add_row("DDP's copies of gradients", show(made.buckets), "")
    for name, peak in made.peaks.items():
        step = made.steps.get(name.removesuffix(" update"))
        rows = setting.module.eval_batch_size if step is None else setting.batch_size
        table.add_row(f"{name}, {rows} samples", show(peak), "" if step is None else show(step.kept))
    table.add_section()
    table.add_row("peak", show(made.total), "")
    return table


def _work(setting: Setting, made: Plan) -> Table:
    steps = setting.steps
    table = _table("Work of all devices, FLOPs", "what", "times", "forward, each", "with backward, each", "in the run")
    whole = 0
    for kind, step in made.steps.items():
        times = setting.updates_per_step[kind] * setting.devices * (steps or 0)
        whole += times * step.flops
        run = count(times * step.flops) if steps is not None else "no end"
        table.add_row(f"{kind} update", f"{times:,}", count(step.forward), count(step.flops), run)
    evaluation = made.evaluation
    if evaluation is not None:
        each, validations = evaluation.passes * evaluation.flops, evaluation.validations
        label = f"validation, {evaluation.passes:,} network passes"
        if validations is None:
            table.add_row(label, "no end", count(each), "", "no end")
        else:
            whole += each * validations
            table.add_row(label, f"{validations:,}", count(each), "", count(each * validations))
            passes = f"{evaluation.passes * validations:,}"
            table.caption = f"Validations make {passes} network passes of one sample in the run."
    table.add_section()
    table.add_row("all", "", "", "", count(whole) if steps is not None else "no end")
    return table


def _disk(setting: Setting, made: Plan) -> Table:
    table = _table(f"Disk: {setting.trainer.default_root_dir}", "what", "files", "bytes")
    table.add_row("one checkpoint", "1", show(made.checkpoint))
    if made.files is not None:
        label = "kept, and the one being written"
        table.add_row(label, f"{made.files:,}", show(made.files * made.checkpoint))
    if made.writes is not None:
        table.add_row("written over the run, at most", f"{made.writes:,}", show(made.writes * made.checkpoint))
    return table


def _changes(setting: Setting, made: Plan, limit: int) -> Table:
    table = _table("What to change", "options", "peak", "fits")
    found = list(alternatives(setting, made, limit))
    for words, total in found:
        table.add_row(words, show(total), "yes" if total <= limit else "no")
    if made.lasting > limit or not any(total <= limit for _, total in found):
        table.caption = (
            "Networks that do not fit by themselves are divided among devices by --trainer.strategy fsdp_per_network, "
            "or made smaller."
        )
    return table
