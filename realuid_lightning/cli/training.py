"""``realuid fit | validate | test | predict``: the LightningCLI."""

import inspect
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from realuid_lightning import metrics, networks, paths, solvers, strategies  # noqa: F401 - makes short names known
from realuid_lightning.atomic import replacing
from realuid_lightning.checkpoints import find_checkpoint
from realuid_lightning.cli.building import Builder, in_one_line, lacks
from realuid_lightning.cli.checks import check_main_address, trainer_faults
from realuid_lightning.cli.filling import fill, leave_open
from realuid_lightning.cli.parsing import Clear, at_home, check_configs, ours_first
from realuid_lightning.cli.seeds import measure_seeds
from realuid_lightning.data import MatchingDataModule
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.evaluation import MetricsCallback, PredictionWriter, SampleGrid
from realuid_lightning.modules import MatchingModule
from realuid_lightning.redaction import without_secrets
from realuid_lightning.running import MatchingProgressBar, Preemption, RunCheckpoint, RunLock
from realuid_lightning.running.defaults import standing_callbacks


def run(words: Sequence[str]) -> None:
    """Run one of Lightning's commands.

    Raises:
        UserError: If the options, the config, a file or the environment is at fault.
        SystemExit: After ``--help`` or ``--print_config``.
    """
    ignore_notices()
    check_configs(words)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # classes of the user's own files, named by path in a config
    try:
        # Lightning warns of arguments that are the process' own anyway.
        RealUIDCLI(words[0], None if list(words) == sys.argv[1:] else list(words))
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise UserError(f"trainer: {in_one_line(error)}") from error
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None  # a run that was stopped has not succeeded


class Parser(Clear, LightningArgumentParser):
    """Lightning's parser, with our error messages; what is left open it shows filled in."""

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of a class; those of networks may be left open."""
        added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        leave_open(self, theclass)
        return added

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Return options as YAML, as the command takes them."""
        if "model" in namespace and "data" in namespace:  # not those of a class alone
            namespace = namespace.clone()
            fill(namespace)
        text: str = super().dump(namespace, *args, **kwargs)
        return text


class RunConfig(SaveConfigCallback):
    """Stores the resolved config of a ``fit`` beside the run, atomically, and tells it to the loggers."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet: the run may still be refused, and its folder be another run's."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``config.yaml`` into the run folder, from process 0, and give loggers its options without secrets."""
        del pl_module
        if trainer.is_global_zero:
            target = Path(trainer.default_root_dir) / "config.yaml"
            with replacing(target) as file:
                self.parser.save(self.config, str(file), skip_none=False, overwrite=True, multifile=False)
            options = without_secrets(yaml.safe_load(target.read_text()))
            for logger in trainer.loggers:
                logger.log_hyperparams(options)


