"""One training step and one batch of evaluation on tensors without memory: what they allocate and compute."""

import io
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn

from realuid_lightning.data import Batch, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.lightning_internals import FakeTensorMode, tree_leaves, tree_map_only
from realuid_lightning.modules import MatchingModule
from realuid_lightning.planning.ledger import GPUNorms, Ledger, weightless

LOSSES = {"fake_loss": "fake", "generator_loss": "generator", "matching_loss": "network"}
"""Methods of modules that begin a pass, and the networks that it trains."""


class NetworkSize(NamedTuple):
    """What one network takes on a device that holds all of it; weights that one before it holds too count there.

    Attributes:
        name: Attribute of the module, or the name of an average.
        parameters: Number of weights.
        weights: Bytes of weights and buffers.
        gradients: Bytes of their gradients; 0 for a frozen network.
        states: Bytes of what optimizers keep for them.
    """

    name: str
    parameters: int
    weights: int
    gradients: int
    states: int


class Pass(NamedTuple):
    """What it costs to call a loss, to go back from it and, where this ends an update, to make the update.

    Attributes:
        times: Such passes in one training step.
        samples: Samples in the loss.
        kept: Bytes that the forward pass leaves for the backward pass: activations, and the batch.
        forward: FLOPs of the forward pass; a multiplication and an addition are two.
        peak: Most bytes at any moment, beside weights, averages, optimizer states and gradients.
        flops: FLOPs of both passes.
        gradients: Bytes of the gradients that it makes.
    """

    times: int
    samples: int
    kept: int
    forward: int
    peak: int = 0
    flops: int = 0
    gradients: int = 0


