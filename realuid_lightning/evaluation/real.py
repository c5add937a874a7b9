"""The real side of every figure: the reference, and what real data and a Gaussian score against it."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple
from uuid import uuid4

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from realuid_lightning.data import Batch, MatchingDataModule
from realuid_lightning.data.sharing import by_one
from realuid_lightning.data.stream import share
from realuid_lightning.errors import UserError
from realuid_lightning.fingerprint import NoFingerprintError, fingerprint
from realuid_lightning.metrics import (
    CheckedFeatures,
    Collector,
    FeatureStatistics,
    Metric,
    Reference,
    ReferenceCache,
    Sample,
    covariance_root,
    drawn_order,
    feature_fingerprint,
    feature_label,
    moments,
)
from realuid_lightning.seeding import hashed_normal

GAUSSIAN = 0x6A0551
"""Key of the latents of the Gaussian with the data's moments."""

WIDEST = 4096
"""Values of a sample up to which their covariance is taken: its root takes seconds, and grows with the cube."""

Encoded = tuple[Tensor, Tensor | None]


UNKNOWN = "unknown-"


class Identity(NamedTuple):
    """What a reference is made of.

    Attributes:
        reference: Fingerprint of the real data.
        held_out: That of the held-out ones; ``halves`` without any.
        features: Hash of what the features compute.
        metrics: Hash of what the metrics compute.
    """

    reference: str
    held_out: str
    features: str
    metrics: str

    @classmethod
    def of(cls, data: MatchingDataModule, features: nn.Module, metrics: str) -> "Identity":
        """Return it, with names made up where something cannot be read."""
        name = type(features).__name__
        return cls(
            _known("the real data", lambda: data.reference_fingerprint),
            _known("the held-out data", lambda: data.held_out_fingerprint or "halves"),
            _known(f"features {name}", lambda: _short(feature_fingerprint(features))),
            metrics,
        )

    @property
    def protocol(self) -> str:
        """All of it as a text; empty where something could not be read."""
        return "" if any(part.startswith(UNKNOWN) for part in self) else json.dumps(self)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _known(what: str, fingerprint_of: Callable[[], str]) -> str:
    try:
        return fingerprint_of()
    except NoFingerprintError as error:
        rank_zero_warn(
            f"metrics: real data are measured anew in every run, for {what} have no fingerprint ({error}): give them a "
            "method fingerprint() that returns a text which changes with what they compute"
        )
        return f"{UNKNOWN}{uuid4().hex[:12]}"


