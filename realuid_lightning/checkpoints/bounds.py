"""What a small file may ask for: no network that is larger than its weights."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from realuid_lightning.errors import UserError


@contextmanager
def no_larger_than(weights: Mapping[str, Any], size: int | None = None) -> Iterator[None]:
    """Stop building a network that outgrows the weights which are to fill it.

    So a small file cannot ask for terabytes, nor for millions of layers. The bounds leave room for what constructors
    make in vain, and for weights of few bits; what tensors claim to hold, by strides of 0, does not count.

    Args:
        weights: The weights by name.
        size: How many bytes they are, where they have not been read; counted when None.

    Raises:
        UserError: Inside the block, from the constructor.
    """
    if size is None:
        storages = [value.untyped_storage() for value in weights.values() if is_dense(value)]
        size = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    most, largest = max(4 * len(weights), 1_000), max(2 * size, 1_000_000)
    builder, count, elements = threading.get_ident(), 0, 0

    def tally(_: nn.Module, __: str, weight: nn.Parameter) -> None:
        nonlocal count, elements
        if threading.get_ident() == builder and isinstance(weight, nn.Parameter) and not is_lazy(weight):
            count, elements = count + 1, elements + weight.numel()
            if count > most or elements > largest:
                raise UserError(f"its network outgrows the {len(weights)} weights of the file")

    hook = register_module_parameter_registration_hook(tally)
    try:
        yield
    finally:
        hook.remove()


def is_dense(value: Any) -> bool:
    """Say whether a value is a tensor that holds all its numbers."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not (value.is_meta or value.is_quantized)
