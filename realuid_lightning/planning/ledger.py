"""Tensors without memory: what operations on them would allocate and compute."""

import copy
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import flop_registry

from realuid_lightning.lightning_internals import (
    FakeTensorMode,
    TorchDispatchMode,
    keep_on_cpu,
    operator_of,
    reads_a_number,
    storage_key,
    tree_leaves,
)
from realuid_lightning.modules import MatchingModule


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Books every storage that operations make, as long as it lives, and their FLOPs.

    FLOPs are those of torch's own ``FlopCounterMode`` (the same formulas), whose module hooks would keep tensors alive.
    Where a value is read from a tensor, it is 1, or False, for there is none.

    Attributes:
        live: Bytes that are booked.
        peak: Most of them since the last ``take``.
        flops: FLOPs since then; a multiplication and an addition are two.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.flops = 0
        self._booked: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if reads_a_number(func):
            return args[0].dtype is not torch.bool and 1
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._book(leaf.untyped_storage())
        count = flop_registry.get(operator_of(func))
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result

    def _book(self, storage: torch.UntypedStorage) -> None:
        key = storage_key(storage)
        if key not in self._booked:
            self._booked[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._strike, key).atexit = False

    def _strike(self, key: int) -> None:
        self.live -= self._booked.pop(key, 0)

    def settle(self, tensors: Iterable[Any]) -> None:
        """Book these tensors no longer, for they are counted elsewhere; what is no tensor is passed over."""
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                key = storage_key(tensor.untyped_storage())
                self.live -= self._booked.get(key, 0)
                self._booked[key] = 0

    def take(self) -> tuple[int, int]:
        """Return peak and FLOPs since the last time."""
        taken = self.peak, self.flops
        self.peak, self.flops = self.live, 0
        return taken


_NORMS = (functional.group_norm, functional.layer_norm, torch.group_norm, torch.layer_norm)


class GPUNorms(TorchFunctionMode):
    """Has norms under autocast read and return float32, as autocast on GPUs does and that of the CPU does not."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func in _NORMS and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def weightless(module: MatchingModule, mode: FakeTensorMode) -> MatchingModule:
    """Return a copy of a module whose weights and buffers lie on the CPU and have no memory; shared ones stay shared.

    It reads no file, compiles, moves and logs nothing.

    Args:
        module: Module without a trainer, which would be copied along; on any device, also ``meta``.
        mode: Makes the tensors.
    """
    # What makes optimizers is not copied, for it may hold the whole command line.
    known: dict[int, Any] = {id(value): value for value in vars(module).values() if callable(value)}
    with mode:
        for tensor in (*module.parameters(), *module.buffers()):
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            is_weight = isinstance(tensor, nn.Parameter)
            known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
    copied: Any = copy.deepcopy(module, known)
    copied.teacher_ckpt = copied.generator_ckpt = None
    copied.compiled = False
    copied.log = copied.log_dict = lambda *_, **__: None
    keep_on_cpu(copied)
    return copied  # type: ignore[no-any-return]
