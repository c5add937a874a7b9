"""What maps samples to the vectors that metrics see; what all extractors share."""

import hashlib
import io
import math
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Float64, UInt8
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from realuid_lightning.errors import UserError
from realuid_lightning.fingerprint import fingerprint
from realuid_lightning.recorded import Recorded


class Features(Recorded, nn.Module):
    """Base of our extractors; any module with ``num_features`` that maps ``(B, *D)`` to ``(B, F)`` serves as well.

    Attributes:
        num_features: Length ``F`` of a feature vector.
        label: Name that stands beside every figure.
        rounding: How samples are rounded before anything else is done, in words.
        resize: How images are brought to the size of the network, in words.
        weights_hash: SHA-256 of the weights, once they are loaded; empty where there are none.
    """

    num_features: int
    label: str
    rounding: str = "none"
    resize: str = "none"
    weights_hash: str = ""

    def prepare(self) -> None:
        """Load weights; called once before any training, so that a missing file is told at once."""

    def fault(self, shape: tuple[int, ...]) -> str | None:
        """Say what keeps samples of ``shape`` from having these features, and what to do; None if nothing does.

        Called before ``prepare``: nothing may be read or loaded for it.
        """
        del shape
        return None

    def extra_repr(self) -> str:
        """Show the settings."""
        return ", ".join(f"{name}={value!r}" for name, value in self._arguments.items())


class RawFeatures(Features):
    """The values themselves: a Fréchet distance of pixels or coordinates, for small data such as 8 x 8 digits.

    Args:
        shape: Shape of one sample.

    Example:
        >>> features = RawFeatures([1, 8, 8])
        >>> features.label, features(torch.zeros(5, 1, 8, 8)).shape
        ('raw values (64)', torch.Size([5, 64]))
    """

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.num_features = math.prod(shape)
        self.label = f"raw values ({self.num_features})"

    def fault(self, shape: tuple[int, ...]) -> str | None:
        """Refuse samples of other than ``num_features`` values."""
        if math.prod(shape) == self.num_features:
            return None
        return (
            f"the features are {self.label}, but samples have shape {shape}: set features.init_args.shape to "
            f"{list(shape)}"
        )

    def forward(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b f"]:
        """Return the samples as rows of float64."""
        return x.flatten(1).double()


class CheckedFeatures(nn.Module):
    """An extractor whose features are what it promises: float64 rows of length ``num_features``.

    Args:
        features: The extractor.
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.num_features = int(features.num_features)  # type: ignore[arg-type]
        self.num_classes = int(getattr(features, "num_classes", None) or 0)

    def forward(self, x: Tensor) -> Float[Tensor, "b f"]:
        """Return the features of samples.

        Raises:
            UserError: If the extractor fails, or returns something else.
        """
        name, expected = type(self.features).__name__, (len(x), self.num_features)
        try:
            vectors = self.features(x)
        except UserError:
            raise
        except Exception as error:  # whatever a user's code can raise
            raise UserError(
                f"metrics: features {name} must take samples of shape {tuple(x.shape)} on {x.device}, but they raised "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            ) from error
        if not isinstance(vectors, Tensor) or tuple(vectors.shape) != expected or not vectors.is_floating_point():
            came = f"{vectors.dtype} of shape {tuple(vectors.shape)}" if isinstance(vectors, Tensor) else type(vectors)
            raise UserError(
                f"metrics: features {name} must return floating-point numbers of shape {expected}, one row of "
                f"num_features a sample, but returned {came}: change num_features or what forward returns"
            )
        return vectors.double()

    def logits(self, vectors: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        """Return the logits of a classifier, as float64.

        Raises:
            UserError: If they are not ``num_classes`` numbers a vector.
        """
        logits = self.features.logits(vectors)  # type: ignore[operator]
        expected = (len(vectors), self.num_classes)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            came = f"a shape of {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(
                f"metrics: logits of features {type(self.features).__name__} must have shape {expected}, one number "
                f"for each of num_classes, got {came}"
            )
        return logits.double()


def read_weights(file: Path) -> tuple[dict[str, Tensor], str]:
    """Read weights without running what their file may contain; return them and the file's SHA-256.

    Raises:
        ValueError: If the file is not the one that its name says, by a hash at its end, or holds more than weights.
    """
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", file.name)
    if named is None:
        rank_zero_info(f"features: {file} has the SHA-256 {digest}; its name carries no hash to compare it with")
    elif not digest.startswith(named[1]):
        raise ValueError(f"its SHA-256 is {digest[:16]}..., not what the name says of {file}; remove it")
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is refused in the next moment
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), digest
    except pickle.UnpicklingError as error:
        raise ValueError("it is no file of weights, or holds objects that could run code") from error


def to_bytes(x: Float[Tensor, "*shape"]) -> Tensor:
    """Round samples in [-1, 1] to the nearest of 256 levels, uint8; values outside are clipped.

    Raises:
        UserError: If there is a NaN, for no level stands for it.

    Example:
        >>> to_bytes(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
        tensor([  0, 128, 255, 255], dtype=torch.uint8)
    """
    if x.isnan().any():
        raise UserError(
            "samples must be numbers to become pixels, but there are NaN among them: what made them has diverged; take "
            "an earlier checkpoint"
        )
    return ((x.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def truncated_to_bytes(x: Float[Tensor, "*shape"]) -> Tensor:
    """Cut samples in [-1, 1] down to the level below, as torchmetrics does; values outside are clipped.

    What a byte has become as a float is that byte again: a level counts as reached from 1e-4 levels below.

    Example:
        >>> truncated_to_bytes(torch.tensor([-1.0, 0.0, 0.999, 2.0]))
        tensor([  0, 127, 254, 255], dtype=torch.uint8)
    """
    return ((x.float() + 1) * 127.5 + 1e-4).clamp_(0, 255).to(torch.uint8)


def of_bytes(
    x: Float[Tensor, "b c h w"],
    network: Callable[[UInt8[Tensor, "b c h w"]], Tensor],
    rounded: Callable[[Tensor], Tensor] = to_bytes,
) -> Float64[Tensor, "b f"]:
    """Return what a network makes of samples in [-1, 1] as bytes; NaN for those that are not finite.

    Args:
        x: Samples.
        network: Takes images as bytes, and returns vectors.
        rounded: Makes bytes of samples.

    Example:
        >>> of_bytes(torch.tensor([1.0, torch.inf]).view(2, 1, 1, 1), lambda levels: levels.flatten(1))
        tensor([[255.],
                [   nan]], dtype=torch.float64)
    """
    vectors = network(rounded(x.nan_to_num(0.0)))
    finite = x.flatten(1).isfinite().all(1, keepdim=True)
    return vectors.double().where(finite, torch.nan)


def feature_label(features: nn.Module) -> str:
    """Return the name that stands beside figures of these features."""
    return str(getattr(features, "label", type(features).__name__))


def feature_fingerprint(features: nn.Module) -> str:
    """Return a text that changes with what the extractor computes: its class, code, attributes and weights.

    An extractor with a method ``fingerprint()`` says it itself.

    Raises:
        NoFingerprintError: If something in it cannot be read; the message says what.
    """
    own = getattr(features, "fingerprint", None)
    text = own() if callable(own) else fingerprint(features)
    return f"{type(features).__module__}.{type(features).__qualname__} {text}"
