"""The features of TF-Inception, on which published figures of images rest."""

import io
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realuid_lightning.errors import Faults, UserError
from realuid_lightning.fingerprint import fingerprint
from realuid_lightning.metrics.features import Features, of_bytes, read_weights, to_bytes, truncated_to_bytes

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"

PROTOCOLS = {
    "paper": ("TF-Inception (2048)", "nearest", "bilinear as in TensorFlow 1, to 299 x 299"),
    "torchmetrics": ("TF-Inception (2048), torchmetrics", "truncate", "bilinear, antialiased, to 299 x 299"),
}
"""Label, rounding and resize."""


class InceptionFeatures(Features):
    """The 2048 pooled features of TF-Inception, on which published FIDs rest (torch-fidelity's port).

    Grey samples are repeated to three channels.

    Args:
        weights: Local copy of the weights file; downloaded once into torch's hub folder when None. Only weights are
            read, and if the file's name ends in a hash, as that of torch-fidelity's does, its content must have it.
        protocol: How samples in [-1, 1] become what the network sees. ``paper``: rounded to the nearest byte, as an
            image file would, and resized as TensorFlow did for the published figures. ``torchmetrics``: cut down to the
            byte below and resized with antialiasing, as ``FrechetInceptionDistance(normalize=True)`` of that name does
            unless told otherwise.

    Attributes:
        num_classes: Number of logits ``K``: ImageNet's classes and 8 that Inception does not use.

    Raises:
        UserError: If there is no such protocol.

    Example:
        >>> InceptionFeatures().label  # weights are read, or downloaded, when they are needed
        'TF-Inception (2048)'
    """

    num_features = 2048
    num_classes = 1008

    def __init__(self, weights: str | None = None, protocol: Literal["paper", "torchmetrics"] = "paper") -> None:
        super().__init__()
        faults = Faults("InceptionFeatures")
        faults.unless(protocol in PROTOCOLS, f"protocol must be paper or torchmetrics, got {protocol!r}")
        faults.raise_any()
        self.label, self.rounding, self.resize = PROTOCOLS[protocol]
        self.weights, self.protocol = weights, protocol
        self.network: nn.Module | None = None

    def fault(self, shape: tuple[int, ...]) -> str | None:
        """Refuse what is no image of 1 or 3 channels."""
        if len(shape) == 3 and shape[0] in (1, 3):
            return None
        return (
            f"InceptionFeatures need images of 1 or 3 channels, but samples have shape {shape}: set features to "
            "RawFeatures or a module of your own"
        )

    def prepare(self) -> None:
        """Load the weights.

        Raises:
            UserError: If they can be neither found nor downloaded, or the file is broken, another one than its name
                says, or holds more than weights.
        """
        if self.network is not None:
            return
        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            state, self.weights_hash = read_weights(
                _downloaded() if self.weights is None else Path(self.weights).expanduser()
            )
            # torch-fidelity unpickles whatever it is given, so it is given what has been read safely, written anew.
            torch.save(state, written := io.BytesIO())
            written.seek(0)
            file: Any = written
            antialias = self.protocol == "torchmetrics"
            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], file, antialias=antialias)
        except Exception as error:  # of files, downloads, unpickling and of torch-fidelity, as they come
            source = f"the file {self.weights}" if self.weights else "the download"
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise UserError(
                f"FID: no Inception weights: {source} failed ({reason}). Name a local copy of {INCEPTION_FILE} by "
                "--features InceptionFeatures --features.weights FILE, or choose other features, such as "
                "RawFeatures or a module of your own"
            ) from error

    def fingerprint(self) -> str:
        """Return a hash of protocol, network and weights, but not of where they lie: the same are in many places."""
        assert self.network is not None, "prepare() loads the weights"
        return fingerprint((self.protocol, self.weights_hash, type(self.network).__mro__))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return features of samples in [-1, 1]; NaN for samples that are not finite, which are no images."""
        assert self.network is not None, "prepare() loads the weights"
        network = self.network
        rounded = to_bytes if self.protocol == "paper" else truncated_to_bytes
        return of_bytes(x, lambda levels: network(levels.expand(-1, 3, -1, -1)), rounded)

    def logits(self, vectors: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        """Return the logits of feature vectors, without the bias, as Inception scores of torch-fidelity take them."""
        assert self.network is not None, "prepare() loads the weights"
        weight: Any = self.network.fc.weight  # type: ignore[union-attr]
        logits: Tensor = vectors @ weight.T.to(vectors.dtype)
        return logits


def _downloaded() -> Path:
    """Return the file of weights in torch's hub folder; download it, unless that has been done."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    file = Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE).expanduser()
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(file), progress=False)
    return file
