"""What samples are measured by: features, statistics of real ones, and metrics."""

from realuid_lightning.metrics.base import Better, Metric, Sample, drawn_order
from realuid_lightning.metrics.classifiers import ClassifierFeatures
from realuid_lightning.metrics.collector import Collector
from realuid_lightning.metrics.features import (
    CheckedFeatures,
    Features,
    InceptionFeatures,
    RawFeatures,
    feature_fingerprint,
    feature_label,
    to_bytes,
)
from realuid_lightning.metrics.fid import FID
from realuid_lightning.metrics.frechet import covariance_root, moments, root_trace
from realuid_lightning.metrics.protocol import Protocol
from realuid_lightning.metrics.reference import Reference, ReferenceCache
from realuid_lightning.metrics.sums import FeatureStatistics

__all__ = [
    "FID",
    "Better",
    "CheckedFeatures",
    "ClassifierFeatures",
    "Collector",
    "FeatureStatistics",
    "Features",
    "InceptionFeatures",
    "Metric",
    "Protocol",
    "RawFeatures",
    "Reference",
    "ReferenceCache",
    "Sample",
    "covariance_root",
    "drawn_order",
    "feature_fingerprint",
    "feature_label",
    "moments",
    "root_trace",
    "to_bytes",
]
