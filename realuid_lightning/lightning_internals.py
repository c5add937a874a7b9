"""What the package relies on in its libraries (Lightning, jsonargparse, torch, torchmetrics) beyond their public names.

Everything of that kind is here, a named function each, which says what it needs and why no public name gives it;
``tests/unit/test_lightning_internals.py`` fails when a new version has changed that, and lists the protected methods
that our classes override in their own places. This module is a foundation, and imports nothing of ours: networks,
modules and strategies need it as well as ``running``. Only the functions that need Lightning import it, so that
networks alone do without.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import torch
from torch import nn

# Torch documents these four, under private places alone.
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
from torch.distributed import distributed_c10d
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map_only as tree_map_only

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser
    from lightning import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
    from torchmetrics import Metric

P = ParamSpec("P")

# ------------------------------------------------------------------------------------------------------ Lightning: runs


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return a module's trainer, None outside of runs.

    Relies on ``LightningModule.trainer`` raising ``RuntimeError`` then; no public name asks without raising.
    """
    try:
        return module.trainer
    except RuntimeError:
        return None


def cluster_environment(trainer: Trainer) -> Any:
    """Return the ``ClusterEnvironment`` of a run, such as SLURM's; None without one.

    Relies on the accelerator connector. The strategy has the environment, too, but not that of a single device, which
    may be a job of SLURM as well.
    """
    return trainer._accelerator_connector.cluster_environment


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep a trainer from handling signals, and from asking all processes for SIGTERM at every step.

    Relies on the trainer calling ``register_signal_handlers`` of its signal connector, and its training loop
    ``_broadcast_sigterm_tensor``. No option switches them off, and handlers that save within a step, or processes that
    leave in the midst of one, let the others wait for ever.
    """
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]


def _nothing() -> None:
    """Stand in for a method that is not wanted."""


def accumulates(trainer: Trainer) -> bool:
    """Tell whether the gradients of the last batch wait for those of further ones before the optimizer's step.

    Relies on the training loop's own verdict, which knows the ends of epochs; the trainer tells but the number of
    batches to accumulate.
    """
    return trainer.fit_loop._should_accumulate()


def make_due_validation(trainer: Trainer) -> None:
    """Let a run that resumes from the end of a step make the validation that was due there; called as training starts.

    Lightning takes a state that was saved at the end of a step for one whose validation is done, and passes over it.
    Relies on the loops' restart stages: they are told that the run was stopped in the validation. No option says so.
    """
    from lightning.pytorch.loops import evaluation_loop, training_epoch_loop

    fit = trainer.fit_loop
    loop, data = fit.epoch_loop, fit._data_fetcher
    ended = loop.restarted_on_train_batch_end and not loop.batch_progress.is_last_batch
    if ended and data is not None and loop._should_check_val_fx(data):
        loop.batch_progress.increment_completed()
        loop._restart_stage = training_epoch_loop.RestartStage.RESTARTED_ON_LAST
        loop.val_loop._restart_stage = evaluation_loop.RestartStage.RESTARTED_MID_EVALUATION
        loop.val_loop.restarting = False  # from its first batch


def save_if_best(callback: ModelCheckpoint, trainer: Trainer) -> list[str]:
    """Save a checkpoint if its metric is among the best ones; return the names of the metrics that there are.

    Nothing is saved where the callback's ``monitor`` is not one of them. Relies on the two methods that
    ``ModelCheckpoint`` itself calls after a validation; its hook would save by its own rules besides.
    """
    metrics = callback._monitor_candidates(trainer)
    if callback.monitor is None or callback.monitor in metrics:
        callback._save_topk_checkpoint(trainer, metrics)
    return sorted(metrics)


# ------------------------------------------------------------------------------------------------ Lightning: strategies


def ddp_options(strategy: DDPStrategy) -> dict[str, Any]:
    """Return the arguments that a strategy hands to ``DistributedDataParallel``; it keeps them under a private name."""
    return strategy._ddp_kwargs


def divide_among(strategy: ModelParallelStrategy, processes: int) -> None:
    """Let a strategy divide data, and so networks, among so many processes; before it makes its device mesh.

    Relies on where it keeps its argument ``data_parallel_size``, whose ``auto`` stands for the number of nodes: that of
    processes is not known when the strategy is made.
    """
    strategy._data_parallel_size = processes


# --------------------------------------------------------------------------------------------------------- jsonargparse


def make_optional(parser: ArgumentParser, names: Container[str]) -> None:
    """Let some arguments of a parser be None unless they are given.

    Relies on the list of a parser's actions. ``set_defaults`` changes defaults, but an argument without one in its
    class's signature stays required.
    """
    for action in parser._actions:
        if action.dest in names:
            action.required, action.default = False, None


def options_of(parser: ArgumentParser) -> list[str]:
    """Return the long options of a parser, in the order of the alphabet.

    Relies on the list of a parser's actions. Defaults are public, but lack the options that are no values, such as
    ``--config`` and ``--help``.
    """
    return sorted(word for action in parser._actions for word in action.option_strings if word.startswith("--"))


@contextmanager
def preferred_classes(prefers: Callable[[str], bool]) -> Iterator[None]:
    """Let a short name that several classes bear mean the one whose path is preferred.

    Relies on the function by which jsonargparse lists the paths of all subclasses, where it parses a class's name. It
    would ask for the full path, and has no setting for it.
    """
    from jsonargparse import _typehints

    listed = _typehints.get_all_subclass_paths

    @functools.cache  # parsing asks for the same list again and again; imports may bring more
    def chosen(_modules: int, *args: Any, **kwargs: Any) -> list[str]:
        paths = listed(*args, **kwargs)
        names = {path.rpartition(".")[2] for path in filter(prefers, paths)}
        return [path for path in paths if prefers(path) or path.rpartition(".")[2] not in names]

    def preferred(*args: Any, **kwargs: Any) -> list[str]:
        return chosen(len(sys.modules), *args, **kwargs)

    _typehints.get_all_subclass_paths = preferred
    try:
        yield
    finally:
        _typehints.get_all_subclass_paths = listed


# --------------------------------------------------------------------------------------------------------- torchmetrics


def without_warning(metric: Metric) -> None:
    """Let a metric compute, without a warning, on a process that has seen no samples.

    Relies on the count of updates, by which torchmetrics warns: the samples of the other processes come only then.
    """
    metric._update_count = 1


# ---------------------------------------------------------------------------------------------------------------- torch


def meeting_store() -> distributed_c10d.Store:
    """Return the key-value store where the processes have met, which answers while collectives wait.

    Torch gives no public name to it; another one would need a further port that all can reach.
    """
    return distributed_c10d._get_default_store()


class OrderedDDP(DistributedDataParallel):
    """DDP that sends gradients in the same order from the first backward pass on: last weights first.

    DDP itself arranges them anew after the first backward pass. From three processes on, sums round otherwise then, so
    a resumed run, whose first pass comes later, would not be the uninterrupted one bit for bit. Relies on the order in
    which its reducer is given the weights, and on the two calls by which it arranges them; no option fixes the order.

    Args:
        kwargs: Arguments of ``DistributedDataParallel``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reducer._push_all_rebuilt_params()  # as if they had arrived so; nothing with find_unused_parameters
        self.reducer._rebuild_buckets()

    def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
        weights, sparse = super()._build_params_for_reducer()  # type: ignore[no-untyped-call]
        if self.find_unused_parameters:  # which never arranges anew, and turns them round by itself
            return weights, sparse
        return weights[::-1], sparse[::-1]


