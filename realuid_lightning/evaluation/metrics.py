"""Figures of every sampler, during training and in ``realuid validate``."""

from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from realuid_lightning.data import Batch, MatchingDataModule
from realuid_lightning.data.checks import samples_at
from realuid_lightning.data.sharing import by_one
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.evaluation.base import SamplerCallback, steps_made
from realuid_lightning.evaluation.figures import record
from realuid_lightning.evaluation.real import Identity, RealSide, not_finite
from realuid_lightning.metrics import (
    FID,
    CheckedFeatures,
    Collector,
    Features,
    InceptionFeatures,
    Metric,
    Protocol,
    Reference,
    ReferenceCache,
    feature_label,
    write_moments,
)

FILE = "figures.jsonl"


class MetricsCallback(SamplerCallback):
    """Measures what the validation loop generates, by one pass of the features for all metrics.

    Each sampler's figures are logged as ``FIGURE/NAME``, such as ``fid/ema_0.999``, and added to ``figures.jsonl`` in
    the run folder (the trainer's ``default_root_dir``), with their protocol and two bounds, which are logged as
    ``FIGURE/floor`` and ``FIGURE/gaussian``:

    - the floor is what real data score that are not in the reference: ``data.held_out``, or one half of the reference
      against the other;
    - a Gaussian with the data's mean and covariance (clipped to the range of pixels, for images), from as many latents,
      is what a figure must be far better than to mean anything.

    Figures depend neither on the number of processes nor on batch size.

    Args:
        features: Extractor with ``num_features``, from samples ``(B, *D)`` to ``(B, F)``; TF-Inception when None.
        metrics: What is measured; the Fréchet distance, ``FID``, when None.
        bounds: Measure the two bounds, once for a reference: it takes as long as two evaluations.
        cache: Folder for what is known of real data, which are measured once; the user's cache folder when None.
        statistics: ``.npz`` file to write with mean and covariance of the real features (``mu`` and ``sigma``), as
            other implementations read them; none when None.

    Example:
        >>> class Mean(nn.Module):
        ...     num_features = 1
        ...     def forward(self, x):
        ...         return x.flatten(1).mean(1, keepdim=True)
        >>> callback = MetricsCallback(features=Mean(), metrics=[FID()])
    """

    def __init__(
        self,
        features: nn.Module | None = None,
        metrics: list[Metric] | None = None,
        bounds: bool = True,
        cache: str | None = None,
        statistics: str | None = None,
    ) -> None:
        self.features = features if features is not None else InceptionFeatures()
        faults, name = Faults("metrics"), type(self.features).__name__
        number = getattr(self.features, "num_features", None)
        faults.unless(
            isinstance(number, int), f"features must have an integer attribute num_features, but {name} has none"
        )
        faults.raise_any()
        self.metrics: list[Metric] = [FID()] if metrics is None else metrics
        names = [figure for metric in self.metrics for figure in metric.names]
        twice = sorted({figure for figure in names if names.count(figure) > 1})
        faults.unless(bool(names), "metrics must name at least one, got an empty list")
        faults.unless(not twice, f"each figure must come from one metric, but {', '.join(twice)} from several")
        faults.raise_any()
        self.real = RealSide(CheckedFeatures(self.features), self.metrics, bounds, ReferenceCache(cache))
        self.statistics = statistics
        self._samples: dict[str, Collector] = {}
        self._reference: Reference | None = None
        self._served: tuple[Trainer, MatchingDataModule] | None = None  # for whom the reference was measured
        self._identity = Identity("", "", "", "")  # hashing all real data takes a while
        self.protocol: Protocol | None = None
        self._before: Protocol | None = None  # that of the checkpoint which training goes on from

    @property
    def names(self) -> list[str]:
        """Names of all figures."""
        return [figure for metric in self.metrics for figure in metric.names]

    # ------------------------------------------------------------------------------------- checks before any training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the extractor before any training; refuse data without a reference."""
        del pl_module
        if stage == "predict" or (stage == "fit" and not trainer.limit_val_batches):
            return
        data = self.check(trainer)
        faults = Faults("metrics")
        count = len(data.reference)
        faults.unless(count >= 2, f"need at least 2 real samples, but the reference has {count}")
        faults.extend(filter(None, (metric.fault(self.features, count) for metric in self.metrics if count >= 2)))
        if self.real.bounds and data.held_out is not None:
            few = [metric for metric in self.metrics if len(data.held_out) < metric.fewest]
            needs = ", ".join(f"{type(metric).__name__} {metric.fewest}" for metric in few)
            faults.unless(
                not few, f"data.held_out has {len(data.held_out)} samples, fewer than metrics need: {needs}; give more"
            )
        faults.raise_any()
        if self._served != (trainer, data):
            self._reference, self._served = None, (trainer, data)
        if isinstance(self.features, Features):
            self.features.prepare()
        self.features.eval().requires_grad_(False)
        self._try_out(trainer, data)

    def check(self, trainer: Trainer) -> MatchingDataModule:
        """Return the data; nothing is read or loaded, so that a plan can ask where they are not.

        Raises:
            UserError: If data, features and metrics do not go together.
        """
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, MatchingDataModule):
            raise UserError("metrics: need a MatchingDataModule, whose reference_dataloader gives the real samples")
        faults = Faults("metrics")
        faults.unless(data.eval_samples >= 2, f"need at least 2 samples, got data.eval_samples {data.eval_samples}")
        if isinstance(self.features, Features):
            faults.extend(filter(None, [self.features.fault(tuple(data.reference.shape))]))
        faults.extend(filter(None, (metric.fault(self.features, data.eval_samples) for metric in self.metrics)))
        faults.raise_any()
        return data

    def _try_out(self, trainer: Trainer, data: MatchingDataModule) -> None:
        """Measure two real samples by features of the user's own, before any training; tell of too few samples."""
        device, checked = trainer.strategy.root_device, self.real.features
        if not type(self.features).__module__.startswith("realuid_lightning."):
            self.features.to(device)
            real = data.on_after_batch_transfer(Batch(x1=samples_at(data.reference, torch.arange(2))[0].to(device)), 0)
            assert real.x1 is not None
            with torch.no_grad():
                encoded = self.real.encode(real.x1)
            if not all(part is None or part.isfinite().all() for part in encoded):
                raise not_finite(checked)
        fewest = min(len(data.reference), data.eval_samples)
        if fewest <= checked.num_features:
            rank_zero_info(
                f"metrics: {fewest} samples do not span {checked.num_features} features: their covariance is singular, "
                "and Fréchet distances compare only with those of as many samples; raise data.eval_samples or choose "
                "fewer features"
            )

    # -------------------------------------------------------------------------------------------------- evaluation

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read what is known of the real data, or measure them."""
        self._samples.clear()  # those of an evaluation that was broken off
        self.features.to(pl_module.device)
        data: MatchingDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if self._reference is None:
            self._identity = by_one(lambda: Identity.of(data, self.features, self.real.metrics_identity))
            self._reference = self.real.reference(trainer, pl_module, self._identity)
            if self.statistics is not None and trainer.is_global_zero:
                write_moments(self.statistics, self._reference.sample.sums)
        self.protocol = self._protocol(data, self._reference)
        before, self._before = self._before, None
        if trainer.state.fn == "fit" and before is not None and not before.same(self.protocol):
            told = [name for name, value in self.protocol.record.items() if value != before.record[name]]
            rank_zero_warn(
                f"metrics: figures are taken by another protocol than before ({', '.join(told)} changed): they do not "
                "compare with earlier ones, nor with the best checkpoint's"
            )

    def see(self, trainer: Trainer, pl_module: LightningModule, samples: dict[str, Tensor], batch: Batch) -> None:
        """Encode a batch of every sampler's samples."""
        assert batch.index is not None
        index = batch.index.to(pl_module.device)
        for name, made in samples.items():
            self._collector(name, trainer, pl_module).add(index, *self.real.encode(made))

    def conclude(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, log and store every sampler's figures."""
        reference, protocol = self._reference, self.protocol
        assert reference is not None
        assert protocol is not None
        # A process may have had no latents of its own.
        names = list(self._samples) or list(pl_module.evaluated())  # type: ignore[operator]
        for name in names:
            sample = self._collector(name, trainer, pl_module).gather()
            figures = self.real.scores(reference.sample, sample)
            # Fewer than data.eval_samples, where the trainer limits batches.
            self.protocol = protocol = replace(protocol, samples=int(sample.sums.count))
            for figure, value in figures.items():
                shown = (name, figure) == (names[-1], self.names[0])
                pl_module.log(f"{figure}/{name}", value, prog_bar=shown, sync_dist=True)
            if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                bounds = {"floor": reference.floor, "gaussian": reference.gaussian}
                row = {"step": steps_made(trainer, pl_module), "sampler": name, "figures": figures, **bounds}
                better = {figure: sense for metric in self.metrics for figure, sense in metric.better.items()}
                record(trainer, FILE, {**row, "better": better, "protocol": protocol.record})
            self._samples.pop(name)
        for kind, bound in {"floor": reference.floor, "gaussian": reference.gaussian}.items():
            pl_module.log_dict({f"{figure}/{kind}": value for figure, value in bound.items()}, sync_dist=True)

    def _collector(self, name: str, trainer: Trainer, pl_module: LightningModule) -> Collector:
        if name not in self._samples:
            count = trainer.datamodule.eval_samples  # type: ignore[attr-defined]
            self._samples[name] = self.real.collector(count, count, pl_module.device)
        return self._samples[name]

    def _protocol(self, data: MatchingDataModule, reference: Reference) -> Protocol:
        conditions = "data" if data.labels and data.num_classes is None else data.eval_labels
        return Protocol(
            metrics=self._identity.metrics,
            features=feature_label(self.features),
            weights=self._identity.features,
            rounding=getattr(self.features, "rounding", "none"),
            resize=getattr(self.features, "resize", "none"),
            labels=conditions if data.labels else "none",
            samples=data.eval_samples,
            seed=data.eval_seed,
            reference=self._identity.reference,
            reference_samples=len(data.reference),
            held_out=self._identity.held_out if reference.floor else "none",
            floor_samples=reference.floor_samples,
        )

    # -------------------------------------------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the protocol, which a checkpoint keeps beside the best figure."""
        return {} if self.protocol is None else self.protocol.record

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the protocol of a checkpoint, to tell when it has changed."""
        try:
            self._before = Protocol(**state_dict)
        except TypeError:  # that of another version, or none
            self._before = None


class FIDCallback(MetricsCallback):
    """``MetricsCallback`` with the Fréchet distance alone (FID, arXiv 1706.08500).

    Args:
        features: Extractor of features; TF-Inception when None.
        cache: Folder for what is known of real data.
    """

    def __init__(self, features: nn.Module | None = None, cache: str | None = None) -> None:
        super().__init__(features, [FID()], cache=cache)
