"""Generators of one step, or of a few."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realuid_lightning.conditions import Condition, rows
from realuid_lightning.errors import UserError
from realuid_lightning.paths import MatchingPath


def decoded(x1: Tensor, decoder: Any) -> Tensor:
    """Return the samples that an encoder's latents stand for; those given, without an encoder."""
    samples: Tensor = x1 if decoder is None else decoder.decode(x1)
    return samples


class Generator(nn.Module):
    """Makes a sample from a latent by one call of a network, or by a few: ``x1 = G(z, y)``.

    What that call is (``z + f(0, z)`` on the linear flow path) is the path's to say: ``MatchingPath.one_step``. With
    more ``steps`` the same network is called at as many times of the path: every guess of ``x1`` is noised to the next
    time and guessed anew (arXiv 2405.14867, section 4.4).

    Args:
        network: Network of the framework, usually started from the teacher's weights.
        path: The framework.
        steps: Number of network calls that a sample takes, at least 1.

    Attributes:
        decoder: Encoder whose ``decode`` turns what the network makes into samples; None where these are samples, and
            in training.

    Raises:
        UserError: If ``steps`` is below 1.

    Example:
        >>> from realuid_lightning.networks import MLP
        >>> from realuid_lightning.paths import FlowMatchingPath
        >>> generator = Generator(MLP([2]), FlowMatchingPath())
        >>> z = torch.randn(5, 2)
        >>> torch.equal(generator(z), z)  # z + f(0, z), and an MLP starts at zero
        True
    """

    def __init__(self, network: nn.Module, path: MatchingPath, steps: int = 1) -> None:
        super().__init__()
        if steps < 1:
            raise UserError(f"Generator: steps must be at least 1, got {steps}")
        self.network = network
        self.path = path
        self.steps = steps
        self.decoder: Any = None

    def forward(
        self,
        z: Float[Tensor, "b *d"],
        y: Condition | None = None,
        x0: Float[Tensor, "b *d"] | None = None,
        renoise: Float[Tensor, "b k *d"] | None = None,
        rollout: bool = False,
    ) -> Float[Tensor, "b *e"]:
        """Return generated samples, ``(B, *D)``; decoded ones where there is a ``decoder``.

        Args:
            z: Standard normal latent.
            y: Condition of a conditional network, else None.
            x0: Source-domain sample of a translating framework, else None.
            renoise: Standard normal noise of the later steps, ``(B, steps - 1, *D)``; drawn from torch's global
                generator when None.
            rollout: Make samples to train on, as the method of this name says. It calls this one, because distributed
                training follows calls of the module alone.
        """
        if rollout and self.steps > 1:
            assert renoise is not None
            return self._rolled_out(z, y, x0, renoise)
        x1 = self.path.one_step(self.network, z, y, x0)
        for k, time in enumerate(self.path.levels(self.steps)[1:]):
            if renoise is None:
                renoise = torch.randn(len(z), self.steps - 1, *z.shape[1:], dtype=z.dtype, device=z.device)
            t = torch.full(z.shape[:1], time, dtype=z.dtype, device=z.device)
            noise = renoise[:, k]
            x1 = self.path.guess(self.network, t, self.path.noised(t, noise, x1, x0), y, x0, noise)
        return decoded(x1, self.decoder)

    def rollout(
        self,
        z: Float[Tensor, "b *d"],
        y: Condition | None = None,
        x0: Float[Tensor, "b *d"] | None = None,
        renoise: Float[Tensor, "b k *d"] | None = None,
    ) -> Float[Tensor, "b *d"]:
        """Return samples to train on: the batch in ``steps`` equal parts, of which part ``k`` is what step ``k`` makes.

        The steps before it are the generator's own, without a graph, so that training sees what sampling will see.
        Arguments as those of ``forward``; ``renoise`` must be given for more than one step.
        """
        samples: Tensor = self(z, y, x0, renoise, rollout=True)
        return samples

    def _rolled_out(self, z: Tensor, y: Condition | None, x0: Tensor | None, renoise: Tensor) -> Tensor:
        """Make the samples of ``rollout`` for more than one step."""
        places = torch.arange(len(z), device=z.device)
        step = places * self.steps // len(z)
        # Not from a list: that would copy from the host, and wait for the device.
        times = torch.cat([torch.full_like(z.flatten()[:1], level) for level in self.path.levels(self.steps)])
        noises = torch.cat([z[:, None], renoise], 1)
        xt = self.path.noised(times[0].expand(len(z)), z, torch.zeros_like(z), x0).clone()
        with torch.no_grad():
            for k in range(self.steps - 1):
                later = slice(-(-(k + 1) * len(z) // self.steps), None)  # the rows whose step comes after k
                labels, source = rows(y, later), None if x0 is None else x0[later]
                now, then = times[k].expand(len(xt[later])), times[k + 1].expand(len(xt[later]))
                x1 = self.path.guess(self.network, now, xt[later], labels, source, noises[later, k])
                xt[later] = self.path.noised(then, noises[later, k + 1], x1, source)
        return self.path.guess(self.network, times[step], xt, y, x0, noises[places, step])
