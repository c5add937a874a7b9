"""Whether networks, path, data, options and trainer go together: told before any training."""

from collections.abc import Iterator, Mapping
from itertools import combinations, islice
from typing import Any

from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

from realuid_lightning.checkpoints import ties
from realuid_lightning.data import MatchingDataModule
from realuid_lightning.data.stream import parse_indices
from realuid_lightning.guidance import scale_faults
from realuid_lightning.lightning_internals import ddp_options
from realuid_lightning.networks import shares_weights
from realuid_lightning.paths import MatchingPath


def disagreements(network: nn.Module, path: MatchingPath, data: MatchingDataModule) -> Iterator[str]:
    """Yield what keeps the three from working together, one message a fault.

    Args:
        network: Network of the teacher's architecture. What it does not tell (``shape``, ``num_classes``,
            ``condition_channels``) is not compared.
        path: The framework.
        data: The data.
    """
    shape, classes = getattr(network, "shape", None), getattr(network, "num_classes", None)
    if shape is not None and tuple(shape) != tuple(data.shape):
        yield f"the network takes samples of shape {tuple(shape)}, but the data has {tuple(data.shape)}"
    wanted, given = path.conditions * data.shape[0], getattr(network, "condition_channels", None)
    if given is not None and given != wanted:
        yield (
            f"{type(path).__name__} shows the network {wanted} further channels, but its condition_channels is "
            f"{given}: set it to {wanted}"
            + (", and train its teacher anew if that was shown x0" if path.translates and not wanted else "")
        )
    if path.translates and not data.translates:
        yield f"{type(path).__name__} begins at samples of a source domain: name it in data.origin"
    if data.translates and not path.translates:
        yield f"data.origin is set, but {type(path).__name__} begins at noise: leave it out, or translate"
    labelled = data.num_classes is not None  # conditions of another form are the network's own affair
    if classes is None and data.labels and (labelled or hasattr(network, "num_classes")):
        yield "data.labels is true, but the network has no classes: set its num_classes or labels: false"
    if classes is not None and not data.labels:
        yield f"the network expects one of {classes} classes, but data.labels is false: set it to true"
    if classes is not None and data.labels and not labelled:
        yield f"the network expects one of {classes} classes, but {type(data.source).__name__} has no class labels"
    if classes is not None and data.num_classes is not None and data.num_classes > classes:
        yield f"the network has {classes} classes, but the data has {data.num_classes}"


def share_faults(data: MatchingDataModule, processes: int, predicting: bool) -> Iterator[str]:
    """Yield what keeps processes that must call every network together from doing so in evaluation.

    Args:
        data: The data.
        processes: Number of processes among which networks are divided.
        predicting: Whether the run predicts; else it validates or tests.
    """
    option = "predict_seeds" if predicting else "eval_samples"
    count = len(parse_indices(data.predict_seeds)) if predicting else data.eval_samples
    if count % processes:
        yield (
            f"data.{option} must name a multiple of the number of processes, {processes}, where networks are divided "
            f"among them, for all call them together; got {count} samples"
        )


def sampler_faults(names: list[str], evaluate: list[str] | None, predict_with: str | None) -> Iterator[str]:
    """Yield the options that name samplers which are not there."""
    for option, chosen in (("evaluate", evaluate or []), ("predict_with", [predict_with or names[-1]])):
        for name in chosen:
            if name not in names:
                yield f"{option} names {name!r}; there are {', '.join(names)}"


def trainer_faults(trainer: Trainer) -> Iterator[str]:
    """Yield the trainer's options that no module here goes with."""
    precision = str(trainer.precision)
    if precision.startswith("16"):
        why = "whose loss scaling the fake updates would bypass"
        yield f"trainer.precision is {precision}, {why}: use bf16-mixed or 32-true"
    if precision == "bf16-true":
        yield "trainer.precision is bf16-true, in which times of a path fall together: use bf16-mixed or 32-true"
    accumulated, limit = trainer.accumulate_grad_batches, trainer.limit_train_batches
    if trainer.state.fn == "fit" and isinstance(limit, int) and limit % accumulated:
        yield (
            f"trainer.limit_train_batches must be a multiple of accumulate_grad_batches {accumulated}, for an epoch "
            f"ends with an update, got {limit}"
        )


