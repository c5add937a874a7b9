"""Bridge matching: Brownian bridges between samples of two domains."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from realuid_lightning.errors import Faults, UserError
from realuid_lightning.paths.base import MatchingPath
from realuid_lightning.paths.sample import Samples, Times, expand

# The ODE is infinite at both ends, the drift at the data end. Where sampling begins nothing is known of x1 yet, and
# what the start lacks of it grows as the noise does: hence so near to the source.
START, EDGE = 1e-5, 1e-3


class BridgePath(MatchingPath):
    """``xt = (1-t) x0 + t x1 + eps sqrt(t (1-t)) n`` with the data end or the drift as target (IBMD, arXiv 2502.01362).

    ``x0`` is a sample of the source domain, paired with ``x1`` or not. The one-step generator is ``G(x0, z)``: the
    guess of ``x1`` at the source end.

    Args:
        eps: Noise of the bridge, in (0, 1.5]; at half time its standard deviation is ``eps / 2``.
        target: What the network predicts: ``x1``, or ``drift``, ``(x1 - xt) / (1 - t)``.
        condition: Show ``x0`` to the network beside ``xt``. The ODE needs it: only then is the law of ``xt`` known.
        latent: Show the latent ``z`` to the generator's network in a block of its own, which is zero elsewhere.

    Raises:
        UserError: If arguments are out of range, listing all of them.

    Example:
        >>> path = BridgePath(eps=0.5)
        >>> path.translates, path.std(torch.tensor([0.5]))
        (True, tensor([0.2500]))
    """

    t_range = (START, 1 - EDGE)
    translates = True

    def __init__(
        self,
        eps: float = 1.0,
        target: Literal["x1", "drift"] = "x1",
        condition: bool = True,
        latent: bool = False,
    ) -> None:
        faults = Faults("BridgePath")
        faults.unless(0 < eps <= 1.5, f"eps must be in (0, 1.5], got {eps}; more would be left at the data end")
        faults.unless(target in ("x1", "drift"), f"target must be 'x1' or 'drift', got {target!r}")
        faults.raise_any()
        self.eps, self.target, self.condition, self.latent = eps, target, condition, latent
        self.conditions = int(condition) + int(latent)

    # ------------------------------------------------------------------------------------------------- training

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return ``(1-t) x0 + t x1``."""
        return (1 - t) * x0 + t * x1

    def std(self, t: Tensor) -> Tensor:
        """Return ``eps sqrt(t (1-t))``."""
        return self.eps * (t * (1 - t)).sqrt()

    def _point(self, t: Tensor, x0: Tensor, x1: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        assert eps is not None
        xt = self.mean(t, x0, x1) + self.std(t) * eps
        return xt, x1 if self.target == "x1" else (x1 - xt) / (1 - t)

    def signal_to_noise(self, t: Times) -> Times:
        """Return ``t / (eps^2 (1-t))``.

        Raises:
            UserError: If the network does not know ``x0``, of which the law need not be normal.
        """
        return t / (self.eps**2 * (1 - t)) if self.condition else super().signal_to_noise(t)

    # ------------------------------------------------------------------------------------------------ prediction

    def inputs(
        self, t: Times, xt: Samples, x0: Samples | None = None, z: Samples | None = None
    ) -> tuple[Times, Float[Tensor, "b ..."]]:
        """Return ``t`` and ``xt``, joined along the first dimension of a sample by ``x0`` and ``z`` where wanted.

        Raises:
            ValueError: If ``x0`` is wanted and missing.
        """
        blocks = [xt]
        if self.condition:
            if x0 is None:
                raise ValueError("BridgePath(condition=True) shows x0 to the network: pass the source-domain sample")
            blocks.append(x0)
        if self.latent:
            blocks.append(torch.zeros_like(xt) if z is None else z)
        return t, torch.cat(blocks, 1) if len(blocks) > 1 else xt

    # -------------------------------------------------------------------------------------------------- sampling

    def denoise(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Return the guess of ``x1``: the prediction, or ``xt`` and the drift for the rest of the time."""
        del x0
        return prediction if self.target == "x1" else xt + (1 - expand(t, xt)) * prediction

    def velocity(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Return the velocity of the probability-flow ODE given ``x0``.

        Raises:
            UserError: If the network does not know ``x0``.
        """
        x0 = self._known(x0)
        time, x1 = expand(t, xt), self.denoise(t, xt, prediction)
        spread = (1 - 2 * time) / (2 * time * (1 - time))  # the derivative of log std
        return x1 - x0 + spread * (xt - self.mean(time, x0, x1))

    @property
    def ode(self) -> Literal["own steps", "none"]:
        """Its own steps alone, for the velocity is singular at the source; none unless the network knows ``x0``."""
        return "own steps" if self.condition else "none"

    def flow_step(self, t: Times, s: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Return the point at ``s`` of the same ends and noise; Euler's step would need thousands near the source.

        Raises:
            UserError: If the network does not know ``x0``.
        """
        x0 = self._known(x0)
        now, then, x1 = expand(t, xt), expand(s, xt), self.denoise(t, xt, prediction)
        return self.mean(then, x0, x1) + self.std(then) / self.std(now) * (xt - self.mean(now, x0, x1))

    def transition(self, t: Times, s: Times, xt: Samples, prediction: Samples, noise: Samples) -> Samples:
        """Draw ``xs`` from the Brownian bridge between ``xt`` and the guess of ``x1``."""
        now, then = expand(t, xt), expand(s, xt)
        std = self.eps * ((then - now) * (1 - then) / (1 - now)).sqrt()
        return xt + (then - now) / (1 - now) * (self.denoise(t, xt, prediction) - xt) + std * noise

    def noised(self, t: Times, z: Samples, x1: Samples, x0: Samples | None = None) -> Samples:
        """Return ``(1-t) x0 + t x1 + eps sqrt(t (1-t)) z``.

        Raises:
            ValueError: If ``x0`` is missing.
        """
        if x0 is None:
            raise ValueError("BridgePath begins at a source-domain sample: pass x0")
        time = expand(t, z)
        return self.mean(time, x0, x1) + self.std(time) * z

    def _known(self, x0: Samples | None) -> Samples:
        if not self.condition or x0 is None:
            raise UserError("BridgePath: the ODE needs condition: true and source samples; or choose solver Ancestral")
        return x0
