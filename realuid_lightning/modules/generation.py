"""What turns latents into samples outside training: by forwards of one size, with noise that the sample determines."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from realuid_lightning.conditions import map_tensors
from realuid_lightning.data import Batch
from realuid_lightning.seeding import hashed_normal

STEP = 0x57E9
"""Key of the noise of a step, beside those of the data stream."""

Sampler = Callable[[Batch], Tensor]
"""Turns latents, conditions and source ends into samples."""


def generate(sampler: Sampler, batch: Batch, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Turn latents into samples by forwards of ``size`` samples each, the last one filled up.

    Args:
        sampler: What generates.
        batch: Latents ``z`` (conditions ``y`` of a conditional model, sources ``x0`` of a translating one), of any
            number.
        size: Samples in one forward.
        device: Where it happens.
        dtype: Type of latents and sources.

    Returns:
        Samples, ``(B, *D)``.
    """
    padding = torch.arange(-(-batch.size // size) * size, device=device) % batch.size
    x0 = None if batch.x0 is None else batch.x0.to(dtype)
    given = (batch.y, x0, cast(Tensor, batch.z).to(dtype), batch.index, batch.key)
    y, x0, z, index, key = (map_tensors(field, lambda part: part.to(device)[padding]) for field in given)
    padded = Batch(y=y, x0=x0, z=z, index=index, key=key)
    return torch.cat([sampler(rows) for rows in padded.chunk(len(padding) // size)])[: batch.size]


def step_noise(batch: Batch, step: int) -> Tensor:
    """Return the noise of a sampler's step, ``(B, *D)``: a function of sample and step.

    Args:
        batch: Evaluation batch, whose ``key``, or ``index``, tells the samples apart.
        step: Number of the step, from 1.
    """
    key = batch.index if batch.key is None else batch.key
    assert key is not None
    assert batch.z is not None
    return hashed_normal(key, batch.z.shape[1:], STEP, step, dtype=batch.z.dtype)


def later_noise(noise: Callable[[int], Tensor], steps: int) -> Tensor | None:
    """Return the noise of the later steps of a generator, ``(B, steps - 1, *D)``; None for one step.

    Args:
        noise: Gives the noise of step 1, 2, ...
        steps: Number of steps of the generator.
    """
    later = [noise(step) for step in range(1, steps)]
    return torch.stack(later, 1) if later else None