def divided_faults(networks: Mapping[str, nn.Module], **fast: bool) -> Iterator[str]:
    """Yield what does not go with networks that are divided among devices.

    Args:
        networks: The networks; weights that are tied, or shared by two of them, could not be divided or resumed.
        fast: Options by their names, and whether they are set.
    """
    for option, wanted in fast.items():
        if wanted:
            yield f"{option}: true does not go with networks that are divided among devices: set it to false"
    for name, network in networks.items():
        for first, key in islice(ties(network), 1):
            yield (
                f"trainer.strategy divides networks among devices, which tied weights do not survive: in {name}, "
                f"{key} is {first}; use ddp_per_network, or let each have weights of its own"
            )
    for (first, one), (second, other) in combinations(networks.items(), 2):
        if shares_weights(other, one):
            yield (
                f"trainer.strategy divides networks among devices, which {second} cannot follow, for it shares the "
                f"weights of {first} (LoRA); use ddp_per_network"
            )
            return


def distillation_faults(module: Any) -> Iterator[str]:
    """Yield what is wrong with the options of a ``RealUIDModule`` that are numbers and names."""
    for name in ("fake_steps", "sampling_steps", "accumulate"):
        if getattr(module, name) < 1:
            yield f"{name} must be at least 1, got {getattr(module, name)}"
    yield from scale_faults(module.guidance)
    if module.guide_fake and module.guidance is None:
        yield "guide_fake is true, but guidance is null: set its scale, such as 1.5"
    if module.clip is not None and not module.clip > 0:
        yield f"clip must be above 0, or null for no clipping, got {module.clip}"
    for name in ("fake_init", "generator_init"):
        if getattr(module, name) not in ("teacher", "random"):
            yield f"{name} must be 'teacher' or 'random', got {getattr(module, name)!r}"
    levels = module.path.generator_steps
    if levels is not None and (module.sampling_steps < 1 or levels % module.sampling_steps):
        yield (
            f"sampling_steps must be {levels}, one a level of path.levels, or in evaluation a divisor of it, got "
            f"{module.sampling_steps}"
        )
    yield from average_faults(module, "teacher", "generator")


def average_faults(module: Any, *roles: str) -> Iterator[str]:
    """Yield the averages that are to be taken of no file."""
    for name in roles:
        if getattr(module, f"{name}_ema") is not None and getattr(module, f"{name}_ckpt") is None:
            yield f"{name}_ema is set, but {name}_ckpt is null"


def part_faults(module: Any, data: MatchingDataModule) -> Iterator[str]:
    """Yield what keeps the steps of a generator, and the micro-batches, from their parts of a training batch."""
    size, steps, accumulate = data.batch_size, module.sampling_steps, module.accumulate
    if module.path.generator_steps not in (None, steps):
        yield (
            f"sampling_steps must be {module.path.generator_steps} in training, one a level of path.levels, got {steps}"
        )
    if size < steps:
        yield (
            f"data.batch_size must be at least sampling_steps {steps}, for each step trains on its part of a batch, "
            f"got {size}"
        )
    parts = accumulate * (steps if accumulate > 1 else 1)
    if size % parts:
        yield (
            f"data.batch_size must be a multiple of {parts}, accumulate {accumulate}"
            + (f" times sampling_steps {steps}" if parts > accumulate else "")
            + f", got {size}"
        )


def turn_faults(trainer: Trainer, twice: bool) -> Iterator[str]:
    """Yield that a strategy cannot follow networks that train in turn, or are differentiated twice."""
    strategy = trainer.strategy
    if twice and isinstance(strategy, ModelParallelStrategy):
        yield (
            "trainer.strategy: the objective differentiates the fake model twice, which networks that are divided "
            "among devices cannot follow; set it to ddp_per_network"
        )
    if (
        isinstance(strategy, DDPStrategy)
        and not getattr(strategy, "per_network", False)
        and not ddp_options(strategy).get("find_unused_parameters")
    ):
        # Each backward reaches one of two networks; plain DDP would wait for the other, or send nothing at all.
        yield (
            "trainer.strategy: the fake model and the generator train in turn, which plain ddp cannot follow; set it "
            "to ddp_per_network, which sends the gradients of the training network alone, or to "
            "ddp_find_unused_parameters_true, which sends those of both"
        )
