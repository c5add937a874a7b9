"""Data sets, the order in which samples come, and the LightningDataModule that serves them."""

from realuid_lightning.data.batch import Batch, Draws, to_floats
from realuid_lightning.data.celeba import CelebA
from realuid_lightning.data.encoded import Latents
from realuid_lightning.data.encoders import DiffusersEncoder, Encoder
from realuid_lightning.data.folder import ImageFiles, ImageFolder
from realuid_lightning.data.latents import LatentDataset
from realuid_lightning.data.module import MatchingDataModule
from realuid_lightning.data.pairs import Degradation, Degraded, Inpainting, Sketch, SuperResolution
from realuid_lightning.data.shards import Shards
from realuid_lightning.data.source import MemorySource, Source
from realuid_lightning.data.sources import CIFAR10, Digits, FashionMNIST
from realuid_lightning.data.stream import PairStream, RealSequence, RealStream, StreamSampler
from realuid_lightning.data.tables import DatasetsFolder
from realuid_lightning.data.toy import Gaussian, Toy2D

__all__ = [
    "CIFAR10",
    "Batch",
    "CelebA",
    "DatasetsFolder",
    "Degradation",
    "Degraded",
    "DiffusersEncoder",
    "Digits",
    "Draws",
    "Encoder",
    "FashionMNIST",
    "Gaussian",
    "ImageFiles",
    "ImageFolder",
    "Inpainting",
    "LatentDataset",
    "Latents",
    "MatchingDataModule",
    "MemorySource",
    "PairStream",
    "RealSequence",
    "RealStream",
    "Shards",
    "Sketch",
    "Source",
    "StreamSampler",
    "SuperResolution",
    "Toy2D",
    "to_floats",
]
