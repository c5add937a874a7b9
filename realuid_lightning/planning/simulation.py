"""Steps of a module on tensors without memory: what they allocate, and what they compute."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from realuid_lightning.data import Batch, Draws, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.modules import MatchingModule, RealUIDModule, TeacherModule
from realuid_lightning.networks import frozen_weights
from realuid_lightning.planning.sizes import refilled

Context = Callable[[], AbstractContextManager[Any]]
Inputs = tuple[Tensor | None, ...]


class Step(NamedTuple):
    """What one network update costs.

    Attributes:
        kept: Bytes that the forward pass leaves for the backward pass: activations, and the batch.
        peak: Most bytes at any moment, beside weights, averages, optimizer states and gradients: what is kept,
            and temporaries.
        forward: FLOPs of the forward pass; a multiplication and an addition are two.
        flops: FLOPs of both passes.
    """

    kept: int
    peak: int
    forward: int
    flops: int


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Books every storage that operations make, as long as it lives, and their FLOPs.

    FLOPs are those of torch's own ``FlopCounterMode`` (the same formulas), whose module hooks would keep tensors alive.

    Args:
        owned: Tensors that are there before, and are not counted.
    """

    def __init__(self, owned: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.flops = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in owned}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._book(leaf)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result

    def _book(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._strike, key, size).atexit = False

    def _strike(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


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


class Update(NamedTuple):
    """One kind of network update.

    Attributes:
        loss: Loss of a filled batch.
        network: What it moves.
        sample_t: Maps uniform draws to times; the path's own when None.
        frozen: What is frozen meanwhile.
    """

    loss: Callable[[Draws], Tensor]
    network: nn.Module
    sample_t: Callable[[Tensor], Tensor] | None = None
    frozen: nn.Module | None = None


def updates(module: MatchingModule) -> dict[str, Update]:
    """Return the kinds of updates that a module makes, by the name of the network that moves.

    Raises:
        UserError: If the module is of a kind unknown to us.
    """
    if isinstance(module, RealUIDModule):
        generator = Update(module.generator_loss, module.generator, module.path.generator_t, module.fake)
        return {"fake": Update(module.fake_loss, module.fake), "generator": generator}
    if isinstance(module, TeacherModule):
        return {"network": Update(module.matching_loss, module.network)}
    raise UserError(
        f"plan: expected a TeacherModule or a RealUIDModule, whose losses it can simulate, got "
        f"{type(module).__name__}; derive yours from one of them"
    )


class Simulation:
    """A module whose tensors have shapes and types alone, on a CPU that is none.

    Operations are chosen as on the CPU: attention never holds the matrix of all pairs, as on GPUs with fused kernels.

    Args:
        module: Module without a trainer, on any device.
        data: Data that it would train on; nothing is read.
        context: Makes the context of a forward pass, such as autocast.
        gpu: Whether to stand for a GPU.
    """

    def __init__(
        self, module: MatchingModule, data: MatchingDataModule, context: Context = nullcontext, gpu: bool = False
    ) -> None:
        self.data, self._context, self.gpu = data, context, gpu
        self.mode = FakeTensorMode()
        self.module = refilled(module, self._hollow)

    def _hollow(self, tensor: Tensor) -> Tensor:
        with self.mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Wrap a forward pass."""
        with self._context(), GPUNorms() if self.gpu else nullcontext():
            yield

    def step(self, kind: str, batch_size: int) -> Step:
        """Make one update with gradients of an earlier one in place, as in the midst of training.

        Args:
            kind: One of ``updates``.
            batch_size: Samples in the update.
        """
        module, update = self.module, updates(self.module)[kind]
        trained = [weight for weight in module.parameters() if weight.requires_grad]
        with self.mode, Ledger([*module.parameters(), *module.buffers()]) as ledger:
            for weight in trained:
                weight.grad = torch.empty_like(weight)
            before = ledger.live
            batch = self._batch(batch_size)
            frozen = nullcontext() if update.frozen is None else frozen_weights(update.frozen)
            with frozen:
                with self.context():
                    loss = update.loss(module.draw(batch.rows(slice(batch_size)), torch.Generator(), update.sample_t))
                    kept, forward = ledger.live - before, ledger.flops
                    if not module.automatic_optimization:  # then the module itself goes back, inside of the context
                        self._back(loss, update.network)
                if module.automatic_optimization:
                    self._back(loss, update.network)
            for weight in trained:
                weight.grad = None
        return Step(kept, ledger.peak - before, forward, ledger.flops)

    def _back(self, loss: Tensor, network: nn.Module) -> None:
        network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]

    def _batch(self, size: int) -> Batch:
        """Return what lies on the device in a training step: micro-batches for all its updates."""
        rows = size * getattr(self.module, "micro_batches", 1)
        samples = [torch.empty(rows, *self.data.shape) for _ in range(1 + self.data.translates)]
        y = torch.zeros(rows, dtype=torch.int64) if self.data.labels else None
        return Batch(x1=samples[0], x0=samples[1] if self.data.translates else None, y=y)

    def forward(self, rows: int, inputs: Inputs) -> tuple[int, int]:
        """Call the network once without a graph.

        Args:
            rows: Samples.
            inputs: Arguments of the network for one sample, as ``network_calls`` gives them.

        Returns:
            Peak bytes beside the weights, and FLOPs.
        """
        with self.mode, Ledger([*self.module.parameters(), *self.module.buffers()]) as ledger, torch.no_grad():
            filled = [None if part is None else torch.empty(rows, *part.shape[1:], dtype=part.dtype) for part in inputs]
            with self.context():
                self.module.architecture(*filled)
        return ledger.peak, ledger.flops


def network_calls(module: MatchingModule, data: MatchingDataModule) -> tuple[dict[str, int], Inputs]:
    """Return how often each evaluated sampler calls the network, and the arguments of a call, for one sample.

    The samplers run on a real sample, with networks that return zeros.
    """
    copied = refilled(module, lambda tensor: tensor)
    seen: list[Inputs] = []
    shape = data.shape

    def stand_in(t: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        seen.append((t, x, y))
        return x.new_zeros(len(x), *shape)

    for part in copied.modules():
        if type(part) is type(copied.architecture):
            part.forward = stand_in
    dtype = torch.float32 if not isinstance(module.dtype, torch.dtype) else module.dtype
    one = torch.zeros(1, *shape, dtype=dtype)
    y, index = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    batch = Batch(z=one, x0=one if data.translates else None, y=y if data.labels else None, index=index)
    calls = {}
    with torch.no_grad():
        for name, sampler in copied.evaluated().items():
            before = len(seen)
            sampler(batch)
            calls[name] = len(seen) - before
    return calls, seen[0]