@contextmanager
def rerouted(network: nn.Module, route: Callable[Concatenate[Callable[..., Any], P], Any]) -> Iterator[None]:
    """Send the calls of a network through ``route(direct, *args, **kwargs)``, where ``direct`` makes the call itself.

    Relies on the place of a compiled call, the one place before forward hooks and ``module.compile()``: both stay
    inside of ``direct``, and neither copies of the network nor pickles take the detour along, as they would a new
    ``forward``.
    """
    before = network._compiled_call_impl
    direct = before or network._call_impl

    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        return route(direct, *args, **kwargs)

    network._compiled_call_impl = call
    try:
        yield
    finally:
        network._compiled_call_impl = before


def allow_recompilations(count: int) -> None:
    """Let ``torch.compile`` make at least so many variants of one piece of code; past the limit it runs uncompiled.

    ``torch.compiler.config`` gives a public name to this limit from torch 2.7 on; the package allows 2.6.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, count)


# ------------------------------------------------------------------------------------------- torch: without memory


def storage_key(storage: torch.UntypedStorage) -> int:
    """Return what tells a living storage from all others; the address of data is 0 for those without memory."""
    return int(storage._cdata)


def operator_of(func: Any) -> Any:
    """Return the operator of an overload that a ``TorchDispatchMode`` is handed, as torch's counter of FLOPs does."""
    return func._overloadpacket


def reads_a_number(func: Any) -> bool:
    """Tell whether such an overload reads a number from a tensor, as ``item()`` and ``bool()`` do, which have none."""
    return func is torch.ops.aten._local_scalar_dense.default


def workers_of(iterator: Iterator[Any]) -> list[BaseProcess]:
    """Return the processes of a loader's iterator."""
    workers: list[BaseProcess] = iterator._workers  # type: ignore[attr-defined]
    return workers


def end_workers(iterator: Iterator[Any]) -> None:
    """End the processes of a loader's iterator, as torch does at exit where batches are pinned."""
    iterator._shutdown_workers()  # type: ignore[attr-defined]


def keep_on_cpu(module: LightningModule) -> None:
    """Let a module on tensors without memory take itself for one on the CPU, and stay there and as it is.

    Relies on where a module keeps its device, and on the one method by which ``to``, ``cpu`` and the like change it:
    tensors without memory, made by a mode, do not survive a trainer that moves them.
    """
    module._device = torch.device("cpu")
    module._apply = lambda *_, **__: module  # type: ignore[method-assign]
