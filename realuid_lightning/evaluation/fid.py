"""Fréchet distance of every sampler, during training and in ``realuid validate``."""

import json
from uuid import uuid4

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from realuid_lightning.data import Batch, MatchingDataModule
from realuid_lightning.data.checks import samples_at
from realuid_lightning.data.sharing import by_one
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.evaluation.figures import record
from realuid_lightning.fingerprint import NoFingerprintError
from realuid_lightning.metrics import (
    CheckedFeatures,
    Features,
    FeatureStatistics,
    FrechetDistance,
    InceptionFeatures,
    RawFeatures,
    ReferenceCache,
    covariance_root,
    feature_fingerprint,
    feature_label,
    feature_statistics,
    moments,
)


class FIDCallback(Callback):
    """Measures the Fréchet distance between generated and real samples (FID, arXiv 1706.08500) by torchmetrics.

    The validation loop generates; this callback extracts features, sums them over all processes and computes. Each
    sampler's figure is logged as ``fid/NAME`` and added, with its protocol, to ``fid.jsonl`` in the run folder (the
    trainer's ``default_root_dir``).

    Args:
        features: Extractor with ``num_features``, from samples ``(B, *D)`` to ``(B, F)``; TF-Inception when None.
        cache: Folder for statistics of real data, which are computed once; the user's cache folder when None.

    Example:
        >>> class Mean(nn.Module):
        ...     num_features = 1
        ...     def forward(self, x):
        ...         return x.flatten(1).mean(1, keepdim=True)
        >>> callback = FIDCallback(features=Mean())
    """

    def __init__(self, features: nn.Module | None = None, cache: str | None = None) -> None:
        self.features = features if features is not None else InceptionFeatures()
        if not isinstance(getattr(self.features, "num_features", None), int):
            name = type(self.features).__name__
            raise UserError(f"FIDCallback: features must have an integer attribute num_features, but {name} has none")
        self.cache = ReferenceCache(cache)
        self._checked = CheckedFeatures(self.features)
        self._metrics: dict[str, FrechetDistance] = {}
        self._reference: FeatureStatistics | None = None
        self._root = torch.empty(0)
        self._fingerprint = ""  # of the real data; hashing them all takes a while

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the extractor before any training; refuse data without a reference."""
        del pl_module
        if stage == "predict" or (stage == "fit" and not trainer.limit_val_batches):
            return
        data = self.check(trainer)
        faults = Faults("FIDCallback")
        faults.unless(
            len(data.reference) >= 2, f"needs at least 2 real samples, but the reference has {len(data.reference)}"
        )
        faults.raise_any()
        self._reference = None  # that of other data, if this callback has served before
        if isinstance(self.features, Features):
            self.features.prepare()
        self.features.eval().requires_grad_(False)
        self._try_out(trainer, data)

    def check(self, trainer: Trainer) -> MatchingDataModule:
        """Return the data; nothing is read or loaded, so that a plan can ask where they are not.

        Raises:
            UserError: If data and features do not go together.
        """
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, MatchingDataModule):
            raise UserError(
                "FIDCallback: needs a MatchingDataModule, whose reference_dataloader gives the real samples"
            )
        faults = Faults("FIDCallback")
        faults.unless(data.eval_samples >= 2, f"needs at least 2 samples, got data.eval_samples {data.eval_samples}")
        if isinstance(self.features, Features):
            faults.extend(filter(None, [self.features.fault(data.shape)]))
        faults.raise_any()
        return data

    def _try_out(self, trainer: Trainer, data: MatchingDataModule) -> None:
        """Measure two real samples by features of the user's own, before any training; tell of too few samples."""
        if type(self.features) not in (InceptionFeatures, RawFeatures):
            device = trainer.strategy.root_device
            self.features.to(device)
            real = data.on_after_batch_transfer(Batch(x1=samples_at(data.reference, torch.arange(2))[0].to(device)), 0)
            with torch.no_grad():
                self._finite(self._checked(real.x1).sum())
        width, fewest = self._checked.num_features, min(len(data.reference), data.eval_samples)
        if fewest <= width:
            rank_zero_info(
                f"FID: {fewest} samples do not span {width} features: their covariance is singular, and figures can be "
                "compared only with those of as many samples; raise data.eval_samples or choose fewer features"
            )

    def _finite(self, total: Tensor) -> None:
        if not total.isfinite().all():
            raise UserError(
                f"FID: features {type(self.features).__name__} of the real samples must be finite numbers, but there "
                "are NaN or infinite ones: look at the reference data and at the features' weights"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read or compute the statistics of real data."""
        self.features.to(pl_module.device)
        if self._reference is None and not trainer.sanity_checking:
            self._reference = self._reference_statistics(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],  # type: ignore[override]
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch of every sampler's samples."""
        del batch, batch_idx, dataloader_idx
        if not trainer.sanity_checking:
            for name, samples in outputs.items():
                self._metric(name, pl_module.device).update(samples, real=False)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, log and store every sampler's figure."""
        if trainer.sanity_checking:
            return
        step = getattr(pl_module, "steps_made", trainer.global_step)
        # A process may have had no latents of its own.
        names = list(self._metrics) or list(pl_module.evaluated())  # type: ignore[operator]
        for name in names:
            metric = self._metric(name, pl_module.device)
            value = float(metric.compute())
            pl_module.log(f"fid/{name}", value, prog_bar=name == names[-1], sync_dist=True)
            count = int(trainer.strategy.reduce(metric.fake_features_num_samples.clone(), reduce_op="sum"))
            if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                protocol = {"features": feature_label(self.features), "reference": self._fingerprint}
                row = {"step": step, "sampler": name, "distance": value, "samples": count, **protocol}
                record(trainer, "fid.jsonl", row)
        self._metrics.clear()

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]
    on_test_epoch_end = on_validation_epoch_end

    def _metric(self, name: str, device: torch.device) -> FrechetDistance:
        if name not in self._metrics:
            assert self._reference is not None
            self._metrics[name] = FrechetDistance(self._checked, self._reference, self._root).to(device)
        return self._metrics[name]

    def _reference_statistics(self, trainer: Trainer, pl_module: LightningModule) -> FeatureStatistics:
        """Return this process' share of the real statistics; the shares of all processes sum to the whole."""
        data: MatchingDataModule = trainer.datamodule  # type: ignore[attr-defined]
        # Process 0 alone looks, so that all processes take the same way.
        self._fingerprint, protocol, known = by_one(lambda: self._look_up(data))
        if known is None:
            rank_zero_info(f"FID: computing statistics of the real data by {feature_label(self.features)}, once")
            batches = (real_samples(batch, pl_module, data) for batch in data.reference_dataloader())
            share = feature_statistics(self._checked, batches, self._checked.num_features, pl_module.device)
            known = FeatureStatistics(*(trainer.strategy.reduce(part, reduce_op="sum") for part in share))
            self._finite(known.outer)
            if protocol and trainer.is_global_zero:
                self.cache.write(protocol, known)
        known = FeatureStatistics(*(part.to(pl_module.device) for part in known))
        self._root = covariance_root(moments(known)[0])
        return known if trainer.is_global_zero else FeatureStatistics(*map(torch.zeros_like, known))

    def _look_up(self, data: MatchingDataModule) -> tuple[str, str, FeatureStatistics | None]:
        """Return the data's fingerprint, that of the whole measurement, and what is known under it.

        Where something cannot be read, nothing is looked up: the one is made up, and the other empty.
        """
        place, reference = "the real data", f"unknown-{uuid4().hex[:12]}"
        try:
            reference = data.reference_fingerprint
            place = f"features {type(self.features).__name__}"
            protocol = json.dumps([feature_fingerprint(self.features), reference])
        except NoFingerprintError as error:
            rank_zero_warn(
                f"FID: statistics of the real data are computed anew in every run, for {place} have no fingerprint "
                f"({error}): give them a method fingerprint() that returns a text which changes with what they compute"
            )
            return reference, "", None
        return reference, protocol, self.cache.read(protocol, self._checked.num_features)


def real_samples(batch: Batch, pl_module: LightningModule, data: MatchingDataModule) -> Tensor:
    """Return a batch's real samples on the module's device, as floats, for no loop of Lightning brings them there."""
    moved = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
    real = data.on_after_batch_transfer(moved, 0).x1
    assert real is not None
    return real
