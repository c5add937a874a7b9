"""Feature extractors of Fréchet distances: from samples as a model makes them to vectors."""

import hashlib
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realuid_lightning.errors import UserError
from realuid_lightning.recorded import Recorded

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


class Features(Recorded, nn.Module):
    """Base of our extractors; any module with ``num_features`` that maps ``(B, *D)`` to ``(B, F)`` serves as well.

    Attributes:
        num_features: Length ``F`` of a feature vector.
        label: Name that stands beside every figure.
    """

    num_features: int
    label: str

    def prepare(self) -> None:
        """Load weights; called once before any training, so that a missing file is told at once."""

    def extra_repr(self) -> str:
        """Show the settings, for ``feature_fingerprint``: figures with other settings are other figures."""
        return ", ".join(f"{name}={value!r}" for name, value in self._arguments.items())


class RawFeatures(Features):
    """The values themselves: a Fréchet distance of pixels or coordinates, for small data such as 8 x 8 digits.

    Args:
        shape: Shape of one sample.
    """

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.num_features = math.prod(shape)
        self.label = f"raw values ({self.num_features})"

    def forward(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b f"]:
        """Return the samples as rows of float64."""
        return x.flatten(1).double()


class InceptionFeatures(Features):
    """The 2048 pooled features of TF-Inception, on which published FIDs rest (torch-fidelity's port, its TF resize).

    Samples in [-1, 1] are rounded to bytes first, as an image file would; grey ones are repeated to three channels.

    Args:
        weights: Local copy of the weights file; downloaded once by torch-fidelity when None.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.num_features = 2048
        self.label = "TF-Inception (2048)"
        self.weights = weights
        self.network: nn.Module | None = None

    def prepare(self) -> None:
        """Load the weights.

        Raises:
            UserError: If they can be neither found nor downloaded, or the file is broken.
        """
        if self.network is not None:
            return
        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            # antialias would replace TensorFlow's resize, on which published figures rest, by torch's
            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], self.weights, antialias=False)
        except Exception as error:  # torch-fidelity lets errors of files, downloads and unpickling through as they come
            source = f"the file {self.weights}" if self.weights else "the download"
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise UserError(
                f"FID: no Inception weights: {source} failed ({reason}). Name a local copy of {INCEPTION_FILE} by "
                "--fid.features InceptionFeatures --fid.features.weights FILE, or choose other features, such as "
                "RawFeatures or a module of your own"
            ) from error

    def extra_repr(self) -> str:
        """Show nothing: one and the same weights are kept in many places."""
        return ""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return features of samples in [-1, 1]."""
        assert self.network is not None, "prepare() loads the weights"
        features: Tensor = self.network(to_bytes(x).expand(-1, 3, -1, -1))
        return features.double()


def to_bytes(x: Float[Tensor, "*shape"]) -> Tensor:
    """Round samples in [-1, 1] to the nearest of 256 levels, uint8; values outside are clipped."""
    return ((x.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def feature_label(features: nn.Module) -> str:
    """Return the name that stands beside figures of these features."""
    return str(getattr(features, "label", type(features).__name__))


def feature_fingerprint(features: nn.Module) -> str:
    """Return a text that changes with the extractor's class, settings (those in its ``repr``) or weights."""
    digest = hashlib.sha256(repr(features).encode())
    for name, tensor in sorted(features.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{type(features).__module__}.{type(features).__qualname__} {digest.hexdigest()}"
