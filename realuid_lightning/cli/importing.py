"""``realuid import``."""

from collections.abc import Sequence
from typing import Any

from realuid_lightning.cli.parsing import Clear, at_home
from realuid_lightning.errors import printable
from realuid_lightning.importing import KINDS, import_teacher

OPTIONS: dict[str, tuple[type, str]] = {
    "kind": (str, f"{', '.join(kind.name for kind in KINDS)}; for files that may be of several kinds"),
    "weights": (str, "name of the weights in the file; the only ones, or the only average, when left out"),
    "image_size": (int, "height and width of its images"),
    "num_head_channels": (int, "channels of an attention head of a UNet; 64 when left out"),
    "num_heads": (int, "attention heads of a transformer that is none of the published ones"),
    "num_classes": (int, "number of classes of a transformer; one less than its rows when left out"),
    "path_type": (str, "linear, gvp or vp: between noise and data; linear when left out"),
    "prediction": (str, "velocity or noise; velocity when left out"),
    "sigma_data": (float, "standard deviation of a DiT's data, which weighs losses; 0.5 when left out"),
}


def run(words: Sequence[str]) -> None:
    """Write a teacher of another project as one of ours, and tell what became of its weights."""
    parser = Clear(
        prog="realuid import",
        description="Make a teacher of ours from another project's file. Nothing of the file is executed. "
        f"It takes {'; '.join(kind.what for kind in KINDS)}.",
    )
    parser.add_argument("file", type=str, help="what the other project wrote")
    parser.add_argument("target", type=str, help=".safetensors file to create, for model.teacher_ckpt")
    for name, (kind, what) in OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind | None, default=None, help=what)
    given: dict[str, Any] = vars(at_home(parser.parse_args(list(words))))
    report = import_teacher(given["file"], given["target"], **{name: given[name] for name in OPTIONS})
    print("\n".join(map(printable, [*report.lines(), f"{given['target']}: written"])))
