"""The contract between a matching framework and everything else.

A framework is a family of conditional distributions ``p_t(xt | x1, x0)`` with a regression target ``c``. The network
of a framework predicts ``E[c | xt]``; all losses, modules and solvers speak to it through ``MatchingPath`` alone.
"""

from abc import ABC, abstractmethod
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from realuid_lightning.conditions import Condition
from realuid_lightning.errors import UserError
from realuid_lightning.paths.sample import Network, PathSample, Samples, Times, expand
from realuid_lightning.recorded import Recorded


class MatchingPath(Recorded, ABC):
    """How real (or generated) samples ``x1`` are connected with sources ``x0``, for ``t`` from 0 (source) to 1 (data).

    A subclass needs ``mean`` alone; the target is then the velocity, the time derivative of the sample. In ``mean``,
    ``std`` and ``_point`` the time comes shaped ``(B, 1, ..., 1)``, so that formulas read as in the papers. All methods
    are deterministic: noise comes in as an argument. ``realuid_lightning.testing.check_path`` checks your own path.

    Attributes:
        t_range: Least and greatest time that training and solvers visit.
        translates: Whether ``x0`` is a sample of a source domain, which the data must give; otherwise it is noise.
        conditions: Number of further blocks, each as large as a sample, that ``inputs`` adds to the network's input.
        tuning: Names of arguments that leave the meaning of a prediction alone, such as those of training times: a
            teacher serves whatever their values.
        training: Names of arguments that act in training alone: a generator serves, too, and a run goes on.

    Example:
        >>> class Straight(MatchingPath):
        ...     def mean(self, t, x0, x1):
        ...         return (1 - t) * x0 + t * x1
        >>> Straight().sample(torch.tensor([0.25]), torch.zeros(1, 2), torch.ones(1, 2))
        PathSample(t=tensor([0.2500]), xt=tensor([[0.2500, 0.2500]]), target=tensor([[1., 1.]]))
    """

    t_range: tuple[float, float] = (0.0, 1.0)
    translates: bool = False
    conditions: int = 0
    tuning: frozenset[str] = frozenset()
    training: frozenset[str] = frozenset()

    # ------------------------------------------------------------------------------------------------- training

    @abstractmethod
    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return the mean of ``xt`` given both ends, ``(B, *D)``."""

    def std(self, t: Tensor) -> Tensor:
        """Return the standard deviation of ``xt`` given both ends, shaped as ``t``; zero unless overridden."""
        return torch.zeros_like(t)

    @property
    def noisy(self) -> bool:
        """Whether ``xt`` is random given both ends, so that ``sample`` needs ``eps``."""
        return type(self).std is not MatchingPath.std

    @final
    def sample(self, t: Times, x0: Samples, x1: Samples, eps: Samples | None = None) -> PathSample:
        """Return ``xt = mean + std eps`` and its target; gradients flow through every argument.

        Raises:
            ValueError: If shapes disagree, or a noisy path is given no ``eps``.
        """
        if t.shape != x1.shape[:1]:
            raise ValueError(f"t must have shape {tuple(x1.shape[:1])}, one time a sample, got {tuple(t.shape)}")
        if x0.shape != x1.shape:
            raise ValueError(f"x0 and x1 must have one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
        if self.noisy and (eps is None or eps.shape != x1.shape):
            got = None if eps is None else tuple(eps.shape)
            raise ValueError(f"{type(self).__name__} is noisy: eps must have shape {tuple(x1.shape)}, got {got}")
        xt, target = self._point(expand(t, x1), x0, x1, eps if self.noisy else None)
        if xt.shape != x1.shape or target.shape != x1.shape:
            raise ValueError(
                f"{type(self).__name__}: mean, std and target must give shape {tuple(x1.shape)}, "
                f"got xt {tuple(xt.shape)} and target {tuple(target.shape)}"
            )
        return PathSample(t, xt, target)

    def _point(self, t: Tensor, x0: Tensor, x1: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``xt`` and the target; override where a closed form is cheaper, or the target is no velocity."""

        def xt(time: Tensor) -> Tensor:
            mean = self.mean(time, x0, x1)
            return mean if eps is None else mean + self.std(time) * eps

        point, slope, *_ = torch.func.jvp(xt, (t,), (torch.ones_like(t),))
        return point, slope

    def sample_t(self, u: Times) -> Times:
        """Map uniform draws ``u`` in [0, 1) to the times of teacher and fake model, here uniform on ``t_range``."""
        start, end = self.t_range
        return start + (end - start) * u

    def generator_t(self, u: Times) -> Times:
        """Map uniform draws ``u`` in [0, 1) to the times of the generator's steps, those of ``sample_t`` by default."""
        return self.sample_t(u)

    def weight(self, t: Times) -> Times | None:
        """Return the time weight ``w_t`` of every loss, ``(B,)``; None stands for 1."""
        del t
        return None

    def signal_to_noise(self, t: Times) -> Times:
        """Return ``(a / s)^2`` where ``xt = a x1 + s n``, ``n`` normal, but for what a network that sees ``x0`` knows.

        DMD without its own normalisation weighs by it: so differences of guesses of ``x1`` become those of scores.

        Raises:
            UserError: If there is no such ratio, or the path does not give it, as here.
        """
        del t
        raise UserError(
            f"{type(self).__name__} gives no signal_to_noise, which DMD with normalise: false weighs by: set normalise "
            "to true, or add that method if xt is normal given what the network sees and x1"
        )

    # ------------------------------------------------------------------------------------------------ prediction

    def inputs(
        self,
        t: Times,
        xt: Samples,
        x0: Samples | None = None,
        z: Samples | None = None,
    ) -> tuple[Times, Float[Tensor, "b ..."]]:
        """Return the time and the point that the bare network is given, here ``t`` and ``xt`` themselves.

        Args:
            t: Time.
            xt: Point on the path.
            x0: Source-domain sample of a translating path, for one that shows it to the network.
            z: Latent of the generator, for a path that shows it to the network; None stands for none.
        """
        del x0, z
        return t, xt

    def output(self, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the prediction of the target that the bare network's ``raw`` output stands for, here itself."""
        del t, xt
        return raw

    @final
    def predict(
        self,
        network: Network,
        t: Times,
        xt: Samples,
        y: Condition | None = None,
        x0: Samples | None = None,
        z: Samples | None = None,
    ) -> Samples:
        """Predict the target at ``(t, xt)`` by one call of ``network``; arguments as those of ``inputs``."""
        time, point = self.inputs(t, xt, x0, z)
        return self.output(t, xt, network(time, point, y))

    # -------------------------------------------------------------------------------------------------- sampling

    def velocity(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Turn the prediction at ``(t, xt)`` into the velocity ``dx/dt`` of the sampling ODE."""
        del t, xt, x0
        return prediction

    def denoise(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Turn the prediction at ``(t, xt)`` into a guess of ``x1``, here by one straight step to the end."""
        return xt + (self.t_range[1] - expand(t, xt)) * self.velocity(t, xt, prediction, x0)

    @property
    def ode(self) -> Literal["any", "own steps", "none"]:
        """Which solvers of the ODE suit the path: any, those that make its own ``flow_step``, or none."""
        return "any"

    @property
    def stochastic(self) -> bool:
        """Whether the path has a ``transition`` for stochastic sampling."""
        return type(self).transition is not MatchingPath.transition

    def flow_step(self, t: Times, s: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Carry ``xt`` from ``t`` to ``s`` along the ODE with the prediction held: Euler's step."""
        return self.advance(t, s, xt, self.slope(t, xt, prediction, x0))

    def slope(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Return the slope of the ODE at ``(t, xt)`` in the variable that its solvers step in, here that by time."""
        return self.velocity(t, xt, prediction, x0)

    def advance(self, t: Times, s: Times, xt: Samples, slope: Samples) -> Samples:
        """Carry ``xt`` from ``t`` to ``s`` along a given ``slope``, straight in the variable that it belongs to."""
        return xt + (expand(s, xt) - expand(t, xt)) * slope

    def transition(self, t: Times, s: Times, xt: Samples, prediction: Samples, noise: Samples) -> Samples:
        """Draw ``xs`` at a later time ``s`` given ``xt``, for stochastic sampling.

        Args:
            t: Time of ``xt``.
            s: The later time.
            xt: Point on the path.
            prediction: The prediction there.
            noise: Standard normal.

        Raises:
            UserError: If the path offers none, as here.
        """
        del t, s, xt, prediction, noise
        raise UserError(f"{type(self).__name__} has no stochastic sampling: choose a solver of the ODE, Euler or Heun")

    def noised(self, t: Times, z: Samples, x1: Samples, x0: Samples | None = None) -> Samples:
        """Return a point of the path at ``t``, made of the latent ``z`` and a guess ``x1``: where samplers begin.

        Args:
            t: Time.
            z: Standard normal latent; it takes the place of ``x0`` where that is noise.
            x1: Guess of the data end; zeros where nothing is known yet.
            x0: Source-domain sample of a translating path.
        """
        return self.mean(expand(t, z), z if x0 is None else x0, x1)

    def shifted(self, t: Tensor) -> Tensor:
        """Return where solvers stop on their way, given equal steps ``t`` over ``t_range``: here just there."""
        return t

    @property
    def generator_steps(self) -> int | None:
        """Number of steps of the generators that ``levels`` is for; None, as here, stands for any."""
        return None

    @property
    def generator_start(self) -> float:
        """Time at which the one-step generator calls its network, here the source end."""
        return self.t_range[0]

    def levels(self, steps: int) -> list[float]:
        """Return the times at which a generator of so many steps calls its network, first to last."""
        start, end = self.generator_start, self.t_range[1]
        return [start + (end - start) * step / steps for step in range(steps)]

    def one_step(
        self,
        network: Network,
        z: Samples,
        y: Condition | None = None,
        x0: Samples | None = None,
    ) -> Samples:
        """Generate ``x1`` from the latent ``z`` by a single call of ``network``: its guess at ``generator_start``.

        Args:
            network: Teacher-shaped network.
            z: Standard normal latent, ``(B, *D)``.
            y: Labels or None.
            x0: Source-domain sample of a translating path, else None.
        """
        t = torch.full(z.shape[:1], self.generator_start, dtype=z.dtype, device=z.device)
        return self.guess(network, t, self.noised(t, z, torch.zeros_like(z), x0), y, x0, z)

    @final
    def guess(
        self,
        network: Network,
        t: Times,
        xt: Samples,
        y: Condition | None = None,
        x0: Samples | None = None,
        z: Samples | None = None,
    ) -> Samples:
        """Return the guess of ``x1`` at ``(t, xt)`` by one call of ``network``."""
        return self.denoise(t, xt, self.predict(network, t, xt, y, x0, z), x0)
