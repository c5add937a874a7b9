"""What turns images into latents and back: the library diffusers' autoencoder, and what one of your own must have."""

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realuid_lightning.data.files import content_hashes
from realuid_lightning.data.folders import folder_at
from realuid_lightning.errors import UserError
from realuid_lightning.fingerprint import fingerprint
from realuid_lightning.recorded import Recorded

_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


class Encoder(Recorded, nn.Module, ABC):
    """Base of encoders; any module with these three methods serves as well.

    Generators of latents are recorded with the encoder, so that ``load_generator`` decodes their samples, if it derives
    from this class: it must then find its weights again by the arguments of its constructor, which reads nothing. What
    it makes of an image must not depend on the rest of the batch, and not be drawn.
    """

    @abstractmethod
    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one latent for samples of ``shape``.

        Raises:
            UserError: If there is none.
        """

    @abstractmethod
    def encode(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *e"]:
        """Return latents: what networks are trained on, so of about unit variance.

        Args:
            x: Samples; images ``(B, C, H, W)`` in [-1, 1].
        """

    @abstractmethod
    def decode(self, z: Float[Tensor, "b *e"]) -> Float[Tensor, "b *d"]:
        """Return the samples that latents stand for; images in [-1, 1], or beyond where they are clipped later."""


class DiffusersEncoder(Encoder):
    """An ``AutoencoderKL`` of diffusers (extra ``diffusers``) from a local folder, as Stable Diffusion has it.

    Latents are ``(mean - shift_factor) * scaling_factor`` of the posterior, with both factors from the model's config.
    The mean, and no draw: the cache keeps one latent of each image, which is then a function of the image alone.

    Args:
        folder: Local folder with ``config.json`` and ``diffusion_pytorch_model.safetensors``, or one with a folder
            ``vae`` that has them. Weights are read strictly, and no pickle is.

    Raises:
        UserError: When first used: if diffusers is not installed, files are missing or do not fit each other, or the
            model is another one.

    Example:
        >>> encoder = DiffusersEncoder("models/vae")  # read when it is first used
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder_at(folder)
        self._opened: list[Any] = []  # the model, once it is read; no part of this module, so that copies read it anew

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``(latent_channels, H / f, W / f)``; reads the config alone."""
        config = self._config()
        blocks, channels = config.get("down_block_types"), config.get("in_channels")
        factor, inner = 2 ** (len(blocks if isinstance(blocks, list) else [0]) - 1), config.get("latent_channels")
        if len(shape) != 3 or shape[0] != channels or any(side % factor for side in shape[1:]):
            raise UserError(
                f"{self._home}: encodes images of {channels} channels whose sides {factor} divides, got {shape}"
            )
        if not isinstance(inner, int):
            raise UserError(f"{self._home / _FILES[0]}: expected latent_channels, a number, got {inner!r}")
        return (inner, *(side // factor for side in shape[1:]))

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e i j"]:
        """Return the scaled means of the posterior."""
        scale, shift = self._factors()
        mean: Tensor = self._loaded(x.device).encode(x).latent_dist.mean
        return (mean - shift) * scale

    def decode(self, z: Float[Tensor, "b e i j"]) -> Float[Tensor, "b c h w"]:
        """Return the images."""
        scale, shift = self._factors()
        images: Tensor = self._loaded(z.device).decode(z / scale + shift).sample
        return images

    def fingerprint(self) -> str:
        """Return a hash of config and weights, wherever they lie."""
        try:
            contents = b"".join(content_hashes(self._home, list(_FILES)))
        except OSError as error:
            raise self._missing(error) from error
        return f"DiffusersEncoder-{hashlib.sha256(contents).hexdigest()[:12]}"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model behind: loader processes do not encode, and a copy reads it anew."""
        return self.__dict__ | {"_opened": []}

    @property
    def model(self) -> Any:
        """The library's model; None before it is first used."""
        return self._opened[0] if self._opened else None

    @property
    def _home(self) -> Path:
        return self.folder if (self.folder / _FILES[0]).is_file() else self.folder / "vae"

    def _config(self) -> dict[str, Any]:
        try:
            config = json.loads((self._home / _FILES[0]).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise self._missing(error) from error
        if not isinstance(config, dict) or config.get("_class_name") != "AutoencoderKL":
            raise UserError(f"{self._home / _FILES[0]}: expected the config of an AutoencoderKL")
        return config

    def _missing(self, error: Exception) -> UserError:
        return UserError(
            f"DiffusersEncoder: folder must hold {' and '.join(_FILES)}, but in {self.folder} they cannot be read "
            f"({error}): download an AutoencoderKL, and name its folder"
        )

    def _factors(self) -> tuple[float, float]:
        config = self._config() if self.model is None else self.model.config
        scale, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor") or 0.0
        return float(scale), float(shift)

    def _loaded(self, device: torch.device) -> Any:
        if self.model is None:
            self._config()  # tells what is missing, and refuses another class
            self._opened.append(_read(self._home))
        return self.model if self.model.device == device else self.model.to(device)


def _read(folder: Path) -> nn.Module:
    """Let the library read a model, strictly, from the safetensors file of this folder."""
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise UserError(
            f"DiffusersEncoder needs diffusers ({error}): pip install 'realuid-lightning[diffusers]'"
        ) from error
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": False}
    try:
        model, report = AutoencoderKL.from_pretrained(str(folder), output_loading_info=True, **options)
    except Exception as error:  # of its own, of safetensors, of the class
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise UserError(f"{folder}: expected {' and '.join(_FILES)} that fit each other, but {reason}") from error
    faults = {name: found for name, found in report.items() if found}
    if faults:
        raise UserError(f"{folder}: its weights do not fit its config: {str(faults)[:300]}")
    return cast(nn.Module, model).eval().requires_grad_(False)


def encoder_fingerprint(encoder: nn.Module) -> str:
    """Return a text that changes with what an encoder computes; one with a method ``fingerprint()`` says it itself.

    Raises:
        NoFingerprintError: If something in it cannot be read.
    """
    own = getattr(encoder, "fingerprint", None)
    return str(own()) if callable(own) else f"{type(encoder).__name__}-{fingerprint(encoder.eval())[:12]}"
