"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside ``target`` that takes its place when the block ends well.

    Until then, and after a kill at any moment, ``target`` is what it was before. Missing folders are made.

    Args:
        target: The file to create or replace.

    Yields:
        Where to write; the same suffix as ``target``.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(tensors: Mapping[str, Tensor], target: str | Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and text to a safetensors file, atomically.

    Args:
        tensors: Tensors by name.
        target: The file to create or replace.
        metadata: Texts by name, kept in the file's header.
    """
    with replacing(target) as file:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file, dict(metadata))
