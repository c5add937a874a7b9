"""What our libraries must go on doing beyond their public names, and that we rely on no more of it than is listed."""

import ast
import copy
import importlib
import inspect
import re
import signal
import sys
import types
from contextlib import suppress
from functools import cache
from pathlib import Path

import helpers
import pytest
import torch
from helpers import Counting
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from realuid_lightning import lightning_internals as internals

PACKAGE = Path(internals.__file__).parent

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers", "ignore:You're resuming from a checkpoint that ended"
)


def batches(count=4):
    return DataLoader(torch.ones(count))


@pytest.fixture
def one_process(tmp_path):
    """A process group of one."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", world_size=1, rank=0)
    yield
    distributed.destroy_process_group()


class Hooked(Callback):
    """Calls a function at the end of every training batch, and keeps what it returns."""

    def __init__(self, ask):
        self.ask, self.answers = ask, []

    def on_train_batch_end(self, trainer, *_):
        self.answers.append(self.ask(trainer))


# ---------------------------------------------------------------------------------------------------- Lightning: runs


def test_a_module_has_a_trainer_in_a_run_alone(tmp_path):
    module = Counting()
    assert internals.trainer_of(module) is None
    trainer = helpers.fit(module, batches(), tmp_path)
    assert internals.trainer_of(module) is trainer


def test_the_cluster_is_known_on_a_single_device(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    environment = SLURMEnvironment(auto_requeue=False)
    assert internals.cluster_environment(Trainer(accelerator="cpu", devices=1, plugins=[environment])) is environment


class Signalled(Callback):
    """Notes who handles SIGTERM, and whether all processes are asked for it before a step, as if there were two."""

    def __init__(self):
        self.handler, self.asked = None, False

    def on_train_start(self, trainer, _):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(Trainer, "world_size", 2)
        self.patch.setattr(distributed, "is_initialized", lambda: True)
        self.patch.setattr(distributed, "broadcast", self.ask)

    def ask(self, *_, **__):
        self.asked = True

    def on_train_batch_start(self, *_):
        self.patch.undo()
        self.handler = signal.getsignal(signal.SIGTERM)


def test_lightning_handles_signals_unless_it_leaves_them_alone(tmp_path):
    default, own, left = signal.getsignal(signal.SIGTERM), Signalled(), Signalled()
    helpers.fit(Counting(), batches(), tmp_path, steps=1, callbacks=[own])
    trainer = helpers.trainer(tmp_path, max_steps=1, limit_val_batches=0, callbacks=[left])
    internals.leave_signals_alone(trainer)
    trainer.fit(Counting(), batches())
    assert own.asked
    assert own.handler != default
    assert not left.asked
    assert left.handler == default


def test_gradients_accumulate_up_to_an_update_or_the_end_of_an_epoch(tmp_path):
    asked = Hooked(internals.accumulates)
    helpers.fit(Counting(), batches(3), tmp_path, accumulate_grad_batches=2, callbacks=[asked])
    assert asked.answers == [True, False, False]


class Validated(Counting):
    """Notes the steps at which it is validated."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def val_dataloader(self):
        return batches(1)

    def validation_step(self, batch, batch_idx):
        self.steps.append(self.global_step)
        self.log("loss", -self.weight)


class Due(Callback):
    def on_train_start(self, trainer, _):
        internals.make_due_validation(trainer)


@pytest.mark.parametrize("made", [False, True])
def test_a_validation_that_was_due_is_made(tmp_path, made):
    """Without the function Lightning passes over it."""
    options = {"limit_val_batches": 1, "val_check_interval": 2}
    save = Hooked(lambda trainer: trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt"))
    helpers.fit(Validated(), batches(), tmp_path, callbacks=[save], **options)
    module = Validated()
    ckpt = tmp_path / "2.ckpt"
    helpers.fit(module, batches(), tmp_path, 4, ckpt, callbacks=[Due()] if made else [], **options)
    assert module.steps == ([2, 4] if made else [4])


@pytest.mark.parametrize(("monitor", "files"), [("loss", ["step=3.ckpt"]), ("other", [])])
def test_only_what_is_among_the_best_is_saved(tmp_path, monitor, files):
    class Best(ModelCheckpoint):
        def on_validation_end(self, trainer, pl_module):
            self.names = internals.save_if_best(self, trainer)

    best = Best(tmp_path, "{step}", monitor=monitor, save_on_train_epoch_end=False)
    helpers.fit(Validated(), batches(), tmp_path, 3, callbacks=[best], limit_val_batches=1, val_check_interval=1)
    assert best.names == ["epoch", "loss", "step"]
    assert [file.name for file in tmp_path.glob("*.ckpt")] == files


# ---------------------------------------------------------------------------------------------- Lightning: strategies


def test_the_options_of_ddp_are_known():
    strategy = DDPStrategy(find_unused_parameters=True, process_group_backend="gloo")
    assert internals.ddp_options(strategy) == {"find_unused_parameters": True}


def test_data_are_divided_as_if_the_strategy_had_been_made_so():
    late, early = ModelParallelStrategy(), ModelParallelStrategy(data_parallel_size=3)
    internals.divide_among(late, 3)
    set_late, set_early = (
        {name: value for name, value in vars(each).items() if isinstance(value, int | str)} for each in (late, early)
    )
    assert set_late == set_early
    assert 3 in set_early.values()


# ------------------------------------------------------------------------------------------------------- jsonargparse


class Base:
    def __init__(self, size: int, width: int = 3):
        self.size, self.width = size, width


class First(Base):
    pass


Other = type("First", (Base,), {"__module__": "other"})


def test_arguments_that_a_class_requires_may_be_left_open():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Base, "base")
    with pytest.raises(ArgumentError, match=r"base\.size"):
        parser.parse_args([])
    internals.make_optional(parser, ("base.size", "base.width"))
    assert parser.parse_args([]).base == Namespace(size=None, width=None)
    assert parser.parse_args(["--base.size=2"]).base.size == 2


