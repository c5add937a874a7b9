"""The LightningDataModule: one source, or two for bridges; four loaders, each sharded by hand."""

import math
import warnings
from typing import Any, Literal

import torch
from jaxtyping import Int64
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Timer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from realuid_lightning.data.batch import Batch, to_floats
from realuid_lightning.data.checks import set_up, shape_of, told
from realuid_lightning.data.memory import host_memory, lacking
from realuid_lightning.data.resident import CodedBatch, Resident
from realuid_lightning.data.source import Labels, Source
from realuid_lightning.data.stream import (
    MOST_INDICES,
    LatentDataset,
    PairStream,
    RealSequence,
    RealStream,
    StreamSampler,
    balanced_labels,
    parse_indices,
    sampled_labels,
    share,
)
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.seeding import global_seed
from realuid_lightning.signals import ignore_stop_signals


class MatchingDataModule(LightningDataModule):
    """Real samples for training, latents for evaluation and prediction, and source ends where a framework translates.

    Loaders are sharded by rank, whatever the trainer's ``use_distributed_sampler`` says. The training loader is endless
    and begins at the trainer's ``global_step``, which makes resuming exact with any number of workers.

    Args:
        source: The data set.
        batch_size: Real samples per network update and process. A training step of a module with ``micro_batches``
            updates gets that many times as many.
        labels: Train and evaluate with class labels.
        flip: Mirror training images left to right with probability one half.
        num_workers: Loader processes for real samples; 0 is best for sources held in memory.
        eval_samples: Samples generated in a validation or test run, over all processes.
        eval_labels: Labels of generated samples: ``balanced`` (index modulo classes) or ``sampled`` from the real ones.
        predict_seeds: Indices of the latents that ``predict`` uses, such as ``0-63,100,200-299``.
        reference: Data set that evaluation compares with; ``source`` unless given.
        origin: Data set of the source ends ``x0`` of a translating framework (bridges); None: Gaussian noise.
        paired: Sample i of ``origin`` belongs to sample i of ``source``: they come together and are flipped together.
            False: the source ends come in an order of their own, with flips of their own.
        eval_origin: Source ends of evaluation and prediction, sample ``index % len``; ``origin`` unless given. When
            paired and as long as ``reference``, evaluation knows the truth ``x1`` of each. Its labels, if there are
            any, are those of the generated samples.
        on_device: Hold all training samples, source ends included, on the device of each process, images as bytes.
            Batches are looked up and mirrored there, without loader processes, and are the same bit for bit. The
            sources must be held in memory. It spares a GPU's host copies of samples; on a CPU it gains nothing.

    Raises:
        UserError: If arguments are out of range or do not go together; all faults at once.

    Example:
        >>> from realuid_lightning.data import Digits
        >>> data = MatchingDataModule(Digits(), batch_size=128, labels=True)
        >>> data.shape, data.num_classes
        ((1, 8, 8), 10)
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 256,
        labels: bool = False,
        flip: bool = False,
        num_workers: int = 0,
        eval_samples: int = 50_000,
        eval_labels: Literal["balanced", "sampled"] = "balanced",
        predict_seeds: str = "0-63",
        reference: Source | None = None,
        origin: Source | None = None,
        paired: bool = True,
        eval_origin: Source | None = None,
        on_device: bool = False,
    ) -> None:
        super().__init__()
        self.source, self.reference = source, source if reference is None else reference
        self.origin, self.paired, self.eval_origin = origin, paired, origin if eval_origin is None else eval_origin
        self.batch_size, self.labels, self.flip, self.num_workers = batch_size, labels, flip, num_workers
        self.eval_samples, self.eval_labels, self.predict_seeds = eval_samples, eval_labels, predict_seeds
        self.on_device = on_device
        self._resident: Resident | None = None
        self._check()

    def _check(self) -> None:
        faults = Faults("MatchingDataModule")
        for source in dict.fromkeys([self.source, self.reference, self.origin, self.eval_origin]):
            if source is None:
                continue
            try:
                shape_of(source)
            except UserError as error:
                faults.unless(False, str(error))
        if faults.found:  # all else speaks of shapes
            faults.raise_any()
            return
        faults.unless(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")
        self._check_room("batch_size", self.batch_size, faults)
        few = 1 <= self.eval_samples <= MOST_INDICES
        faults.unless(few, f"eval_samples must be 1 to {MOST_INDICES}, got {self.eval_samples}")
        faults.unless(self.num_workers >= 0, f"num_workers must not be negative, got {self.num_workers}")
        faults.unless(self.image or not self.flip, f"flip: true needs images, but samples have shape {self.shape}")
        sampling = self.eval_labels in ("balanced", "sampled")
        faults.unless(sampling, f"eval_labels must be balanced or sampled, got {self.eval_labels!r}")
        for option in ("reference", "origin", "eval_origin"):
            other: Source | None = getattr(self, option)
            if other is not None and (option != "eval_origin" or other is not self.origin):  # told once
                same = other.shape == self.shape
                faults.unless(same, f"{option} must have samples of shape {self.shape} as source, got {other.shape}")
        for option in ("source", "origin") if self.on_device else ():
            held: Source | None = getattr(self, option)
            if held is not None and not held.in_memory:
                advice = "set its in_memory: true if it has that option, or on_device: false"
                message = f"on_device: true needs {option} held in memory, but {type(held).__name__} is not: {advice}"
                faults.unless(False, message)
        fitting = self.translates or self.eval_origin is None
        faults.unless(fitting, "eval_origin needs origin, the source ends of training: set both or neither")
        try:
            parse_indices(self.predict_seeds)
        except UserError as error:
            faults.unless(False, f"predict_seeds: {error}")
        faults.raise_any()

    def _check_room(self, option: str, size: int, faults: Faults) -> None:
        """Note a batch that memory has no room for."""
        each = 4 * math.prod(self.shape) + 8  # as floats, and a position
        lack = lacking(size * each)
        many = f"{option} is {size}, and so many samples of shape {self.shape} {lack}"
        faults.unless(not lack, f"{many}: {int(host_memory() // each)} would fill it")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.source.shape

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None when ``labels`` is off or the source has none."""
        return self.source.num_classes if self.labels else None

    @property
    def image(self) -> bool:
        """Whether samples are images ``(C, H, W)``."""
        return len(self.shape) == 3

    @property
    def translates(self) -> bool:
        """Whether source ends come from data, not from noise: whether an ``origin`` was given."""
        return self.origin is not None

    @property
    def eval_batch_size(self) -> int:
        """Samples per batch and process in evaluation: as many as the module takes in one forward, if it says so."""
        module = self.trainer.lightning_module if self.trainer else None
        return int(getattr(module, "eval_batch_size", self.batch_size))

    @property
    def reference_fingerprint(self) -> str:
        """A short text that changes when the reference data change."""
        with told(self.reference, "fingerprint"):
            return self.reference.fingerprint()

    def prepare_data(self) -> None:
        """Download what is missing, where asked to; prediction needs source ends, and data whose labels it samples."""
        needed: list[Source | None] = [self.eval_origin]
        predicting = self.trainer is not None and self.trainer.state.fn == "predict"
        if not predicting:
            needed += [self.source, self.reference, self.origin]
        elif self.labels and self.eval_labels == "sampled" and not self._origin_classes:
            needed.append(self.source)
        for source in dict.fromkeys(needed):  # once if they are one
            if source is not None:
                with told(source, "prepare"):
                    source.prepare()

    def setup(self, stage: str = "fit") -> None:
        """Read what this stage needs (prediction: source ends) and check that labels are there if wanted.

        Raises:
            UserError: If data are missing or do not fit, labels are wanted that are not there, or training has no end.
        """
        self._resident = None  # what an interrupted run has left
        faults = Faults("MatchingDataModule")
        self._check_room("eval_batch_size", self.eval_batch_size, faults)
        faults.raise_any()
        if self.labels:
            self._check_classes()
        if stage == "fit":
            self._check_end()
            set_up(self.source, self.labels)
            self._setup_origin()
            self._resident = Resident(self._stream(), self._device) if self.on_device else None
        ready = [self.source, self.origin] if stage == "fit" else []
        if stage != "predict" and self.reference not in ready:
            set_up(self.reference)
        if self.eval_origin is not None and (self._origin_classes is not None or self.eval_origin not in ready):
            set_up(self.eval_origin, self._origin_classes is not None)
        self._hush()

    def teardown(self, stage: str) -> None:  # noqa: ARG002
        """Let go of the samples held on the device."""
        self._resident = None

    def _setup_origin(self) -> None:
        if self.origin is None:
            return
        set_up(self.origin)
        if self.paired and len(self.origin) != len(self.source):
            raise UserError(
                f"MatchingDataModule: origin must have as many samples as source ({len(self.source)}), whose sample i "
                f"belongs to its sample i, got {len(self.origin)}: set paired: false if they do not belong together"
            )

    def _check_classes(self) -> None:
        """Refuse labels that are not there, or that the source does not know."""
        classes, name = self.source.num_classes, type(self.source).__name__
        if classes is None:
            raise UserError(f"MatchingDataModule: labels: true needs a source with classes, but {name} has none here")
        if (self._origin_classes or 0) > classes:
            raise UserError(
                f"MatchingDataModule: eval_origin, which labels the samples, may have at most the {classes} classes of "
                f"source, got {self._origin_classes}: set labels: false, or choose another eval_origin"
            )

    def _check_end(self) -> None:
        """Refuse a trainer that waits for the end of an epoch, or wants batches again, for the stream has neither."""
        trainer = self.trainer
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            raise UserError(
                "trainer.overfit_batches must be 0, for the stream of training data goes on where Lightning would have "
                f"its batches again, got {trainer.overfit_batches}: overfit a source of few samples instead"  # type: ignore[attr-defined]
            )
        if trainer is None or trainer.max_steps != -1 or trainer.max_epochs in (None, -1):
            return
        timed = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if trainer.limit_train_batches == 1.0 and not timed:
            raise UserError(
                "trainer: the stream of training data has no end, so max_epochs would never be reached: set max_steps "
                "or max_time (max_epochs: -1 trains until it is stopped)"
            )

    def train_dataloader(self) -> DataLoader[Batch] | DataLoader[CodedBatch]:
        """Return the endless stream of real batches, of ``micro_batches * batch_size`` samples (or pairs) each.

        With ``on_device``, once set up: of their codes, which ``on_after_batch_transfer`` looks up.
        """
        micro_batches = getattr(self.trainer.lightning_module, "micro_batches", 1) if self.trainer else 1
        sampler = StreamSampler(self.batch_size, micro_batches, *self._place(), self._batches_done)
        if self._resident is not None:  # codes cost less than passing them on
            return self._loader(self._resident.codes, 0, batch_size=None, sampler=sampler)
        return self._loader(self._stream(), self.num_workers, batch_size=None, sampler=sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return this rank's share of latents 0 to ``eval_samples - 1``, with source ends and their truth if any."""
        return self._latents(torch.arange(self.eval_samples), "eval_samples", self._truth())

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the same as ``val_dataloader``."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return this rank's share of the latents that ``predict_seeds`` names, with source ends if there are any."""
        return self._latents(parse_indices(self.predict_seeds), "predict_seeds", None)

    def reference_dataloader(self) -> DataLoader[Batch]:
        """Return this rank's share of the reference data, each sample once and unflipped; images as bytes."""
        mine = RealSequence(self.reference, *self._place())
        return self._loader(mine, self.num_workers, batch_size=self.eval_batch_size)

    def on_after_batch_transfer(self, batch: Batch | CodedBatch, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Turn images from bytes into floats in [-1, 1]: here, so that bytes (or codes alone) travel to the device."""
        real = self._looked_up(batch) if isinstance(batch, CodedBatch) else batch
        return real._replace(x0=_arrived(real.x0), x1=_arrived(real.x1))

    def _looked_up(self, coded: CodedBatch) -> Batch:
        assert self._resident is not None
        batch = self._resident.batch(coded)
        if self.trainer:  # it has converted what the loader gave to its precision: codes alone
            batch = self.trainer.precision_plugin.convert_input(batch)
        return batch

    def _stream(self) -> RealStream | PairStream:
        if self.origin is None:
            return RealStream(self.source, global_seed(), self.flip, self.labels)
        return PairStream(self.source, self.origin, global_seed(), self.flip, self.labels, self.paired)

    def _truth(self) -> Source | None:
        """Return what evaluation should make of the source ends, if the reference tells it."""
        if self.eval_origin is None or not self.paired or len(self.reference) != len(self.eval_origin):
            return None
        return self.reference

    def _latents(self, indices: Int64[Tensor, "n"], option: str, truth: Source | None) -> DataLoader[Batch]:
        rank, world_size = self._place()
        if len(indices) < world_size:  # an empty loader makes a rank skip evaluation, and the others wait for ever
            raise UserError(
                f"MatchingDataModule: {option} must name at least one sample for each of the {world_size} processes, "
                f"got {len(indices)}: ask for more samples or use fewer devices"
            )
        mine = indices[list(share(len(indices), rank, world_size))]
        dataset = LatentDataset(mine, self.shape, self._labels_of(mine), self.eval_origin, truth)
        workers = self.num_workers if self.translates else 0  # latents alone cost less than passing them on
        # All of this share in order: Lightning would share it out once more, but for a sampler of this kind.
        in_order: DistributedSampler[Any] = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=False)
        return self._loader(dataset, workers, batch_size=self.eval_batch_size, sampler=in_order)

    @property
    def _origin_classes(self) -> int | None:
        """Number of classes that the source ends of evaluation give labels of; None if they give none."""
        return self.eval_origin.num_classes if self.labels and self.eval_origin is not None else None

    def _labels_of(self, indices: Int64[Tensor, "n"]) -> Labels | None:
        own = None if self.eval_origin is None or not self.labels else self.eval_origin.labels()
        if own is not None:
            return own[indices % len(own)]
        labels = self.source.labels() if self.labels and self.eval_labels == "sampled" else None
        if labels is not None:
            return sampled_labels(indices, labels)
        return None if self.num_classes is None else balanced_labels(indices, self.num_classes)

    def _loader(self, dataset: Dataset[Any], workers: int, **batching: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self._device.type == "cuda",
            collate_fn=_same,
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator(),  # iterators draw a seed when they begin: not from the global generator
            **batching,
        )

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _batches_done(self) -> int:
        return self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0

    def _hush(self) -> None:
        """Silence advice that does not fit: more workers for latents and data in memory, and epochs on resuming."""
        in_memory = self.eval_origin is None or self.eval_origin.in_memory
        loaders = ["val_dataloader", "test_dataloader", "predict_dataloader"] if in_memory else []
        if self.source.in_memory and (self.origin is None or self.origin.in_memory):
            loaders.append("train_dataloader")
        message = f"The '({'|'.join(loaders)})' does not have many workers"
        warnings.filterwarnings("ignore", message, category=PossibleUserWarning)
        # The training stream has no epochs, and goes on where it was.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")


def _arrived(x: Tensor | None) -> Tensor | None:
    return to_floats(x) if x is not None and x.dtype == torch.uint8 else x


def _same(batch: Any) -> Any:
    return batch