class RealSide:
    """Measures real data once, and keeps what it finds.

    Args:
        features: The extractor.
        metrics: The metrics.
        bounds: Also score real data that are not in the reference, and a Gaussian.
        cache: Where references are kept.
    """

    def __init__(
        self, features: CheckedFeatures, metrics: Sequence[Metric], bounds: bool, cache: ReferenceCache
    ) -> None:
        self.features, self.metrics, self.bounds, self.cache = features, metrics, bounds, cache
        self.vectors = max((metric.vectors for metric in metrics), default=0)
        self.classes = features.num_classes if any(metric.logits for metric in metrics) else 0

    @cached_property
    def metrics_identity(self) -> str:
        """Hash of what the metrics compute, as they were first asked: they may keep what they have computed."""
        return _known("one of the metrics", lambda: _short(" ".join(map(fingerprint, self.metrics))))

    def collector(self, listed: int, taken: int, device: torch.device) -> Collector:
        """Return what takes the feature vectors of samples, and keeps what the metrics ask for."""
        return Collector(self.features.num_features, listed, taken, self.vectors, self.classes, device)

    def encode(self, samples: Tensor) -> Encoded:
        """Return feature vectors and, where a metric asks for them, logits: taken once for all metrics."""
        vectors = self.features(samples)
        return vectors, self.features.logits(vectors) if self.classes else None

    def scores(self, real: Sample, generated: Sample) -> dict[str, float]:
        """Return all figures, computed by process 0; all processes must ask."""
        return by_one(lambda: {k: v for metric in self.metrics for k, v in metric.compute(real, generated).items()})

    def reference(self, trainer: Trainer, pl_module: LightningModule, identity: Identity) -> Reference:
        """Read what is known of the real data, or measure them; all processes must ask.

        Args:
            trainer: The trainer, with the data.
            pl_module: The module, on whose device samples are encoded.
            identity: What the reference is made of.
        """
        data: MatchingDataModule = trainer.datamodule  # type: ignore[attr-defined]
        width = self.features.num_features
        protocol = identity.protocol and json.dumps([identity.protocol, self.bounds, data.eval_samples])
        known = by_one(lambda: self.cache.read(protocol, width) if protocol else None)
        if known is None:
            rank_zero_info(f"metrics: measuring the real data by {feature_label(self.features.features)}, once")
            known = self._measure(trainer, pl_module, data)
            if protocol and trainer.is_global_zero:
                self.cache.write(protocol, known)
        sums, *rest = known.sample
        sums = FeatureStatistics(*(part.to(pl_module.device) for part in sums))
        return known._replace(sample=Sample(sums, *(part.to(pl_module.device) for part in rest)))

    @torch.no_grad()
    def _measure(self, trainer: Trainer, pl_module: LightningModule, data: MatchingDataModule) -> Reference:
        """Measure the real data in one pass, with its two halves where they are to be compared."""
        device, count, most = pl_module.device, len(data.reference), data.eval_samples
        whole = self.collector(count, count, device)
        halves = [self.collector((count + 1) // 2, count, device), self.collector(count // 2, most, device)]
        drawn = drawn_order(count).argsort().to(device)  # data may be listed in any way: halves are drawn
        values = Collector(math.prod(data.reference.shape), count, count, 0, device=device)
        split, wide = self.bounds and data.held_out is None, math.prod(data.reference.shape) > WIDEST
        for batch in data.reference_dataloader():
            x, index = real_samples(batch, pl_module, data), _index(batch, device)
            encoded = self.encode(x)
            whole.add(index, *encoded)
            for odd, half in enumerate(halves if split else ()):
                half.add(*_rows(drawn[index] % 2 == odd, drawn[index] // 2, encoded))
            if self.bounds and not wide:
                values.add(index, x.flatten(1))
        sample = whole.gather()
        if not sample.sums.outer.isfinite().all():
            raise not_finite(self.features)
        if not self.bounds:
            return Reference(sample, {}, {}, 0)
        floor, floor_samples = self._floor(pl_module, data, sample, halves if split else [])
        gaussian = {} if wide else self.scores(sample, self._gaussian(trainer, data, values.gather(), device))
        return Reference(sample, floor, gaussian, floor_samples)

    def _floor(
        self, pl_module: LightningModule, data: MatchingDataModule, real: Sample, halves: list[Collector]
    ) -> tuple[dict[str, float], int]:
        """Return what real data score that are not in the reference, and how many they are."""
        if halves:
            known, other = (half.gather() for half in halves)
        else:
            batches = data.held_out_dataloader()
            assert data.held_out is not None
            assert batches is not None
            collector = self.collector(len(data.held_out), data.eval_samples, pl_module.device)
            for batch in batches:
                collector.add(_index(batch, pl_module.device), *self.encode(real_samples(batch, pl_module, data)))
            known, other = real, collector.gather()
        count = int(other.sums.count)
        return self.scores(known, other) if count >= 2 else {}, count

    def _gaussian(self, trainer: Trainer, data: MatchingDataModule, real: Sample, device: torch.device) -> Sample:
        """Return as many samples as are generated of a Gaussian with the data's moments, images clipped."""
        covariance, mean = moments(real.sums)
        root, count, shape = covariance_root(covariance), data.eval_samples, data.reference.shape
        collector = self.collector(count, count, device)
        mine = torch.tensor(share(count, trainer.global_rank, trainer.world_size), device=device)
        for index in torch.split(mine, data.eval_batch_size):
            x = mean + hashed_normal(index, mean.shape, GAUSSIAN) @ root
            x = x.clamp(-1, 1) if len(shape) == 3 else x
            collector.add(index, *self.encode(x.view(-1, *shape).float()))
        return collector.gather()


def not_finite(features: CheckedFeatures) -> UserError:
    """Return the error of features that are no numbers for real samples."""
    return UserError(
        f"metrics: features {type(features.features).__name__} of the real samples must be finite numbers, but there "
        "are NaN or infinite ones: look at the reference data and at the features' weights"
    )


def real_samples(batch: Batch, pl_module: LightningModule, data: MatchingDataModule) -> Tensor:
    """Return a batch's real samples on the module's device, as floats, for no loop of Lightning brings them there."""
    moved = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
    real = data.on_after_batch_transfer(moved, 0).x1
    assert real is not None
    return real


def _index(batch: Batch, device: torch.device) -> Tensor:
    assert batch.index is not None
    return batch.index.to(device)


def _rows(which: Tensor, index: Tensor, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor | None]:
    vectors, logits = encoded
    return index[which], vectors[which], None if logits is None else logits[which]