def test_the_options_of_a_parser_are_known():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("-c", "--config", action="config")
    parser.add_argument("place")
    parser.add_class_arguments(Base, "base")
    found = internals.options_of(parser)
    assert {"--config", "--help", "--base.size", "--base.width"} <= set(found)
    assert not [word for word in found if not word.startswith("--") or "place" in word]


def test_a_short_name_of_several_classes_means_the_preferred_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "other", types.SimpleNamespace(First=Other, __name__="other"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--base", type=Base)
    words = ["--base=First", "--base.size=1"]
    for home in (__name__, "other"):
        with internals.preferred_classes(lambda path, home=home: path.startswith(home)):
            assert parser.parse_args(words).base.class_path == f"{home}.First"
    with pytest.raises(ArgumentError):  # else jsonargparse itself chooses by now
        parser.parse_args(words)


def test_short_names_of_what_is_imported_meanwhile_are_known(tmp_path, monkeypatch):
    """Classes named in full, which imports their modules, each before one that comes with it, by its short name."""
    monkeypatch.syspath_prepend(tmp_path)
    parser, words = ArgumentParser(exit_on_error=False), []
    for index, name in enumerate(("Early", "Late", "Later")):
        code = f"from {__name__} import Base\nclass {name}(Base): pass\nclass {name}Too(Base): pass\n"
        (tmp_path / f"with_{name}.py").write_text(code)
        for option, value in ((f"--full{index}", f"with_{name}.{name}"), (f"--short{index}", f"{name}Too")):
            parser.add_argument(option, type=Base)
            words += [f"{option}={value}", f"{option}.size=1"]
    with internals.preferred_classes(lambda path: False):
        found = parser.parse_args(words)
    assert [found.short0.class_path, found.short2.class_path] == ["with_Early.EarlyToo", "with_Later.LaterToo"]


# ------------------------------------------------------------------------------------------------------- torchmetrics


def test_a_metric_without_samples_computes_without_a_warning():
    metric = MeanMetric()
    internals.without_warning(metric)
    assert metric.compute() == 0 or metric.compute().isnan()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        MeanMetric().compute()


# -------------------------------------------------------------------------------------------------------------- torch


@pytest.mark.usefixtures("one_process")
def test_processes_leave_messages_where_they_met():
    internals.meeting_store().set("key", "message")
    assert internals.meeting_store().clone().get("key") == b"message"


class Backwards(nn.Module):
    """Calls its parts in the reverse of the order in which they are registered."""

    def __init__(self):
        super().__init__()
        self.last, self.middle, self.first = (nn.Linear(512, 512) for _ in range(3))

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


def sent(kind, **options):
    """Return the names of the weights in each message of the first and the second backward pass."""
    network, messages = Backwards(), []
    names = {id(weight): name for name, weight in network.named_parameters()}
    wrapper = kind(module=network, bucket_cap_mb=1.5, **options)

    def note(_, bucket):
        messages[-1].append([names[id(weight)] for weight in bucket.parameters()])
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    wrapper.register_comm_hook(None, note)
    for _ in range(2):
        messages.append([])
        wrapper(torch.ones(1, 512)).sum().backward()
    return messages


@pytest.mark.usefixtures("one_process")
def test_gradients_are_sent_in_one_order_from_the_first_pass_on():
    first, second = sent(internals.OrderedDDP)
    assert first == second
    assert first[0][0] == "first.bias"  # the last weight
    first, second = sent(DistributedDataParallel)
    assert first != second  # else DDP itself does so by now


def test_calls_take_another_route_that_hooks_and_compiling_stay_inside_of():
    network, seen, graphs = nn.Linear(2, 2), [], []
    network.register_forward_hook(lambda *_: seen.append("hook"))
    network.compile(backend=lambda graph, _: graphs.append(graph) or graph.forward)

    def route(direct, x):
        seen.append("before")
        made = direct(x)
        seen.append("after")
        return made

    x = torch.ones(1, 2)
    expected = torch.nn.functional.linear(x, network.weight, network.bias)
    with internals.rerouted(network, route):
        assert torch.equal(network(x), expected)
        assert seen == ["before", "hook", "after"]
        assert graphs
        copied = copy.deepcopy(network)
        seen.clear()
        copied(x)
        assert "before" not in seen
    seen.clear()
    network(x)
    assert seen == ["hook"]


@torch._dynamo.config.patch(recompile_limit=2)
def test_as_many_variants_are_compiled_as_are_allowed():
    internals.allow_recompilations(12)
    internals.allow_recompilations(3)  # which takes nothing back
    graphs = []

    @torch.compile(backend=lambda graph, _: graphs.append(graph) or graph.forward)
    def variant(x, which):
        return x + len(which)

    for count in range(12):
        variant(torch.ones(()), "a" * count)
    assert len(graphs) == 12


def test_storages_without_memory_are_told_apart():
    with internals.FakeTensorMode():
        one, other = torch.empty(4), torch.empty(4)
    keys = [internals.storage_key(tensor.untyped_storage()) for tensor in (one, one.view(2, 2), other)]
    assert keys[0] == keys[1] != keys[2]


def test_operators_and_the_reading_of_numbers_are_known():
    class Noting(internals.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append((internals.operator_of(func), internals.reads_a_number(func)))
            return func(*args, **(kwargs or {}))

    seen = []
    with Noting():
        (torch.ones(1, 2) @ torch.ones(2, 1)).item()
    assert (torch.ops.aten.mm, False) in seen
    assert [reads for _, reads in seen].count(True) == 1
    assert seen[-1][1]


def test_a_module_without_memory_stays_on_the_cpu():
    module = Counting().to("meta")
    internals.keep_on_cpu(module)
    assert module.device == torch.device("cpu")
    weight = module.weight
    assert module.to("cpu") is module  # which would fail
    assert module.double().half().weight is weight
    assert module.device == torch.device("cpu")


# ---------------------------------------------------------------------------------------------- who asks for it where

PUBLIC = {"_replace", "_asdict", "_exit"}  # of named tuples and os, in spite of their names

OVERRIDDEN = {
    ("cli/training.py", "_parse_ckpt_path"),  # else the whole checkpoint is read, for what ours does not have
    ("running/checkpoint.py", "_find_last_checkpoints"),  # among which ckpt_path="last" takes the newest
    ("running/checkpoint.py", "_save_checkpoint"),  # by which all checkpoints are written, whoever asks for them
    ("running/progress.py", "_get_train_description"),
    ("running/progress.py", "_update_metrics"),  # which reads from the device
}
"""Protected methods of Lightning's that our classes override, in the places where those classes are."""


def private(name):
    return name.startswith("_") and not name.endswith("__")


def defined(tree):
    """Names that a file gives to functions, classes and attributes."""
    nodes = list(ast.walk(tree))
    yield from (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef))
    yield from (node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    yield from (node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))


@cache
def of_others(kind):
    """Private names of a class of others, written in its body or given to its objects there."""
    if kind.__module__.partition(".")[0] not in ("lightning", "torch", "torchmetrics", "jsonargparse"):
        return set()
    with suppress(OSError):  # of those that are written in C
        return set(filter(private, [*vars(kind), *re.findall(r"self\.(_\w+)", inspect.getsource(kind))]))
    return set(filter(private, vars(kind)))


def inherited(module):
    """Private names of the classes of others that a module's classes derive from."""
    kinds = [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == module.__name__]
    return {name for kind in kinds for base in kind.__mro__ for name in of_others(base)}


def touches(file):
    """Private names of others that a file of the package uses."""
    tree = ast.parse(file.read_text())
    module = ".".join(["realuid_lightning", *file.relative_to(PACKAGE).with_suffix("").parts])
    theirs, ours = inherited(importlib.import_module(module.removesuffix(".__init__"))), set(defined(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in PUBLIC:
            itself = ast.unparse(node.value) in ("self", "cls", "super()")
            stored = isinstance(node.ctx, ast.Store) and not itself
            if node.attr in theirs or stored or not (itself or node.attr in ours):
                yield node.attr
        elif isinstance(node, ast.FunctionDef) and node.name in theirs:
            yield node.name
        elif isinstance(node, ast.ImportFrom) and not node.module.startswith("realuid_lightning"):
            yield from filter(private, [*node.module.split("."), *(alias.name for alias in node.names)])
        elif isinstance(node, ast.Import):
            yield from filter(private, ".".join(alias.name for alias in node.names).split("."))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            yield from (each.value for each in node.args[1:2] if isinstance(each, ast.Constant) and private(each.value))


def test_private_names_of_others_are_used_in_one_place_alone():
    files = [file for file in PACKAGE.rglob("*.py") if file != Path(internals.__file__)]
    found = {(file.relative_to(PACKAGE).as_posix(), name) for file in files for name in touches(file)}
    assert sorted(found) == sorted(OVERRIDDEN)


def test_workers_of_an_iterator_are_ended():
    held = iter(DataLoader(torch.zeros(4), num_workers=1, persistent_workers=True))
    next(held)
    (worker,) = internals.workers_of(held)
    internals.end_workers(held)
    assert not worker.is_alive()
