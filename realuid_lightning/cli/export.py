"""``realuid export``."""

import os
import sys
from collections.abc import Sequence

from realuid_lightning.checkpoints import export_generator
from realuid_lightning.cli.parsing import Clear, at_home


def export(words: Sequence[str]) -> None:
    """Write one set of generator weights of a checkpoint to a safetensors file."""
    parser = Clear(prog="realuid export", description="Write a generator to a .safetensors file.")
    parser.add_argument("checkpoint", type=str, help="checkpoint of a distillation")
    parser.add_argument("target", type=str, help=".safetensors file to create")
    parser.add_argument(
        "--ema", type=float | None, default=None, help="decay of the average to export; raw when left out"
    )
    parser.add_argument(
        "--trust",
        type=str,
        action="append",
        default=[],
        metavar="NAME",
        help="module, package or class of yours, in the current folder or installed, that the file may import; repeat "
        "it for more",
    )
    options = at_home(parser.parse_args(list(words)))
    if options.trust and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    export_generator(options.checkpoint, options.target, options.ema, trust=options.trust)
    print(f"{options.target}: written")
