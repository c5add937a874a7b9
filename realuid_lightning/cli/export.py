"""``realuid export``."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from realuid_lightning.checkpoints import (
    export_diffusers,
    export_generator,
    export_onnx,
    export_program,
    read_checkpoint,
    record_of,
)
from realuid_lightning.cli.card import Export, Licences, card_place, write_card
from realuid_lightning.cli.parsing import Clear, at_home
from realuid_lightning.errors import UserError
from realuid_lightning.paths import MatchingPath
from realuid_lightning.recorded import rebuild


class Format(NamedTuple):
    """A format: how names of its files end (not at all, if it is a folder), and what writes them."""

    suffix: str
    write: Callable[..., None]


FORMATS = {
    "safetensors": Format(".safetensors", export_generator),
    "torch": Format(".pt2", export_program),
    "onnx": Format(".onnx", export_onnx),
    "diffusers": Format("", export_diffusers),
}
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def export(words: Sequence[str]) -> None:
    """Write one set of generator weights of a checkpoint in one of the formats.

    Raises:
        UserError: If the checkpoint, the target or an option is at fault.
    """
    options = at_home(parser_of().parse_args(list(words)))
    target = Path(options.target)
    kind = options.format or _format_of(target)
    if options.card:
        card_place(target)
    if options.trust and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    dtype = DTYPES[options.dtype]
    FORMATS[kind].write(options.checkpoint, options.target, options.ema, dtype=dtype, trust=options.trust)
    print(f"{options.target}: written")
    if options.card:
        content = read_checkpoint(options.checkpoint, mmap=True)
        record, step = record_of(content, options.checkpoint), content.get("global_step")
        made = Export(
            *(Path(options.checkpoint), target, kind, options.ema, options.dtype),
            record=record,
            translates=rebuild(record["path"], MatchingPath, options.trust).translates,  # type: ignore[type-abstract]
            step=step if isinstance(step, int) else None,
        )
        print(f"{write_card(made, Licences(options.license, options.teacher_license))}: written")


def parser_of() -> Clear:
    """Return the parser of the command."""
    parser = Clear(prog="realuid export", description="Write a generator to a file that others open.")
    add = parser.add_argument
    add("checkpoint", type=str, help="checkpoint of a distillation")
    add("target", type=str, help="what to create; how its name ends says the format, unless --format does")
    add("--format", type=Literal[tuple(FORMATS)] | None, default=None, help=_formats())
    add("--dtype", type=Literal[tuple(DTYPES)], default="float32", help="type of the weights")
    add("--ema", type=float | None, default=None, help="decay of the average to export; raw when left out")
    add("--card", action="store_true", help="write a model card, README.md, beside it")
    add("--license", type=str, default="unknown", help="licence of the generator, for the card")
    add("--teacher_license", type=str, default="unknown", help="licence of its teacher, for the card")
    add(
        "--trust",
        type=str,
        action="append",
        default=[],
        metavar="NAME",
        help="module, package or class of yours, in the current folder or installed, that the file may import; repeat "
        "it for more",
    )
    return parser


def _formats() -> str:
    return ", ".join(f"{name} ({each.suffix or 'a folder'})" for name, each in FORMATS.items())


def _format_of(target: Path) -> str:
    found = [name for name, each in FORMATS.items() if each.suffix == target.suffix]
    if not found:
        raise UserError(f"{target}: expected a name that ends as a format does, {_formats()}; or name it by --format")
    return found[0]
