"""What a Fréchet distance rests on: features and reference statistics."""

from realuid_lightning.metrics.features import (
    Features,
    InceptionFeatures,
    RawFeatures,
    feature_fingerprint,
    feature_label,
    to_bytes,
)
from realuid_lightning.metrics.reference import FeatureStatistics, ReferenceCache, feature_statistics

__all__ = [
    "FeatureStatistics",
    "Features",
    "InceptionFeatures",
    "RawFeatures",
    "ReferenceCache",
    "feature_fingerprint",
    "feature_label",
    "feature_statistics",
    "to_bytes",
]
