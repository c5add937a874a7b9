import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import seed_everything
from scipy.stats import kstest
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from realuid_lightning.data import Batch
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import MLP
from realuid_lightning.seeding import global_seed, hashed_normal, keyed_generator, mix, mix_array

WORD = 1 << 64
KEYS = st.lists(st.integers(-WORD, 2 * WORD), max_size=4)


def splitmix64(state):
    """One output of the reference splitmix64 (Steele, Lea, Flood 2014), from a state before its increment."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def test_splitmix64_is_the_published_one():
    assert splitmix64(1234567) == 6457827717110365317  # first output of Vigna's splitmix64.c at this seed


@given(KEYS)
def test_mix_chains_splitmix64(keys):
    state = 0
    for key in keys:
        state = splitmix64(state ^ (key % WORD))
    assert mix(*keys) == state >> 1
    assert 0 <= mix(*keys) < 1 << 63


def test_values_stay_as_they_are():
    # Runs can not be resumed, nor samples be made again, if these ever change.
    assert [mix(0), mix(1, 2), mix(2, 1), mix(-1)] == [
        8147104208329303767,
        6804074658870690613,
        8085905411993364802,
        8245168133484221968,
    ]


def test_nearby_keys_give_unrelated_bits():
    seeds = [mix(0, step, rank) for step in range(100) for rank in range(8)]
    assert len(set(seeds)) == len(seeds)
    bits = np.array([[seed >> bit & 1 for bit in range(63)] for seed in seeds])
    assert abs(bits.mean(0) - 0.5).max() < 0.1  # 800 draws: 5.6 standard errors
    flips = np.array([bin(mix(0, step) ^ mix(0, step ^ 1)).count("1") for step in range(0, 2000, 2)])
    assert abs(flips.mean() - 31.5) < 1


@given(st.integers(0, WORD - 1), st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=9))
def test_mix_array_hashes_each_counter_under_the_key(key, counters):
    found = mix_array(key, np.array(counters, dtype=np.int64))
    assert found.dtype == np.uint64
    assert found.tolist() == [splitmix64(key ^ counter) for counter in counters]


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
def test_mix_array_keeps_the_shape(shape):
    counters = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    assert mix_array(7, counters).shape == shape


def test_keyed_generators_depend_on_their_keys_alone():
    state = torch.get_rng_state()
    first = torch.randn(5, generator=keyed_generator(1, 2))
    assert torch.equal(first, torch.randn(5, generator=keyed_generator(1, 2)))
    assert not torch.equal(first, torch.randn(5, generator=keyed_generator(2, 1)))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_is_that_of_seed_everything(monkeypatch):
    assert global_seed() == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    seed_everything(42, verbose=False)
    assert global_seed() == 42


def test_another_process_draws_the_same():
    script = "from realuid_lightning.seeding import *; import torch; "
    script += "print(mix(3, 4), torch.rand(3, generator=keyed_generator(5, 6)).tolist())"
    environment = os.environ | {"PYTHONHASHSEED": "123"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == f"{mix(3, 4)} {torch.rand(3, generator=keyed_generator(5, 6)).tolist()}"


def test_hashed_numbers_are_normal_and_functions_of_the_sample_alone():
    index = torch.arange(2000)
    drawn = hashed_normal(index, (3, 5), 7, 1)
    assert drawn.shape == (2000, 3, 5)
    assert drawn.dtype == torch.float64
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 1) < 0.03
    assert kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3
    correlations = torch.corrcoef(drawn.flatten(1).T) - torch.eye(15, dtype=torch.float64)
    assert correlations.abs().max() < 0.12
    some = torch.tensor([1999, 3, 3])
    assert torch.equal(hashed_normal(some, (3, 5), 7, 1), drawn[some])
    for other in (hashed_normal(index, (3, 5), 7, 2), hashed_normal(index, (3, 5), 8, 1), drawn.roll(1, 0)):
        assert abs((other * drawn).mean()) < 0.03


class NoFloat64OnMPS(TorchDispatchMode):
    """What Apple's GPUs refuse: to make, or to copy, numbers of 64 bits."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in pytree.tree_leaves(result):
            if isinstance(made, torch.Tensor) and made.device.type == "mps":
                assert made.dtype != torch.float64, f"{function} makes float64"
        return result


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_hashed_numbers_come_back_to_a_device_without_float64():
    """By tensors that claim to be on a GPU of Apple; no machine that has one has run this."""
    with FakeTensorMode(), NoFloat64OnMPS():
        index = torch.arange(4, device="mps")
        drawn = hashed_normal(index, (3, 5), 7, dtype=torch.float32)
        assert (drawn.device, drawn.dtype, drawn.shape) == (index.device, torch.float32, (4, 3, 5))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_the_noise_of_later_steps_is_where_the_latents_are():
    module = RealUIDModule(MLP([3], width=8, depth=1), None, sampling_steps=2)
    with FakeTensorMode(), NoFloat64OnMPS():
        batch = Batch(z=torch.empty(4, 3, device="mps"), index=torch.arange(4, device="mps"))
        noise = module.noise(batch, 1)
        assert (noise.device, noise.dtype) == (batch.z.device, batch.z.dtype)


def test_hashed_numbers_are_drawn_in_float64_whatever_their_type():
    index = torch.arange(6)
    assert torch.equal(hashed_normal(index, (3,), 7, dtype=torch.float32), hashed_normal(index, (3,), 7).float())
