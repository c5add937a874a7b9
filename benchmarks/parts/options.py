"""What the programs are asked, and how they tell what they found."""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from parts.measure import apart
from parts.sizes import SIZES, Workload, size_of


def parser_of(doc: str | None, batch: str = "samples per update") -> argparse.ArgumentParser:
    """Return a parser of what most programs are asked: device, sizes, batch, file, and whether all is tiny."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="CUDA where there is a GPU")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["demo", "cifar"], help="demo and cifar")
    parser.add_argument("--batch", type=int, help=batch)
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--tiny", action="store_true", help="networks and batches for tests")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return what was asked, with a device."""
    options = parser.parse_args()
    options.device = options.device or ("cuda" if apart(torch.cuda.is_available) else "cpu")
    return options


def workload(name: str, options: argparse.Namespace) -> Workload:
    """Return the work of a size, as the size says unless ``options`` do."""
    size, kind = size_of(name, options.tiny), options.device
    batch, cycles = options.batch or size.batch[kind], getattr(options, "cycles", None) or size.cycles[kind]
    return Workload(name, options.tiny, kind, batch, size.warm_up[kind], cycles)


def write(told: Any, options: argparse.Namespace) -> None:
    """Write all figures, if there is a file for them."""
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


def device_name(kind: str) -> str:
    """Return what figures were measured on."""
    return torch.cuda.get_device_name() if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], width: int = 120) -> None:
    """Print a table whose first column holds names."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=width, soft_wrap=True).print(table)
