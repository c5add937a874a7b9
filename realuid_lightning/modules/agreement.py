"""Whether a network, a path, data and precision go together."""

from collections.abc import Iterator, Mapping
from itertools import islice

from lightning import Trainer
from torch import nn

from realuid_lightning.checkpoints import ties
from realuid_lightning.data import MatchingDataModule
from realuid_lightning.data.stream import parse_indices
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
    if classes is None and data.labels:
        yield "data.labels is true, but the network has no classes: set its num_classes or labels: false"
    if classes is not None and not data.labels:
        yield f"the network expects one of {classes} classes, but data.labels is false: set it to true"
    if classes is not None and data.labels and data.num_classes is not None and data.num_classes > classes:
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


def precision_faults(precision: str) -> Iterator[str]:
    """Yield what is wrong with the trainer's precision."""
    if precision.startswith("16"):
        why = "whose loss scaling the fake updates would bypass"
        yield f"trainer.precision is {precision}, {why}: use bf16-mixed or 32-true"
    if precision == "bf16-true":
        yield "trainer.precision is bf16-true, in which times of a path fall together: use bf16-mixed or 32-true"


def accumulation_faults(trainer: Trainer) -> Iterator[str]:
    """Yield what keeps every update from being made of as many batches."""
    accumulated, limit = trainer.accumulate_grad_batches, trainer.limit_train_batches
    if trainer.state.fn == "fit" and isinstance(limit, int) and limit % accumulated:
        yield (
            f"trainer.limit_train_batches must be a multiple of accumulate_grad_batches {accumulated}, for an epoch "
            f"ends with an update, got {limit}"
        )


def tie_faults(networks: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yield which networks have weights of several names, which cannot be divided among devices and resumed."""
    for name, network in networks.items():
        for first, key in islice(ties(network), 1):
            yield (
                f"trainer.strategy divides networks among devices, which tied weights do not survive: in {name}, "
                f"{key} is {first}; use ddp_per_network, or let each have weights of its own"
            )
