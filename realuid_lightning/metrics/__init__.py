"""What samples are measured by: features, statistics of real ones, and metrics."""

from realuid_lightning.metrics.base import Better, Metric, Sample, drawn_order
from realuid_lightning.metrics.classifiers import ClassifierFeatures
from realuid_lightning.metrics.collector import Collector
from realuid_lightning.metrics.efficientnet import EfficientNetFeatures
from realuid_lightning.metrics.features import (
    CheckedFeatures,
    Features,
    RawFeatures,
    feature_fingerprint,
    feature_label,
    to_bytes,
)
from realuid_lightning.metrics.fid import FID
from realuid_lightning.metrics.frechet import covariance_root, moments, root_trace
from realuid_lightning.metrics.inception import InceptionFeatures
from realuid_lightning.metrics.inception_score import InceptionScore
from realuid_lightning.metrics.kid import KID
from realuid_lightning.metrics.mmd import MMD
from realuid_lightning.metrics.modes import Modes
from realuid_lightning.metrics.prdc import PRDC
from realuid_lightning.metrics.protocol import Protocol
from realuid_lightning.metrics.published import read_moments, write_moments
from realuid_lightning.metrics.reference import Reference, ReferenceCache
from realuid_lightning.metrics.sums import FeatureStatistics
from realuid_lightning.metrics.toy import ToyFeatures
from realuid_lightning.metrics.wasserstein import Wasserstein

__all__ = [
    "FID",
    "KID",
    "MMD",
    "PRDC",
    "Better",
    "CheckedFeatures",
    "ClassifierFeatures",
    "Collector",
    "EfficientNetFeatures",
    "FeatureStatistics",
    "Features",
    "InceptionFeatures",
    "InceptionScore",
    "Metric",
    "Modes",
    "Protocol",
    "RawFeatures",
    "Reference",
    "ReferenceCache",
    "Sample",
    "ToyFeatures",
    "Wasserstein",
    "covariance_root",
    "drawn_order",
    "feature_fingerprint",
    "feature_label",
    "moments",
    "read_moments",
    "root_trace",
    "to_bytes",
    "write_moments",
]
