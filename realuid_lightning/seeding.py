"""Counter-based randomness: every draw is a function of what it is for, never of what was drawn before.

A training draw is keyed by (seed, step, rank), a data position by (seed, position), an evaluation latent by its global
sample index. Hence a resumed run repeats nothing and skips nothing without any generator state being saved, and
evaluation cannot disturb training.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def mix(*keys: int) -> int:
    """Hash integers to one 63-bit seed (splitmix64, chained; order matters).

    Args:
        keys: Any number of integers of any size and sign.

    Returns:
        An integer in [0, 2^63), the same on every machine and in every version.
    """
    state = 0
    for key in keys:
        state = (state ^ (key & _WORD)) + _GOLDEN & _WORD
        state = (state ^ state >> 30) * _MIX_1 & _WORD
        state = (state ^ state >> 27) * _MIX_2 & _WORD
        state ^= state >> 31
    return state >> 1


def mix_array(key: int, counters: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Hash an array of counters under one key, element by element.

    Args:
        key: The common key, say ``mix(seed, PURPOSE)``.
        counters: Non-negative integers of any shape.

    Returns:
        64 random bits for each counter, of the same shape.
    """
    state = counters.astype(np.uint64)
    with np.errstate(over="ignore"):  # numpy warns of single numbers that wrap around, not of arrays
        state = (np.uint64(key) ^ state) + np.uint64(_GOLDEN)
        state = (state ^ state >> np.uint64(30)) * np.uint64(_MIX_1)
        state = (state ^ state >> np.uint64(27)) * np.uint64(_MIX_2)
    return np.asarray(state ^ state >> np.uint64(31))


def hashed_normal(
    index: Int64[Tensor, " b"], shape: Sequence[int], *keys: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "b *d"]:
    """Return standard normal numbers that are functions of (sample, place, keys), on the device of ``index``.

    Args:
        index: Numbers of the samples.
        shape: Shape of one sample.
        keys: What they are for.
        dtype: Type of the numbers, which are drawn in float64 whatever it is; one that the device has.
    """
    device, half = index.device, -(-math.prod(shape) // 2)
    index = index.cpu() if device.type == "mps" else index  # which has no float64
    places = torch.arange(2 * half, device=index.device).view(1, 2, half)
    counters = _hashed(_hashed(index.view(-1, 1, 1) ^ _signed(mix(*keys))) ^ places)
    uniform = ((counters >> 11 & (1 << 53) - 1).double() + 0.5) * 2**-53
    radius, angle = (-2 * uniform[:, 0].log()).sqrt(), 2 * math.pi * uniform[:, 1]  # Box and Muller, 1958
    normal = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
    return normal[:, : math.prod(shape)].view(-1, *shape).to(dtype).to(device)


def _hashed(state: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """Hash as ``mix`` does, on tensors, whose integers wrap around."""
    state = state + _signed(_GOLDEN)
    state = (state ^ _shifted(state, 30)) * _signed(_MIX_1)
    state = (state ^ _shifted(state, 27)) * _signed(_MIX_2)
    return state ^ _shifted(state, 31)


def _shifted(state: Int64[Tensor, "*n"], count: int) -> Int64[Tensor, "*n"]:
    """Shift right as unsigned integers do."""
    return state >> count & (1 << 64 - count) - 1


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def keyed_generator(*keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on ``device`` that is seeded by ``mix(*keys)``."""
    return torch.Generator(device).manual_seed(mix(*keys))


def global_seed() -> int:
    """Return the run's seed: that of ``seed_everything`` (``--seed_everything`` on the command line), or 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))
