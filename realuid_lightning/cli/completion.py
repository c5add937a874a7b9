"""``realuid completion``: a script by which bash completes the words of the command."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from realuid_lightning.cli import COMMANDS, TRAINING, export, init, sample
from realuid_lightning.cli.parsing import Clear
from realuid_lightning.cli.training import RealUIDCLI, ignore_notices
from realuid_lightning.data import MatchingDataModule
from realuid_lightning.lightning_internals import options_of
from realuid_lightning.modules import RealUIDModule, TeacherModule

PARSERS = {"export": export.parser_of, "init": init.parser_of, "sample": sample.parser_of}
"""Parsers of other commands than those of training; of those that are not here, the name alone is completed."""

FURTHER = {"validate": ["--seeds"], "test": ["--seeds"], "plan": ["--device_memory"]}
"""Options that other commands of training, and plan, have beside those of fit."""

CHOSEN = {"model": (RealUIDModule, TeacherModule), "data": (MatchingDataModule,)}
"""Options that name a class, and the classes whose arguments are then options, too."""

SCRIPT = """\
# Completes the words of realuid in bash; made by: realuid completion
_realuid() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o bashdefault -o default -F _realuid realuid  # where no word fits, files do
"""


def completion(words: Sequence[str]) -> None:
    """Print the script: for commands, their options, and the names of configs."""
    parser = Clear(prog="realuid completion", description="Print a script for bash.")
    parser.parse_args(list(words))
    print(script(all_options()), end="")


def all_options() -> dict[str, list[str]]:
    """Return the words that may follow each command."""
    ignore_notices()
    training = FitOptions().options
    options = {name: training + FURTHER.get(name, []) for name in (*TRAINING, "plan")}
    options |= {name: options_of(make()) for name, make in PARSERS.items()}
    return {**options, "init": [*options["init"], *init.names()]}


def script(options: Mapping[str, Iterable[str]]) -> str:
    """Return the script for these words of each command."""
    cases = [f'      {name}) words="{" ".join(words)}" ;;' for name, words in options.items()]
    return SCRIPT.format(commands=" ".join(COMMANDS), cases="\n".join(cases))


class _NotedError(Exception):
    """Leaves the set-up of a command line once its options are known."""


class FitOptions(RealUIDCLI):
    """The options of ``fit``; nothing is parsed or built.

    Attributes:
        options: Their names, with dashes.
    """

    def __init__(self) -> None:
        self.options: list[str] = []
        with suppress(_NotedError):
            super().__init__("fit", [])

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Keep the parser that is made last: that of the command."""
        self.made = super().init_parser(**kwargs)
        return self.made

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Note the options, and leave."""
        del parser, args
        self.options = options_of(self.made) + _of_classes()
        raise _NotedError


def _of_classes() -> list[str]:
    """Return the options that are arguments of the classes of this package."""
    return [
        f"--{option}.{name}"
        for option, classes in CHOSEN.items()
        for name in sorted({name for each in classes for name in inspect.signature(each).parameters})
    ]
