"""Data sets, the order in which samples come, and the LightningDataModule that serves them."""

from realuid_lightning.data.batch import MatchingBatch
from realuid_lightning.data.folder import ImageFiles, ImageFolder
from realuid_lightning.data.module import MatchingDataModule, to_floats
from realuid_lightning.data.source import MemorySource, Source
from realuid_lightning.data.sources import CIFAR10, CelebA, Digits, FashionMNIST
from realuid_lightning.data.stream import LatentDataset, RealSequence, RealStream, StreamSampler
from realuid_lightning.data.toy import Gaussian, Toy2D

__all__ = [
    "CIFAR10",
    "CelebA",
    "Digits",
    "FashionMNIST",
    "Gaussian",
    "ImageFiles",
    "ImageFolder",
    "LatentDataset",
    "MatchingBatch",
    "MatchingDataModule",
    "MemorySource",
    "RealSequence",
    "RealStream",
    "Source",
    "StreamSampler",
    "Toy2D",
    "to_floats",
]
