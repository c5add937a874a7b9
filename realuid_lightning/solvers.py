"""Multi-step sampling of a teacher: solvers of its ODE, and stochastic ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realuid_lightning.conditions import Condition
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.guidance import guided, null_faults, scale_faults
from realuid_lightning.networks import unconditional
from realuid_lightning.networks.generator import decoded
from realuid_lightning.paths import MatchingPath, Network, expand

Noise = Callable[[int], Tensor]

NOTHING = 1e-6  # what rounding leaves of the source at a path's end


class Dynamics(NamedTuple):
    """A teacher on its path, at fixed labels and source-domain samples; times are scalars.

    Attributes:
        path: The framework.
        network: The teacher.
        y: Labels or None.
        x0: Source-domain samples or None.
        noise: Gives the standard normal noise of a step, ``(B, *D)``, by the number of the step.
    """

    path: MatchingPath
    network: Network
    y: Condition | None
    x0: Tensor | None
    noise: Noise

    def predict(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the prediction at ``(t, x)``."""
        return self.path.predict(self.network, t.expand(len(x)), x, self.y, self.x0)

    def slope(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the slope of the ODE at ``(t, x)``, in the path's own variable."""
        return self.path.slope(t.expand(len(x)), x, self.predict(t, x), self.x0)

    def guess(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the guess of ``x1`` at ``(t, x)``."""
        return self.path.denoise(t.expand(len(x)), x, self.predict(t, x), self.x0)

    def ends_in_noise(self, x: Tensor) -> bool:
        """Tell whether samples like ``x`` hold noise at the end of ``t_range`` that ``denoise`` can take away."""
        if type(self.path).denoise is MatchingPath.denoise:
            return False  # a straight step to the end, which is none from there
        zero = torch.zeros_like(x[:1])
        t = expand(x.new_full((1,), self.path.t_range[1]), zero)
        left = self.path.mean(t, zero + 1, zero).abs() + self.path.std(t)
        return bool((left > NOTHING).any())


class Solver(ABC):
    """A sampler of equal steps in time, or as the path shifts them; a subclass says how one step is made.

    The last step is the network's guess of ``x1``, as in EDM (arXiv 2206.00364, alg. 1, whose last level is 0), so that
    no noise stays in the samples. Where a path ends in noise, as diffusion does at its least ``sigma`` and a bridge
    just before the data, the guess is made at the end of its ``t_range``.
    """

    @abstractmethod
    def step(self, dynamics: Dynamics, t: Tensor, s: Tensor, x: Tensor, number: int) -> Tensor:
        """Carry ``x`` from time ``t`` to the later time ``s`` (scalars), as step ``number``, counted from 1."""

    def fault(self, path: MatchingPath) -> str | None:
        """Return why this solver cannot sample ``path``, or None if it can."""
        del path
        return None

    @torch.no_grad()
    def sample(
        self,
        path: MatchingPath,
        network: Network,
        z: Float[Tensor, "b *d"],
        y: Condition | None,
        steps: int,
        x0: Float[Tensor, "b *d"] | None = None,
        noise: Noise | None = None,
    ) -> Float[Tensor, "b *d"]:
        """Carry latents, or source-domain samples, to the data end.

        Args:
            path: The framework; its ``t_range`` is divided into equal steps, ``shifted``.
            network: The teacher.
            z: Standard normal latents.
            y: Labels or None.
            steps: Number of solver steps, at least 1. A single step is the one-step generator at its start.
            x0: Source-domain samples of a translating path.
            noise: Gives a stochastic solver the noise of step 1, 2, ..., ``(B, *D)``.

        Raises:
            ValueError: If ``steps`` is below 1, or a stochastic solver is given no noise.
            UserError: If the solver cannot sample this path.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if steps == 1:
            return path.one_step(network, z, y, x0)
        fault = self.fault(path)
        if fault is not None:
            raise UserError(fault)
        dynamics = Dynamics(path, network, y, x0, noise or _no_noise)
        points = steps if dynamics.ends_in_noise(z) else steps + 1  # of which the last needs no guess any more
        times = path.shifted(torch.linspace(*path.t_range, points, dtype=z.dtype, device=z.device))[:steps]
        x = path.noised(times[0].expand(len(z)), z, torch.zeros_like(z), x0)
        for number, (t, s) in enumerate(pairwise(times), 1):
            x = self.step(dynamics, t, s, x, number)
        return dynamics.guess(times[-1], x)


class Euler(Solver):
    """First order, one network call a step: the path's own step with the prediction held.

    That is Euler's straight step on flow paths and interpolants, DDIM (arXiv 2010.02502) on diffusion paths.

    Example:
        >>> from realuid_lightning.paths import FlowMatchingPath
        >>> def teacher(t, x, y=None):  # a velocity
        ...     return torch.ones_like(x)
        >>> Euler().sample(FlowMatchingPath(), teacher, torch.zeros(1, 2), None, steps=4)
        tensor([[1., 1.]])
    """

    def fault(self, path: MatchingPath) -> str | None:
        """Return why this solver cannot sample ``path``, or None if it can."""
        return None if path.ode != "none" else f"{_name(path)} has no ODE with these settings: choose solver Ancestral"

    def step(self, dynamics: Dynamics, t: Tensor, s: Tensor, x: Tensor, number: int) -> Tensor:
        """Advance by what is known at the start."""
        del number
        times, prediction = t.expand(len(x)), dynamics.predict(t, x)
        return dynamics.path.flow_step(times, s.expand(len(x)), x, prediction, dynamics.x0)


class Heun(Solver):
    """Second order, two network calls a step, in the path's own variable: on diffusion that is EDM's algorithm 1.

    There (arXiv 2206.00364) the trapezoid is taken in ``sigma``, or in the time of a variance-preserving schedule. 18
    steps are 35 network calls, for the guess at the end is one.

    Example:
        >>> from realuid_lightning.paths import FlowMatchingPath
        >>> def teacher(t, x, y=None):  # a velocity that grows with time
        ...     return 2 * t[:, None].expand_as(x)
        >>> for solver in (Heun(), Euler()):  # the exact end is 1
        ...     print(solver.sample(FlowMatchingPath(), teacher, torch.zeros(1, 2), None, steps=4))
        tensor([[0.9375, 0.9375]])
        tensor([[0.7500, 0.7500]])
    """

    def fault(self, path: MatchingPath) -> str | None:
        """Return why this solver cannot sample ``path``, or None if it can."""
        if path.ode == "any":
            return None
        advice = "Euler, which makes the path's own steps, or Ancestral" if path.ode == "own steps" else "Ancestral"
        return f"{_name(path)} has no velocity that Heun could follow: choose solver {advice}"

    def step(self, dynamics: Dynamics, t: Tensor, s: Tensor, x: Tensor, number: int) -> Tensor:
        """Advance by the mean of the slopes at the start and at Euler's end."""
        del number
        times, slope = (t.expand(len(x)), s.expand(len(x))), dynamics.slope(t, x)
        ahead = dynamics.path.advance(*times, x, slope)
        return dynamics.path.advance(*times, x, (slope + dynamics.slope(s, ahead)) / 2)


class Ancestral(Solver):
    """Stochastic: draws every point given the one before, one network call a step.

    On diffusion and flow paths this is ancestral sampling (DDPM, arXiv 2006.11239), on bridges it follows the bridge's
    own stochastic differential equation (arXiv 2302.05872).

    Example:
        >>> from realuid_lightning.paths import BridgePath
        >>> Ancestral().fault(BridgePath(condition=False)) is None, Euler().fault(BridgePath(condition=False))
        (True, 'BridgePath has no ODE with these settings: choose solver Ancestral')
    """

    def fault(self, path: MatchingPath) -> str | None:
        """Return why this solver cannot sample ``path``, or None if it can."""
        return None if path.stochastic else f"{_name(path)} has no stochastic sampling: choose solver Euler or Heun"

    def step(self, dynamics: Dynamics, t: Tensor, s: Tensor, x: Tensor, number: int) -> Tensor:
        """Draw the next point from the path's transition."""
        times, prediction = t.expand(len(x)), dynamics.predict(t, x)
        return dynamics.path.transition(times, s.expand(len(x)), x, prediction, dynamics.noise(number))


class ManySteps(nn.Module):
    """A teacher sampled in many steps, as a generator is in one: ``x1 = sampler(z, y)``.

    Args:
        network: The teacher.
        path: The framework.
        steps: Number of solver steps, at least 1.
        solver: The solver; ``Euler`` when None.
        guidance: Scale of classifier-free guidance, at least 0; None for none. The network must know no condition.

    Attributes:
        decoder: As that of a ``Generator``.

    Raises:
        UserError: If an argument is out of range, or the network knows no condition to be guided from.

    Example:
        >>> from realuid_lightning.networks import MLP
        >>> from realuid_lightning.paths import FlowMatchingPath
        >>> sampler = ManySteps(MLP([2], num_classes=3, null_label=True), FlowMatchingPath(), steps=4, guidance=1.5)
        >>> sampler(torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1])).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        network: nn.Module,
        path: MatchingPath,
        steps: int = 50,
        solver: Solver | None = None,
        guidance: float | None = None,
    ) -> None:
        super().__init__()
        self.network, self.path, self.steps = network, path, steps
        self.solver, self.guidance = solver or Euler(), guidance
        self.decoder: Any = None
        faults = Faults("ManySteps")
        faults.unless(steps >= 1, f"steps must be at least 1, got {steps}")
        faults.extend(scale_faults(guidance))
        faults.extend(null_faults(network) if guidance is not None else ())
        faults.raise_any()

    def forward(
        self,
        z: Float[Tensor, "b *d"],
        y: Condition | None = None,
        x0: Float[Tensor, "b *d"] | None = None,
        noise: Noise | None = None,
    ) -> Float[Tensor, "b *e"]:
        """Return samples, ``(B, *D)``, decoded where there is a ``decoder``; no gradient is kept.

        Args:
            z: Standard normal latents.
            y: Conditions, else None.
            x0: Source-domain samples of a translating path, else None.
            noise: Gives the noise of step 1, 2, ... of a stochastic solver; torch's global generator does when None.
        """
        network: Network = self.network
        if self.guidance is not None:
            scale = torch.full_like(z.flatten(1)[:, 0], self.guidance)
            network = guided(network, scale, unconditional(self.network, y))
        draw = noise or (lambda _: torch.randn_like(z))
        x1 = self.solver.sample(self.path, network, z, y, self.steps, x0, draw)
        return decoded(x1, self.decoder)


def _name(path: MatchingPath) -> str:
    return type(path).__name__


def _no_noise(number: int) -> Tensor:
    raise ValueError(f"a stochastic solver needs noise: pass a function that gives that of step {number}")
