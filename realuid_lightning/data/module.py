"""The LightningDataModule: one source, or two for bridges; four loaders, each sharded by hand."""

from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from realuid_lightning.data import options
from realuid_lightning.data.batch import Batch, to_floats
from realuid_lightning.data.checks import as_user_errors, form_faults, set_up
from realuid_lightning.data.latents import Generation
from realuid_lightning.data.loading import filter_warnings
from realuid_lightning.data.resident import CodedBatch, Resident
from realuid_lightning.data.run import RunDataModule
from realuid_lightning.data.source import Source
from realuid_lightning.data.stream import PairStream, RealSequence, RealStream, StreamSampler, parse_indices, share
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.seeding import global_seed


class MatchingDataModule(RunDataModule):
    """Real samples for training, latents for evaluation and prediction, and source ends where a framework translates.

    Loaders are sharded by rank, whatever the trainer's ``use_distributed_sampler`` says. The training loader is endless
    and begins at the trainer's ``global_step``, which makes resuming exact with any number of workers.

    Args:
        source: The data set.
        batch_size: Real samples per network update and process; of each pass, where the trainer's
            ``accumulate_grad_batches`` lets several make an update. A training step of a module with
            ``micro_batches`` updates gets that many times as many.
        global_batch_size: Real samples per network update, over all processes and passes, in place of ``batch_size``:
            any number of devices trains the same recipe. 256 where neither is given.
        labels: Train and evaluate with the conditions that the source gives: class labels, or others. None: exactly
            when the module's network has classes.
        flip: Mirror training images left to right with probability one half.
        num_workers: Loader processes for real samples; 0 is best for sources held in memory.
        eval_samples: Samples generated in a validation or test run, over all processes.
        eval_labels: Conditions of generated samples: ``balanced``, the class being the index modulo classes, or
            ``sampled`` from the source's labels. Conditions that are no class labels are those of ``reference``, of
            its sample ``index % len``, or ``sampled`` from it.
        eval_seed: Which latents indices have in evaluation and prediction, which ``sampled`` conditions, which noise
            of stochastic samplers: another seed, another set. In [0, 2^32).
        predict_seeds: Indices of the latents that ``predict`` uses, such as ``0-63,100,200-299``.
        reference: Data set that evaluation compares with; ``source`` unless given. Of ``Latents``, here and in
            ``held_out``, it is the data set that was encoded.
        held_out: Real samples that nothing else has seen: what evaluation measures of them against ``reference`` is the
            floor of its figures. None: halves of ``reference`` are held against each other.
        origin: Data set of the source ends ``x0`` of a translating framework (bridges); None: Gaussian noise.
        paired: Sample i of ``origin`` belongs to sample i of ``source``: they come together and are flipped together.
            False: the source ends come in an order of their own, with flips of their own.
        eval_origin: Source ends of evaluation and prediction, sample ``index % len``; ``origin`` unless given. When
            paired and as long as ``reference``, evaluation knows the truth ``x1`` of each. Its conditions, if it has
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
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        labels: bool | None = None,
        flip: bool = False,
        num_workers: int = 0,
        eval_samples: int = 50_000,
        eval_labels: Literal["balanced", "sampled"] = "balanced",
        eval_seed: int = 0,
        predict_seeds: str = "0-63",
        reference: Source | None = None,
        held_out: Source | None = None,
        origin: Source | None = None,
        paired: bool = True,
        eval_origin: Source | None = None,
        on_device: bool = False,
    ) -> None:
        neither = batch_size is None and global_batch_size is None
        super().__init__(batch_size, 256 if neither else global_batch_size)
        self.source, self.held_out = source, None if held_out is None else held_out.original
        self.reference = (source if reference is None else reference).original
        self._described = source if reference is None else reference  # gives conditions in evaluation
        self.origin, self.paired, self.eval_origin = origin, paired, origin if eval_origin is None else eval_origin
        self._labels, self.flip, self.num_workers = labels, flip, num_workers
        self.eval_samples, self.eval_labels, self.eval_seed = eval_samples, eval_labels, eval_seed
        self.predict_seeds = predict_seeds
        self.on_device = on_device
        self._resident: Resident | None = None
        self._check()

    def _check(self) -> None:
        faults = Faults("MatchingDataModule")
        sources = self.source, self.reference, self.held_out, self.origin, self.eval_origin
        faults.extend(options.shape_faults(*sources))
        faults.raise_any()  # all else speaks of shapes
        faults.extend(options.batch_faults(self._batch_size, self.global_batch_size))
        faults.extend(options.room_faults("batch_size", self._batch_size or 1, self.shape))
        faults.extend(
            options.evaluation_faults(self.eval_samples, self.eval_labels, self.eval_seed, self.predict_seeds)
        )
        faults.unless(self.num_workers >= 0, f"num_workers must not be negative, got {self.num_workers}")
        faults.unless(self.image or not self.flip, f"flip: true needs images, but samples have shape {self.shape}")
        for each in (self.source, self.origin):
            plain = each is None or each.original is each or not self.flip
            faults.unless(plain, "flip: true cannot mirror latents: set the flip of Latents, which mirrors images")
        faults.extend(options.source_faults(*sources, self.on_device))
        faults.raise_any()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.source.shape

    @property
    def labels(self) -> bool:
        """Whether samples come with their conditions: as asked for, or as the module's network takes classes."""
        if self._labels is not None:
            return self._labels
        module = self.trainer.lightning_module if self.trainer else None
        return getattr(getattr(module, "architecture", None), "num_classes", None) is not None

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None when ``labels`` is off or the source has none."""
        return self.source.num_classes if self.labels else None

    @property
    def image(self) -> bool:
        """Whether samples are images ``(C, H, W)``."""
        return len(self.shape) == 3

    def decode(self, samples: Tensor) -> Tensor:
        """Return generated samples as those of ``reference``, to be measured and drawn: decoded, if latents."""
        return self.source.decode(samples)

    @property
    def translates(self) -> bool:
        """Whether source ends come from data, not from noise: whether an ``origin`` was given."""
        return self.origin is not None

    @property
    def reference_fingerprint(self) -> str:
        """A short text that changes when the reference data change."""
        with as_user_errors(self.reference, "fingerprint"):
            return self.reference.fingerprint()

    @property
    def held_out_fingerprint(self) -> str | None:
        """The same of the held-out data; None without any."""
        if self.held_out is None:
            return None
        with as_user_errors(self.held_out, "fingerprint"):
            return self.held_out.fingerprint()

    def check(self, stage: str) -> None:
        """Refuse what does not go together with the trainer; nothing is read.

        Raises:
            UserError: If training has no end, a batch cannot be shared out or held, or labels are unknown; all faults
                at once.
        """
        faults = Faults("MatchingDataModule")
        faults.extend(options.room_faults("eval_batch_size", self.eval_batch_size, self.shape))
        if stage == "fit" and self.trainer is not None:
            faults.extend(options.end_faults(self.trainer))
        if stage == "fit" and self.global_batch_size is not None:
            faults.extend(options.division_faults(self.global_batch_size, *self._division))
            faults.extend(options.room_faults("batch_size of each process", self.batch_size, self.shape))
        if self.labels:
            faults.extend(options.class_faults(self.source, self.eval_origin))
        faults.raise_any()

    def prepare_data(self) -> None:
        """Download what is missing, where asked to; prediction needs source ends, and data that give conditions."""
        needed: list[Source | None] = [self.eval_origin]
        if self.trainer is None or self.trainer.state.fn != "predict":
            needed += [self.source, self.reference, self.held_out, self.origin]
        elif self.labels and (self.eval_origin is None or self.eval_origin.num_classes is None):
            needed.append(self._generation.condition_source_beside_origin)
        for source in dict.fromkeys(needed):  # once if they are one
            if source is not None:
                with as_user_errors(source, "prepare"):
                    source.prepare()

    def setup(self, stage: str = "fit") -> None:
        """Read what this stage needs (prediction: source ends and conditions) and check it.

        Raises:
            UserError: If data are missing or do not fit, conditions are wanted that are not there, or the options do
                not go together with the trainer.
        """
        self._resident = None  # what an interrupted run has left
        self.check(stage)
        fitting = stage == "fit"
        wanted = [self.source, self.origin] if fitting else []
        wanted += [self.eval_origin] if stage == "predict" else [self.reference, self.held_out, self.eval_origin]
        for source in dict.fromkeys(wanted):
            if source is not None:
                set_up(source, self.labels and fitting and source is self.source)
        giver = self._generation.condition_source
        if giver is not None and not (fitting and giver is self.source):
            set_up(giver, True)
        faults = Faults("MatchingDataModule")
        if fitting:
            faults.extend(options.pair_faults(self.source, self.origin, self.paired))
            faults.extend(() if giver is None else form_faults(self.source, giver))
        faults.raise_any()
        self._resident = Resident(self._stream(), self._device) if fitting and self.on_device else None
        ends, origins = (each is None or each.in_memory for each in (self.origin, self.eval_origin))
        filter_warnings(self.source.in_memory and ends, origins)

    def teardown(self, stage: str) -> None:  # noqa: ARG002
        """Let go of the samples held on the device."""
        self._resident = None

    # --------------------------------------------------------------------------------------------------- the loaders

    def train_dataloader(self) -> DataLoader[Batch] | DataLoader[CodedBatch]:
        """Return the endless stream of real batches, of ``micro_batches * batch_size`` samples (or pairs) each.

        With ``on_device``, once set up: of their codes, which ``on_after_batch_transfer`` looks up.
        """
        micro_batches = getattr(self.trainer.lightning_module, "micro_batches", 1) if self.trainer else 1
        sampler = StreamSampler(self.batch_size, micro_batches, *self._place, self._batches_done)
        if self._resident is not None:  # codes cost less than passing them on
            return self._loader(self._resident.codes, 0, batch_size=None, sampler=sampler)
        return self._loader(self._stream(), self.num_workers, batch_size=None, sampler=sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return this rank's share of latents 0 to ``eval_samples - 1``, with source ends and their truth if any."""
        return self._latents(torch.arange(self.eval_samples), "eval_samples", with_truth=True)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the same as ``val_dataloader``."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return this rank's share of the latents that ``predict_seeds`` names, with source ends if there are any."""
        return self._latents(parse_indices(self.predict_seeds), "predict_seeds", with_truth=False)

    def reference_dataloader(self) -> DataLoader[Batch]:
        """Return this rank's share of the reference data, each sample once and unflipped; images as bytes."""
        return self._sequence(self.reference)

    def held_out_dataloader(self) -> DataLoader[Batch] | None:
        """Return the same of the held-out data; None without any."""
        return None if self.held_out is None else self._sequence(self.held_out)

    def on_after_batch_transfer(self, batch: Batch | CodedBatch, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Turn images from bytes into floats in [-1, 1]: here, so that bytes (or codes alone) travel to the device."""
        real = self._looked_up(batch) if isinstance(batch, CodedBatch) else batch
        return real._replace(x0=_as_floats(real.x0), x1=_as_floats(real.x1))

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

    def _sequence(self, source: Source) -> DataLoader[Batch]:
        mine = RealSequence(source, *self._place)
        return self._loader(mine, self.num_workers, batch_size=self.eval_batch_size)

    def _latents(self, indices: Int64[Tensor, "n"], option: str, with_truth: bool) -> DataLoader[Batch]:
        rank, world_size = self._place
        if len(indices) < world_size:  # an empty loader makes a rank skip evaluation, and the others wait for ever
            raise UserError(
                f"MatchingDataModule: {option} must name at least one sample for each of the {world_size} processes, "
                f"got {len(indices)}: ask for more samples or use fewer devices"
            )
        dataset = self._generation.dataset(indices[list(share(len(indices), rank, world_size))], with_truth)
        workers = self.num_workers if self.translates else 0  # latents alone cost less than passing them on
        # All of this share in order: Lightning would share it out once more, but for a sampler of this kind.
        in_order: DistributedSampler[Any] = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=False)
        return self._loader(dataset, workers, batch_size=self.eval_batch_size, sampler=in_order)

    @property
    def _generation(self) -> Generation:
        sampled = self.eval_labels == "sampled"
        given = self._described, self.eval_origin, self.paired, self.labels, sampled, self.eval_seed
        return Generation(self.source, self.reference, *given)


def _as_floats(x: Tensor | None) -> Tensor | None:
    return to_floats(x) if x is not None and x.dtype == torch.uint8 else x
