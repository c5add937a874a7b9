"""Features for small images: what classifiers see that were trained on digits, Fashion-MNIST and CIFAR-10."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from realuid_lightning.atomic import write_tensors
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.metrics.features import Features, of_bytes

ClassifierName = Literal["digits", "fashion_mnist", "cifar10_16"]
"""Data sets with a classifier of ours; the number is that of pixels a side."""

FOLDER = Path(__file__).parent / "weights"


class Architecture(NamedTuple):
    """What the name of a classifier says of its network.

    Attributes:
        shape: Shape of one image.
        widths: Channels of the residual blocks; each block but the first halves height and width.
    """

    shape: tuple[int, int, int]
    widths: tuple[int, ...]


ARCHITECTURES: Mapping[str, Architecture] = {
    "digits": Architecture((1, 8, 8), (32, 64)),
    "fashion_mnist": Architecture((1, 28, 28), (32, 64, 128)),
    "cifar10_16": Architecture((3, 16, 16), (32, 64, 128)),
}


class Residual(nn.Module):
    """Two convolutions, normalised and rectified before each, beside a skip connection.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; where they are more, height and width are halved.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        stride = 1 if in_channels == out_channels else 2
        self.before = _rectified(in_channels)
        self.update = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            _rectified(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )
        self.skip = None if stride == 1 else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k g v"]:
        """Transform ``h``."""
        rectified = self.before(h)
        skip: Tensor = h if self.skip is None else self.skip(rectified)
        update: Tensor = self.update(rectified)
        return skip + update


class ClassifierNetwork(nn.Module):
    """A small residual network with pre-activation (He et al. 2016, arXiv 1603.05027), for one of our data sets.

    Args:
        name: Data set.

    Attributes:
        num_features: Length ``F`` of a feature vector.
        num_classes: Number of classes ``K``.

    Example:
        >>> network = ClassifierNetwork("digits")
        >>> network(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    num_classes = 10

    def __init__(self, name: ClassifierName) -> None:
        super().__init__()
        (channels, size, _), widths = ARCHITECTURES[name]
        self.num_features = widths[-1]
        self.features = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, stride=2 if size > 16 else 1, padding=1, bias=False),
            *(Residual(*pair) for pair in zip((widths[0], *widths), widths, strict=False)),
            _rectified(widths[-1]),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(widths[-1], self.num_classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the logits of images in [-1, 1]."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _rectified(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


class ClassifierFeatures(Features):
    """What a small classifier sees of an image just before its logits.

    The networks are part of this package (``docs/features.md``), and see shapes, where a Fréchet distance of raw values
    sees mean and covariance alone. Samples in [-1, 1] are rounded to bytes first, as an image file would. So are
    digits, though those of the data set have 17 levels alone: a file of generated ones has 256.

    Args:
        name: Data set that the classifier was trained on; samples must have its shape.

    Attributes:
        num_classes: Number of classes ``K``.

    Raises:
        UserError: If there is no classifier of that name.

    Example:
        >>> features = ClassifierFeatures("digits")
        >>> features.prepare()
        >>> features.label, features(torch.zeros(5, 1, 8, 8)).shape
        ('digits classifier (64)', torch.Size([5, 64]))
    """

    rounding = "nearest"
    num_classes = ClassifierNetwork.num_classes

    def __init__(self, name: ClassifierName) -> None:
        super().__init__()
        faults = Faults("ClassifierFeatures")
        faults.unless(name in ARCHITECTURES, f"name must be one of {', '.join(get_args(ClassifierName))}, got {name!r}")
        faults.raise_any()
        self.name = name
        self.shape = ARCHITECTURES[name].shape
        self.num_features = ARCHITECTURES[name].widths[-1]
        self.label = f"{name} classifier ({self.num_features})"
        self.network: ClassifierNetwork | None = None

    def fault(self, shape: tuple[int, ...]) -> str | None:
        """Refuse samples of another shape than that of the classifier's data set."""
        if tuple(shape) == self.shape:
            return None
        fitting = [name for name, architecture in ARCHITECTURES.items() if architecture.shape == tuple(shape)]
        advice = f"name {fitting[0]}" if fitting else "choose features that take it, such as RawFeatures"
        return f"the {self.label} takes samples of shape {self.shape}, but they have shape {tuple(shape)}: {advice}"

    def prepare(self) -> None:
        """Load the weights.

        Raises:
            UserError: If the file is missing, or is not what ``realuid classifier`` wrote.
        """
        if self.network is None:
            network = ClassifierNetwork(self.name)
            self.weights_hash = load_classifier(network, FOLDER / f"{self.name}.safetensors")["sha256"]
            self.network = network.eval().requires_grad_(False)

    def fingerprint(self) -> str:
        """Return name and weights: what these features depend on."""
        return f"{self.name} {self.weights_hash}"

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return features of samples in [-1, 1]; NaN for samples that are not finite, which are no images."""
        assert self.network is not None, "prepare() loads the weights"
        features = self.network.features
        return of_bytes(x, lambda levels: features(levels.float() / 127.5 - 1))

    def logits(self, vectors: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        """Return the logits that the classifier gives to feature vectors."""
        assert self.network is not None, "prepare() loads the weights"
        head = self.network.head
        return functional.linear(vectors, head.weight.to(vectors.dtype), head.bias.to(vectors.dtype))


def save_classifier(network: ClassifierNetwork, file: str | Path, about: Mapping[str, str]) -> None:
    """Write a classifier in half precision, with a hash of its weights and what is to be known about it.

    Args:
        network: The classifier.
        file: The ``.safetensors`` file to create or replace.
        about: Texts for the file's header.
    """
    state = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    write_tensors(state, file, {**about, "sha256": _hash(state)})


def load_classifier(network: ClassifierNetwork, file: str | Path) -> dict[str, str]:
    """Fill a classifier with the weights of a file, and return what its header tells.

    Raises:
        UserError: If the file is missing or damaged, or its weights are not those of its hash or of this network.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            about = dict(opened.metadata() or {})
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dictionary
        if about.get("sha256") != _hash(state):
            raise ValueError("its weights do not have the SHA-256 that its header tells")
        network.load_state_dict(state)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"ClassifierFeatures: {file} holds no such classifier ({reason}): install this package anew, or train the "
            "classifier by realuid classifier"
        ) from error
    return about


def _hash(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