class RealUIDCLI(LightningCLI):
    """LightningCLI with our defaults: a fixed run folder, atomic checkpoints, distances, pictures and progress."""

    def __init__(self, command: str, args: list[str] | None) -> None:
        self.command = command
        super().__init__(
            MatchingModule,
            MatchingDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfig,
            seed_everything_default=0,
            trainer_defaults={
                "default_root_dir": None,  # follows from the config
                "check_val_every_n_epoch": None,  # the stream of training data has no end
                "num_sanity_val_steps": 0,
            },
            auto_configure_optimizers=False,  # modules have optimizers of their own
            load_from_checkpoint_support=False,  # nor hyper-parameters beside the config
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the command that was asked for, alone: a parser for each takes as long to build."""
        return {self.command: super().subcommands()[self.command]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser with our error messages."""
        kwargs.setdefault("dump_header", [f"realuid-lightning, lightning.pytorch=={lightning.__version__}"])
        parser = Parser(allow_abbrev=False, **kwargs)  # a misspelt option may be the beginning of another one
        parser.add_argument(
            "-c", "--config", action="config", help="YAML config; repeat it to override field by field."
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give what measures options of its own, and each other callback of ours a group."""
        self.measuring = parser.add_class_arguments(MetricsCallback, None)
        parser.add_lightning_class_args(SampleGrid, "grid")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(PredictionWriter, "writer")
        if self.command in ("validate", "test"):
            parser.add_argument(
                "--seeds",
                type=PositiveInt,
                default=1,
                help="Measure with so many sets of latents: data.eval_seed and next.",
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the words, find the user's home folder in them, and fill in what they leave open.

        Raises:
            UserError: If Lightning would not take the seed, or a network lacks what its data do not tell.
        """
        with ours_first():
            super().parse_arguments(parser, args)
        self.config = at_home(self.config)
        fill(self.config[self.command])
        seed = self.config[self.command]["seed_everything"]
        seed = os.environ.get("PL_GLOBAL_SEED", "0") if seed is True else seed
        if seed is not False and not (str(seed).isdecimal() and int(seed) < 2**32):
            raise UserError(f"seed_everything: expected a seed in [0, {2**32 - 1}], got {seed}")

    def before_instantiate_classes(self) -> None:
        """Let all parts be built by a ``Builder``."""
        self.builder = self.make_builder()
        self.parser.add_instantiator(self.builder.build, object, subclasses=True)

    def make_builder(self) -> Builder:
        """Return what calls the constructors."""
        return Builder()

    def instantiate_classes(self) -> None:
        """Build everything.

        Raises:
            UserError: With the faults of all parts.
        """
        super().instantiate_classes()
        self.builder.finish()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer | None:  # type: ignore[override]
        """Build the trainer; None where that is refused, which is told with what is wrong with other parts."""
        return self.builder.faults.attempt(lambda: self.checked_trainer(**kwargs))

    def checked_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, and refuse what it would only fail on later.

        Raises:
            UserError: If its options are at fault.
        """
        config = self.config_init[self.command]["trainer"]
        for name in [name for name, value in vars(config).items() if lacks(value)]:
            config[name] = inspect.signature(Trainer).parameters[name].default
        faults = Faults("trainer")
        faults.extend(trainer_faults(config))
        faults.raise_any()
        try:
            trainer = super().instantiate_trainer(**{**self.trainer_options(config), **kwargs})
        except UserError:
            raise
        except MisconfigurationException as error:
            raise UserError(f"trainer: {error}") from error
        except Exception as error:  # Lightning tells of wrong options in many ways
            raise UserError(f"trainer: {in_one_line(error)}") from error
        check_main_address(trainer)
        return trainer

    def trainer_options(self, config: Any) -> dict[str, Any]:
        """Return what the trainer gets beside its config.

        Our callbacks, but for those that the config switches off, and TensorBoard, which writes into the run folder
        itself, unless the config names a logger.
        """
        options = self.config_init[self.command]
        measuring = {name: options[name] for name in self.measuring}
        callbacks = [
            *_listed(config["callbacks"]),
            self.builder.build(MetricsCallback, **measuring),
            *standing_callbacks(),
        ]
        if config["enable_checkpointing"] is False:
            options["checkpoint"] = RunLock()
        if config["enable_progress_bar"] is not False:
            callbacks.append(MatchingProgressBar())
        given: dict[str, Any] = {"callbacks": callbacks}
        if config["logger"] in (None, True):
            given["logger"] = TensorBoardLogger(
                config["default_root_dir"], name="", version="", default_hp_metric=False
            )
        return given

    def before_fit(self) -> None:
        """Take over the signals before other processes are launched and data are downloaded; find the checkpoint.

        Raises:
            UserError: If ``ckpt_path`` names none.
        """
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Preemption):
                callback.arm(self.trainer)
        options = self.config_init[self.command]
        options["ckpt_path"] = self.checkpoint(options["ckpt_path"])
        if self.command == "predict":
            options["return_predictions"] = False  # they go to files, not into memory

    before_validate = before_test = before_predict = before_fit

    def validate(self, **options: Any) -> None:
        """Measure with as many seeds as were asked for."""
        seeds = self.config_init[self.command]["seeds"]
        if seeds > 1:
            options["verbose"] = False  # a table for each seed
        measure_seeds(self.trainer, self.datamodule, seeds, partial(getattr(self.trainer, self.command), **options))

    test = validate

    def _parse_ckpt_path(self) -> None:
        """Do not read the checkpoint for hyper-parameters: ours has none beside the config, and is large."""

    def checkpoint(self, which: Any) -> str | None:
        """Return the path of a checkpoint that ``ckpt_path`` names; None for none.

        Raises:
            UserError: If it cannot be one, or there is none.
        """
        if which is not None and (which in ("", "hpc") or re.match(r"registry(:|$)|\w+://", which)):
            raise UserError(f"ckpt_path: expected last, best, resume or the path of a file, got {which or 'nothing'}")
        if which == "resume" and self.command != "fit":
            raise UserError(f"ckpt_path: resume is for fit, got it in {self.command}; say last, best or a file")
        if which in ("last", "best", "resume"):
            found = find_checkpoint(Path(self.trainer.default_root_dir), which)
            which = None if found is None else str(found)
        if self.command != "fit" and which is None:
            rank_zero_info(f"{self.command}: no --ckpt_path, so the weights are those that training would begin with")
        return None if which is None else str(which)


def _listed(value: Any) -> list[Any]:
    """Return a config's one value, list of values, or nothing as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def ignore_notices() -> None:
    """Silence what others say about themselves rather than about the run."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda row: "litlogger" not in row.getMessage()
    )
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    if "SLURM_JOB_ID" not in os.environ:  # good advice within a job only: on a login node, nothing is launched by srun
        warnings.filterwarnings("ignore", r"The `srun` command is available on your system but is not used")
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
