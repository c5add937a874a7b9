"""Multi-step sampling of a teacher: deterministic solvers of its ODE."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from realuid_lightning.paths import MatchingPath, Network

Velocity = Callable[[Tensor, Tensor], Tensor]


class Solver(ABC):
    """A fixed-step ODE solver; a subclass says how one step is made."""

    @abstractmethod
    def step(self, velocity: Velocity, t: Tensor, dt: Tensor, x: Tensor) -> Tensor:
        """Advance ``x`` from ``t`` to ``t + dt`` (scalars) under ``dx/dt = velocity(t, x)``."""

    @torch.no_grad()
    def sample(
        self,
        path: MatchingPath,
        network: Network,
        x0: Float[Tensor, "b *d"],
        y: Int64[Tensor, " b"] | None,
        steps: int,
    ) -> Float[Tensor, "b *d"]:
        """Carry ``x0`` along the teacher's ODE to the data end.

        Args:
            path: The framework; its ``t_range`` is divided into equal steps.
            network: The teacher.
            x0: Source samples.
            y: Labels or None.
            steps: Number of solver steps, at least 1. A single step is the one-step generator at its start.

        Raises:
            ValueError: If ``steps`` is below 1.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if steps == 1:
            return path.one_step(network, x0, y)

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            times = t.expand(len(x))
            return path.velocity(times, x, network(times, x, y))

        grid = torch.linspace(*path.t_range, steps + 1, dtype=x0.dtype, device=x0.device)
        x = x0
        for t, end in pairwise(grid):
            x = self.step(velocity, t, end - t, x)
        return x


class Euler(Solver):
    """First order, one network call a step."""

    def step(self, velocity: Velocity, t: Tensor, dt: Tensor, x: Tensor) -> Tensor:
        """Advance by the slope at the start."""
        return x + dt * velocity(t, x)


class Heun(Solver):
    """Second order, two network calls a step (arXiv 2206.00364, alg. 1)."""

    def step(self, velocity: Velocity, t: Tensor, dt: Tensor, x: Tensor) -> Tensor:
        """Advance by the mean of the slopes at the start and at Euler's end."""
        slope = velocity(t, x)
        return x + dt / 2 * (slope + velocity(t + dt, x + dt * slope))
