"""What a Fréchet distance rests on: features and reference statistics."""

from realuid_lightning.metrics.features import (
    CheckedFeatures,
    Features,
    InceptionFeatures,
    RawFeatures,
    feature_fingerprint,
    feature_label,
    to_bytes,
)
from realuid_lightning.metrics.frechet import FrechetDistance, covariance_root, moments, root_trace
from realuid_lightning.metrics.reference import FeatureStatistics, ReferenceCache, feature_statistics

__all__ = [
    "CheckedFeatures",
    "FeatureStatistics",
    "Features",
    "FrechetDistance",
    "InceptionFeatures",
    "RawFeatures",
    "ReferenceCache",
    "covariance_root",
    "feature_fingerprint",
    "feature_label",
    "feature_statistics",
    "moments",
    "root_trace",
    "to_bytes",
]
