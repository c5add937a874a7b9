"""The command ``realuid``."""

import errno
import gc
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from realuid_lightning import __version__
from realuid_lightning.errors import UserError, printable

USAGE = """\
realuid: distil a matching model into a one-step generator (RealUID, arXiv 2509.22459)

usage: realuid COMMAND --config FILE [--config FILE ...] [--KEY VALUE ...]

  init       copy a config to be edited, or list them
  plan       print memory, disk and work of a fit with the same words, without training
  fit        train a teacher, or distil one
  validate   generate from a checkpoint and measure; --seeds 5 gives standard errors
  test       the same, by the name that Lightning gives it
  predict    generate samples and write them to files
  sample     generate from a checkpoint or an export, and draw it
  import     make a teacher of ours from another project's file
  export     write a generator for others to open: safetensors, torch.export, ONNX, diffusers
  sweep      fit a grid of configs and seeds, and print a table of it
  report     show what runs have measured: tables here, curves and pictures in an HTML page
  gaussian   draw what the objective does between Gaussians, exact and trained
  classifier train a classifier whose features tell samples apart
  completion print a script by which bash completes these words

Later configs and options override earlier ones, field by field. To begin:

  realuid plan --config configs/demo/teacher.yaml
  realuid fit --config configs/demo/teacher.yaml
  realuid fit --config configs/demo/distil.yaml
  realuid predict --config configs/demo/distil.yaml --ckpt_path last --writer.folder samples

realuid COMMAND --help lists the options of a command, realuid --version tells the version.
"""

TRAINING = ("fit", "validate", "test", "predict")
COMMANDS = (
    *TRAINING,
    *("init", "plan", "sample", "import", "export", "sweep", "report", "gaussian", "classifier", "completion"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after ``realuid``; those of the process when None.

    Returns:
        The exit code: 0, 2 after a fault that the user can mend, which is printed without a traceback, or 130 after
        Ctrl-C. A signal that stops ``fit`` raises ``SystemExit`` with 128 plus its number.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if "--version" in words:
        print(f"realuid {__version__}")
        return 0
    try:
        if command not in COMMANDS:
            raise UserError(
                f"realuid: expected one of the commands {', '.join(COMMANDS)}, got {command!r}; see realuid --help"
            )
        if command in TRAINING:
            _imported("training").run(words)
        elif command == "import":  # which Python would not take for the name of a function
            _imported("importing").run(words[1:])
        else:
            getattr(_imported(command), command)(words[1:])
    except UserError as error:
        print(_plain(error), file=sys.stderr)
        return 2
    except SystemExit as stop:
        if stop.code:
            raise
        return 0  # after --help
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # The environment's fault: a folder that cannot be written to, a disk that is full.
        named = error.filename2 or error.filename  # where a file is put in place, its second name is the user's
        place = "" if named is None else f"{named}: "
        print(f"error: {place}{error.strerror}; check the path, permissions and disk space", file=sys.stderr)
        return 2
    return 0


def _imported(name: str) -> Any:
    """Import a module of this room on demand: torch and Lightning take seconds."""
    collecting = gc.isenabled()
    gc.disable()  # an import makes a million objects and no garbage: to look for it takes a quarter of the time
    heeds = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    heeds = heeds and threading.current_thread() is threading.main_thread()
    if heeds:
        signal.signal(signal.SIGINT, _leave)
    try:
        return import_module(f"{__name__}.{name}")
    finally:
        if heeds and signal.getsignal(signal.SIGINT) is _leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if collecting:
            gc.enable()


def _leave(number: int, frame: object) -> None:  # noqa: ARG001
    """End the process at Ctrl-C: some modules swallow an exception while they are imported, and nothing has begun."""
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)


def _plain(error: UserError) -> str:
    """Return the message alone, also of an error that a loader process passed on with its traceback."""
    lines = str(error).rpartition("UserError: ")[2].strip().splitlines()
    return "\n".join(f"error: {printable(line)}" for line in lines)
