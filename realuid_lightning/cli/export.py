"""``realuid export``."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from realuid_lightning.checkpoints import export_generator


def export(words: Sequence[str]) -> None:
    """Write one set of generator weights of a checkpoint to a safetensors file."""
    parser = ArgumentParser(prog="realuid export", description="Write a generator to a .safetensors file.")
    parser.add_argument("checkpoint", type=str, help="checkpoint of a distillation")
    parser.add_argument("target", type=str, help=".safetensors file to create")
    parser.add_argument(
        "--ema", type=float | None, default=None, help="decay of the average to export; raw when left out"
    )
    options = parser.parse_args(list(words))
    export_generator(options.checkpoint, options.target, options.ema)
    print(f"{options.target}: written")