class Rehearsal:
    """A trainer's first step on tensors that have shapes and types alone, on a CPU that is none.

    Operations are chosen as on the CPU: attention never holds the matrix of all pairs, as on GPUs with fused kernels.

    Args:
        module: Module without a trainer, on any device.
        data: Data that it would train on; nothing is read.
        trainer: Trainer whose precision and accumulation are taken.
        gpu: Whether to stand for a GPU, whose autocast keeps more in float32.

    Attributes:
        passes: Costs of a training step, by the name of the network that trains.
        networks: Sizes of all networks.

    Raises:
        UserError: If the module calls none of ``LOSSES``, or conditions are no class labels.
    """

    def __init__(self, module: MatchingModule, data: MatchingDataModule, trainer: Trainer, gpu: bool = False) -> None:
        if data.labels and data.num_classes is None:
            raise UserError(
                f"plan: expected conditions that are class labels, got a {type(data.source).__name__} without "
                "num_classes; conditions of other forms are known once data are read, which a plan does not do"
            )
        self._mode, self._ledger, self._gpu = FakeTensorMode(allow_non_fake_inputs=True), Ledger(), gpu
        self._data, self.module = data, weightless(module, self._mode)
        self._trainer = Trainer(
            accelerator="cpu",
            devices=1,
            plugins=[trainer.precision_plugin],
            max_steps=1,
            max_epochs=1,  # a module that steps optimizers of its own behind the trainer's back never gets to a step
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            limit_val_batches=1,
            callbacks=[Begun(self._ledger)],
            inference_mode=False,  # whose tensors no mode sees
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        self.passes: dict[str, Pass] = {}
        self._train()
        self.networks = list(self._sizes())

    def _run(self, call: Callable[..., Any], batch: Callable[[], Batch]) -> None:
        with warnings.catch_warnings(), self._mode, self._ledger, GPUNorms() if self._gpu else nullcontext():
            warnings.simplefilter("ignore")
            call(self.module, repeat(batch(), self._trainer.accumulate_grad_batches))

    def _train(self) -> None:
        """Make a training step whose losses begin a pass each; a pass like one that ended an update costs the same."""
        module, ledger, passes, current, before = self.module, self._ledger, self.passes, "", 0
        gradients: dict[Tensor, int] = {}  # that the pass has made so far: bytes, by weight
        known: dict[tuple[str, int], tuple[Pass, int, list[Tensor]]] = {}  # passes, by network and samples

        def begin(name: str, loss: Callable[[Any], Tensor], draws: Any) -> Tensor:
            nonlocal current, before
            end()
            times = passes[name].times + 1 if name in passes else 1
            if (name, draws.size) in known:
                made, before, weights = known[name, draws.size]
                more = ledger.live - before  # a few numbers that earlier updates leave
                current, passes[name] = "", made._replace(times=times, kept=made.kept + more, peak=made.peak + more)
                return _Known.apply(*weights)  # type: ignore[no-any-return]
            before = ledger.live
            value, current = loss(draws), name
            passes[name] = Pass(times, draws.size, ledger.live, ledger.flops)
            return value

        def end() -> None:
            peak, flops = ledger.take()
            if current:
                moved = sum(gradients.values())
                passes[current] = made = passes[current]._replace(peak=peak, flops=flops, gradients=moved)
                if gradients and all(weight.grad is None for weight in gradients):
                    known[current, made.samples] = made, before, list(gradients)
            gradients.clear()

        def accumulated(weight: Tensor) -> None:
            assert weight.grad is not None
            ledger.settle([weight.grad])
            gradients[weight] = weight.grad.nbytes

        ledger.settle([*module.parameters(), *module.buffers()])
        for method, name in LOSSES.items():
            if hasattr(module, method):
                setattr(module, method, partial(begin, name, getattr(module, method)))
        for weight in module.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(accumulated)  # type: ignore[no-untyped-call]
        self._run(self._trainer.fit, self._batch)
        end()
        if not passes:
            raise UserError(
                f"plan: expected a module whose training step calls one of {', '.join(LOSSES)}, got "
                f"{type(module).__name__}; derive yours from TeacherModule or RealUIDModule"
            )

    def _batch(self) -> Batch:
        """Return what lies on the device in a training step: micro-batches for all its updates."""
        rows = self._data.batch_size * getattr(self.module, "micro_batches", 1)
        x1, x0 = (torch.empty(rows, *self._data.shape) for _ in range(2))
        y = torch.zeros(rows, dtype=torch.int64)
        return Batch(x1=x1, x0=x0 if self._data.translates else None, y=y if self._data.labels else None)

    def evaluate(self) -> tuple[int, int, int]:
        """Run all samplers on one batch; a network is called once, and further calls are counted.

        Returns:
            Network calls, most bytes beside weights, averages and optimizer states, and FLOPs.
        """
        module, ledger, calls = self.module, self._ledger, 0

        def call(forward: Callable[..., Tensor], known: list[Any], *inputs: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if known:
                shape, dtype, flops = known
                ledger.flops += flops
                return torch.empty(shape, dtype=dtype)
            before = ledger.flops
            result = forward(*inputs)
            known += [result.shape, result.dtype, ledger.flops - before]
            return result

        networks = (module.architecture, *module.trained.values())
        kinds = {type(getattr(network, "network", network)) for network in networks}
        for part in module.modules():
            if type(part) in kinds:
                part.forward = partial(call, part.forward, [])
        ledger.take()
        self._run(partial(self._trainer.validate, verbose=False), self._latents)
        return calls, *ledger.take()

    def _latents(self) -> Batch:
        rows, data = self.module.eval_batch_size, self._data
        z, x0 = (torch.empty(rows, *data.shape) for _ in range(2))
        y, index = torch.zeros(rows, dtype=torch.int64), torch.arange(rows)
        return Batch(z=z, x0=x0 if data.translates else None, y=y if data.labels else None, index=index)

    # ------------------------------------------------------------------------------------------------------- sizes

    def _sizes(self) -> Iterable[NetworkSize]:
        states = {weight: kept for optimizer in self._trainer.optimizers for weight, kept in optimizer.state.items()}
        counted: dict[nn.Parameter, None] = {}
        for name, network in self.module.networks.items():
            weights = [weight for weight in network.parameters() if weight not in counted]
            counted |= dict.fromkeys(weights)
            trained = [weight for weight in weights if weight.requires_grad]
            parameters = sum(weight.numel() for weight in weights)
            kept = size_of([states.get(weight) for weight in trained])
            yield NetworkSize(name, parameters, size_of([*weights, *network.buffers()]), size_of(trained), kept)

    def checkpoint(self) -> int:
        """Return the bytes of a checkpoint: of its tensors, and of a real file with empty ones."""
        content = {
            "state_dict": dict(self.module.state_dict(keep_vars=True)),
            "optimizer_states": [optimizer.state_dict() for optimizer in self._trainer.optimizers],
            "lr_schedulers": [config.scheduler.state_dict() for config in self._trainer.lr_scheduler_configs],
        }
        file = io.BytesIO()
        torch.save(tree_map_only(Tensor, lambda tensor: torch.empty(0, dtype=tensor.dtype), content), file)
        return len(file.getbuffer()) + size_of(content)


class _Known(torch.autograd.Function):
    """A loss that costs nothing and gives these weights gradients."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> Tensor:
        """Return a loss without a value."""
        ctx.save_for_backward(*weights)
        return weights[0].new_empty(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        """Return gradients without values."""
        return tuple(torch.empty_like(weight) for weight in ctx.saved_tensors)


class Begun(Callback):
    """Has optimizers make what they keep before the first step, as earlier steps would have done."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def on_train_start(self, trainer: Trainer, _: Any) -> None:
        """Make one update of all weights."""
        for optimizer in trainer.optimizers:
            for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
                weight.grad = torch.empty_like(weight) if weight.requires_grad else None
            optimizer.step()
            optimizer.zero_grad()
            self.ledger.settle(tree_leaves(list(optimizer.state.values())))


def size_of(tree: Any) -> int:
    """Return the bytes of the tensors in lists and dicts, each counted once."""
    tensors = {id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
