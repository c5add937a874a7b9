"""Networks of another preconditioning than EDM's, made into networks of ``DiffusionPath(sigma_data=1)``.

That path gives its network ``log(sigma) / 4`` and the point over ``sqrt(sigma^2 + 1)``, and makes the denoised sample
``D = c_skip x + c_out F`` of its output ``F`` (EDM, arXiv 2206.00364, table 1). Where the original says
``D = x - sigma e`` instead, solving for ``F`` gives ``F = sigma c_in x - sqrt(sigma^2 + 1) e``. They are here for the
keys of EDM's own checkpoints; any other network that predicts noise is served by ``paths.Noise`` as it is.
"""

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from realuid_lightning.conditions import Condition
from realuid_lightning.errors import Faults
from realuid_lightning.networks.blocks import Encoding
from realuid_lightning.networks.unconditional import unconditional
from realuid_lightning.paths.time_inputs import VPSteps
from realuid_lightning.recorded import Recorded

_NEEDS = ("encode", "decode", "shape", "middle_shape", "num_classes", "condition_channels")


class PreconditionedNetwork(Recorded, nn.Module, ABC):
    """A network that predicts noise at a time of its own; subclasses say which.

    State-dict keys are ``model.*``, as those of EDM's ``VPPrecond`` and ``VEPrecond``. A GAN head can be put on the
    middle if the network inside has one.

    Args:
        model: The bare network, with the members that ``HeadedNetwork`` asks for, ``num_classes`` and
            ``condition_channels``.

    Raises:
        UserError: If the network lacks one of these.
    """

    model: Any  # a module, whose members beyond those of nn.Module are those of a network

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        faults = Faults(type(self).__name__)
        missing = [name for name in _NEEDS if not hasattr(model, name)]
        faults.unless(
            not missing,
            f"model must have {', '.join(_NEEDS)}, but {type(model).__name__} lacks {', '.join(missing)}",
        )
        faults.raise_any()
        self.model = model
        self.shape: tuple[int, ...] = tuple(self.model.shape)
        self.num_classes: int | None = self.model.num_classes
        self.condition_channels: int = self.model.condition_channels
        self.middle_shape: tuple[int, ...] = tuple(self.model.middle_shape)

    def unconditional(self, y: Condition) -> Condition:
        """Return what stands for no condition, as the bare network has it."""
        return unconditional(self.model, y)

    @abstractmethod
    def time(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the time that the bare network is given at noise level ``sigma``."""

    def point(self, x: Float[Tensor, "b i h w"], total: Tensor) -> Float[Tensor, "b i h w"]:
        """Return the point that it is given, of ``x`` and of ``sqrt(sigma^2 + 1)``, by which the path divided."""
        del total
        return x

    def noise(self, raw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the noise of standard deviation 1 that its output stands for."""
        return raw

    def forward(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b i h w"], y: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Return what ``DiffusionPath(sigma_data=1)`` expects; arguments and errors as of the bare network.

        Args:
            t: ``log(sigma) / 4``.
            x: Points on the path at unit variance.
            y: Class labels, exactly when the network has classes.
        """
        return self.decode(self.encode(t, x, y)).to(x.dtype)

    def encode(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b i h w"], y: Int64[Tensor, " b"] | None = None
    ) -> Encoding:
        """Run the lower half; arguments as in ``forward``."""
        sigma = (4 * t).exp()
        total = (sigma**2 + 1).sqrt()[:, None, None, None]
        inner: Encoding = self.model.encode(self.time(sigma), self.point(x, total), y)
        sample = x[:, : self.shape[0]]
        return Encoding(inner.middle, (*inner.skips, sigma[:, None, None, None] * sample, total), inner.embedding)

    def decode(self, encoding: Encoding) -> Float[Tensor, "b c h w"]:
        """Run the upper half on what ``encode`` returned."""
        *skips, scaled, total = encoding.skips
        noise = self.noise(self.model.decode(Encoding(encoding.middle, tuple(skips), encoding.embedding)))
        return scaled - total * noise


class VPNetwork(PreconditionedNetwork):
    """A network with EDM's ``VPPrecond``: it predicts noise, at times of the variance-preserving diffusion.

    Args:
        model: The bare network, a ``SongUNet`` in the published ones.
        beta_min: Noise rate at the data end, of which ``sigma`` as a function of time follows.
        beta_max: Noise rate at the source end (the original's ``beta_min + beta_d``).
        steps: Number of steps of the original's training; the network is told times in [0, steps - 1].

    Raises:
        UserError: If arguments are out of range.
    """

    def __init__(self, model: nn.Module, beta_min: float = 0.1, beta_max: float = 20.0, steps: int = 1000) -> None:
        super().__init__(model)
        self.steps = VPSteps(beta_min, beta_max, steps)

    def time(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the step, not rounded."""
        return self.steps.of(sigma)


class VENetwork(PreconditionedNetwork):
    """A network with EDM's ``VEPrecond``: given unscaled points, it predicts the negative of the noise.

    Args:
        model: The bare network, a ``SongUNet`` in the published ones.
    """

    def time(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return ``log(sigma / 2)``."""
        return (sigma / 2).log()

    def point(self, x: Float[Tensor, "b i h w"], total: Tensor) -> Float[Tensor, "b i h w"]:
        """Return the point as it is on the path."""
        return x * total

    def noise(self, raw: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the negative output."""
        return -raw
