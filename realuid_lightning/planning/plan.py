"""The plan of a run: memory of each device, disk, work."""

import math
from typing import NamedTuple

from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy

from realuid_lightning.data import MatchingDataModule
from realuid_lightning.data.stream import share
from realuid_lightning.lightning_internals import ddp_options
from realuid_lightning.modules import MatchingModule
from realuid_lightning.planning.duration import training_steps, validation_count
from realuid_lightning.planning.rehearsal import Rehearsal
from realuid_lightning.running import RunCheckpoint


class Evaluation(NamedTuple):
    """What validation costs, but for the feature extractor.

    Attributes:
        passes: Network passes of one sample each in one validation, on all devices, padding included.
        flops: FLOPs of one validation, on all devices.
        peak: Bytes that a batch needs beside the weights.
        validations: Number of validations in the run; None if the run has no known end.
    """

    passes: int
    flops: int
    peak: int
    validations: int | None


class Plan:
    """What a run will need; bytes are those of one device. It takes seconds, and hardly any memory.

    Args:
        module: Module without a trainer, on any device.
        data: Its data; nothing is read.
        trainer: Trainer that the config describes, on any devices.
        devices: Number of devices of all nodes.
        gpu: Whether these are GPUs, whose autocast keeps more in float32.

    Attributes:
        networks: Sizes, as if one device held all of each network.
        passes: Cost of each kind of pass in a training step, by the name of the network that trains.
        gradients: Bytes of gradients, at most: networks that train in turn hold them in turn.
        buckets: Bytes of DDP's copies of gradients.
        shards: Devices that a network is divided among; 1 when every device holds all of it.
        steps: Training steps of the run; None if it has no known end.
        checkpoint: Bytes of one checkpoint.
        files: Checkpoints that are kept at the end, and the one being written; None if they have no known number.
        writes: Checkpoints written over the run, at most; None if the run has no known end.
        evaluation: What validation costs; None if there is none.

    Raises:
        UserError: If the module trains in a way unknown to us.
    """

    def __init__(
        self, module: MatchingModule, data: MatchingDataModule, trainer: Trainer, devices: int = 1, gpu: bool = False
    ) -> None:
        made, strategy = Rehearsal(module, data, trainer, gpu), trainer.strategy
        self.networks, self.passes, self.checkpoint = made.networks, made.passes, made.checkpoint()
        # A DDP has buckets for all gradients, also with one process: copies of them, or where they lie for good.
        ddp = ddp_options(strategy) if isinstance(strategy, DDPStrategy) else None
        views = ddp is not None and bool(ddp.get("gradient_as_bucket_view"))
        everything = sum(network.gradients for network in self.networks)
        self.gradients = everything if views else max(each.gradients for each in self.passes.values())
        self.buckets = 0 if ddp is None or views else everything
        self.shards = devices if isinstance(strategy, ModelParallelStrategy | FSDPStrategy) else 1
        self.steps, validations = training_steps(trainer), validation_count(trainer)
        self.files, self.writes = _files(trainer, validations)
        self.evaluation: Evaluation | None = None
        if validations != 0:
            calls, peak, flops = made.evaluate()
            batches = _batches(data, trainer, devices, module.eval_batch_size)
            passes = calls * batches * module.eval_batch_size
            self.evaluation = Evaluation(passes, flops * batches, peak, validations)

    @property
    def lasting(self) -> int:
        """Bytes that are there all the time: weights, averages, gradients, optimizer states, buckets."""
        divided = self.gradients + sum(network.weights + network.states for network in self.networks)
        return -(-divided // self.shards) + self.buckets

    @property
    def total(self) -> int:
        """Most bytes at any moment."""
        peaks = [each.peak for each in self.passes.values()]
        return self.lasting + max([*peaks, self.evaluation.peak] if self.evaluation else peaks)


def _batches(data: MatchingDataModule, trainer: Trainer, devices: int, size: int) -> int:
    """Return the batches of one validation on all devices."""
    each = [-(-len(share(data.eval_samples, device, devices)) // size) for device in range(devices)]
    limit = trainer.limit_val_batches
    return sum(min(limit, count) if isinstance(limit, int) else math.floor(limit * count) for count in each)


def _files(trainer: Trainer, validations: int | None) -> tuple[int | None, int | None]:
    callback = next((one for one in trainer.checkpoint_callbacks if isinstance(one, RunCheckpoint)), None)
    if callback is None:
        return 0, 0
    best = callback.save_top_k
    if validations is None:
        return None if best == -1 else best + 2, None
    every = (training_steps(trainer) or 0) // callback.every if callback.every else 0
    files = (validations if best == -1 else min(best, validations)) + 2
    return files, validations * (1 + (best != 0)) + every + 1
