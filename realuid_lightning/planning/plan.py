"""The plan of a run: memory of each device, disk, work; and what to change where it does not fit."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy

from realuid_lightning.data import MatchingDataModule
from realuid_lightning.data.stream import share
from realuid_lightning.modules import MatchingModule, RealUIDModule
from realuid_lightning.planning.duration import training_steps, validation_count
from realuid_lightning.planning.simulation import Context, Inputs, Simulation, Step, network_calls, updates
from realuid_lightning.planning.sizes import NetworkSize, checkpoint_size, network_sizes, size_of
from realuid_lightning.running import RunCheckpoint


class Setting(NamedTuple):
    """What is planned.

    Attributes:
        module: Module without a trainer, on any device.
        data: Its data; nothing is read.
        trainer: Trainer that the config describes, on any devices.
        devices: Number of devices of all nodes.
        gpu: Whether these are GPUs, whose autocast keeps more in float32.
    """

    module: MatchingModule
    data: MatchingDataModule
    trainer: Trainer
    devices: int
    gpu: bool = False

    def simulation(self, context: Context | None = None) -> Simulation:
        """Return the module without memory, at the chosen precision or in another context."""
        return Simulation(self.module, self.data, context or self.trainer.precision_plugin.forward_context, self.gpu)

    @property
    def steps(self) -> int | None:
        """Training steps of the run; None if it has no known end."""
        return training_steps(self.trainer)

    @property
    def batch_size(self) -> int:
        """Samples per update and device."""
        return self.data.batch_size

    @property
    def updates_per_step(self) -> dict[str, int]:
        """Updates of each kind, or passes whose gradients are accumulated, in one training step."""
        fake_steps = getattr(self.module, "fake_steps", 1)
        accumulated = self.trainer.accumulate_grad_batches if self.module.automatic_optimization else 1
        return {kind: fake_steps if kind == "fake" else accumulated for kind in updates(self.module)}


class Evaluation(NamedTuple):
    """What validation costs, but for the feature extractor.

    Attributes:
        calls: Network calls for one sample, by sampler.
        samples: Samples that each sampler makes in one validation, on all devices, padding included.
        validations: Number of validations in the run; None if the run has no known end.
        peak: Bytes that one forward of ``eval_batch_size`` samples needs beside the weights.
        flops: FLOPs of one network call for one sample.
        inputs: Arguments of one network call for one sample.
    """

    calls: dict[str, int]
    samples: int
    validations: int | None
    peak: int
    flops: int
    inputs: Inputs

    @property
    def passes(self) -> int:
        """Network passes of one sample each in one validation."""
        return self.samples * sum(self.calls.values())


@dataclass
class Plan:
    """What a run will need; bytes are those of one device.

    Attributes:
        networks: Sizes, as if one device held all of each network.
        steps: Cost of each kind of update, by the name of the network that moves.
        gradients: Bytes of gradients, at most: networks that train in turn hold them in turn.
        buckets: Bytes of DDP's copies of gradients.
        shards: Devices that a network is divided among; 1 when every device holds all of it.
        checkpoint: Bytes of one checkpoint.
        files: Checkpoints that are kept at the end, and the one being written.
        writes: Checkpoints written over the run, at most; None if the run has no known end.
        evaluation: What validation costs; None if there is none.
    """

    networks: list[NetworkSize]
    steps: dict[str, Step]
    gradients: int
    buckets: int
    shards: int
    checkpoint: int
    files: int | None
    writes: int | None
    evaluation: Evaluation | None

    @property
    def lasting(self) -> int:
        """Bytes that are there all the time: weights, averages, gradients, optimizer states, buckets."""
        divided = self.gradients + sum(network.weights + network.states for network in self.networks)
        return -(-divided // self.shards) + self.buckets

    @property
    def peaks(self) -> dict[str, int]:
        """Most bytes beside the lasting ones, by what happens."""
        found = {f"{name} update": step.peak for name, step in self.steps.items()}
        return found if self.evaluation is None else {**found, "evaluation": self.evaluation.peak}

    @property
    def total(self) -> int:
        """Most bytes at any moment."""
        return self.lasting + max(self.peaks.values())


def make_plan(setting: Setting) -> Plan:
    """Work out the plan of a run; takes seconds, and the memory of a few numbers a weight."""
    module, trainer = setting.module, setting.trainer
    networks = network_sizes(module)
    simulation = setting.simulation()
    validations = validation_count(trainer)
    files, writes = _files(trainer, validations)
    return Plan(
        networks=networks,
        steps={kind: simulation.step(kind, setting.batch_size) for kind in updates(module)},
        gradients=_gradients(setting, networks),
        buckets=_buckets(trainer, sum(network.gradients for network in networks)),
        shards=setting.devices if isinstance(trainer.strategy, ModelParallelStrategy | FSDPStrategy) else 1,
        checkpoint=checkpoint_size(module),
        files=files,
        writes=writes,
        evaluation=None if validations == 0 else _evaluation(setting, simulation, validations),
    )


def _gradients(setting: Setting, networks: list[NetworkSize]) -> int:
    """Return the bytes of all gradients that are there at once."""
    sizes = [network.gradients for network in networks]
    in_turn = isinstance(setting.module, RealUIDModule) and not _views(setting.trainer)
    return max(sizes) if in_turn else sum(sizes)


def _buckets(trainer: Trainer, gradients: int) -> int:
    """Return the bytes that DDP copies gradients into, also with one process, unless gradients are views of them."""
    return gradients if isinstance(trainer.strategy, DDPStrategy) and not _views(trainer) else 0


def _views(trainer: Trainer) -> bool:
    """Return whether gradients lie in the buckets of a DDP, which last."""
    strategy = trainer.strategy
    return isinstance(strategy, DDPStrategy) and bool(strategy._ddp_kwargs.get("gradient_as_bucket_view"))


def _files(trainer: Trainer, validations: int | None) -> tuple[int | None, int | None]:
    callbacks = trainer.checkpoint_callbacks
    callback = next((one for one in callbacks if isinstance(one, RunCheckpoint)), None)
    if callback is None:
        return 0, 0
    best = callback.save_top_k
    if validations is None:
        return None if best == -1 else best + 2, None
    every = (training_steps(trainer) or 0) // callback.every if callback.every else 0
    files = (validations if best == -1 else min(best, validations)) + 2
    return files, validations * (1 + (best != 0)) + every + 1


def _evaluation(setting: Setting, simulation: Simulation, validations: int | None) -> Evaluation:
    data, module, limit = setting.data, setting.module, setting.trainer.limit_val_batches
    calls, inputs = network_calls(module, data)
    chunk = module.eval_batch_size
    samples = 0
    for device in range(setting.devices):
        batches = -(-len(share(data.eval_samples, device, setting.devices)) // chunk)
        samples += chunk * (min(limit, batches) if isinstance(limit, int) else math.floor(limit * batches))
    peak, flops = simulation.forward(chunk, inputs)
    return Evaluation(calls, samples, validations, peak, flops // chunk, inputs)


class Alternative(NamedTuple):
    """A change that makes a run smaller.

    Attributes:
        words: Options to add to the command.
        total: Most bytes on a device with it.
    """

    words: str
    total: int


def alternatives(setting: Setting, plan: Plan, limit: int) -> Iterator[Alternative]:
    """Yield what to change in a run that does not fit, each change measured like the plan itself.

    Args:
        setting: What is planned.
        plan: Its plan.
        limit: Bytes of a device.
    """
    module, evaluation = setting.module, plan.evaluation
    worst = max(plan.steps, key=lambda kind: plan.steps[kind].peak)
    peak = plan.steps[worst].peak

    def with_peak(step: int) -> int:
        return plan.lasting + max(step, evaluation.peak if evaluation else 0)

    least = module.sampling_steps if isinstance(module, RealUIDModule) else 1
    small = max(min(setting.batch_size // 4, 8), least)
    if small < setting.batch_size:
        # Bytes are a straight line in the batch size: two points tell it.
        low = setting.simulation().step(worst, small).peak
        slope = (peak - low) / (setting.batch_size - small)
        fitting = small + math.floor((limit - plan.lasting - low) / slope) if slope > 0 else 0
        if small <= fitting < setting.batch_size:
            yield Alternative(f"--data.batch_size={fitting}", with_peak(math.floor(low + slope * (fitting - small))))
    if evaluation is not None and evaluation.peak > peak:
        chunk = module.eval_batch_size
        fitting = chunk * (limit - plan.lasting) // max(evaluation.peak, 1)
        if 0 < fitting < chunk:
            rest = plan.lasting + max(peak, evaluation.peak * fitting // chunk)
            yield Alternative(f"--model.eval_batch_size={fitting}", rest)

    def half() -> Any:
        return torch.autocast("cpu", torch.bfloat16)

    single = setting.trainer.precision == "32-true"
    ways: list[str | bool] = [False, "cheap", True] if _not_recomputing(module) else [False]
    contexts: list[Context | None] = [None, half] if single else [None]
    for way, context in product(ways, contexts):
        if way is False and context is None:  # the config as it is
            continue
        words = [f"--model.network.checkpoint={str(way).lower()}"] if way else []
        words += ["--trainer.precision=bf16-mixed"] if context else []
        simulation = setting.simulation(context)
        for part in _not_recomputing(simulation.module):
            part.checkpoint = way
        sampling = simulation.forward(module.eval_batch_size, evaluation.inputs)[0] if evaluation is not None else 0
        step = simulation.step(worst, setting.batch_size).peak
        yield Alternative(" ".join(words), plan.lasting + max(step, sampling))
    decays = module.ema_decays
    if len(decays) > 1:
        spared = size_of([*module.ema.parameters(), *module.ema.buffers()]) * (len(decays) - 1) // len(decays)
        yield Alternative(f"--model.ema=[{decays[0]}]", plan.total - spared // plan.shards)


def _not_recomputing(module: MatchingModule) -> list[Any]:
    """Return the networks that could recompute activations, but do not."""
    return [part for part in module.modules() if getattr(part, "checkpoint", None) is False]
