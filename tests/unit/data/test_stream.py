import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from realuid_lightning.data import Digits, LatentDataset, MemorySource, RealSequence, RealStream, StreamSampler, Toy2D
from realuid_lightning.data.latents import LATENT, balanced_labels, sampled_conditions
from realuid_lightning.data.stream import parse_indices, share
from realuid_lightning.errors import UserError
from realuid_lightning.seeding import keyed_generator


class Counting(MemorySource):
    """Image i is filled with i; the label is i modulo 3."""

    shape = (1, 2, 2)
    num_classes = 3

    def load(self):
        count = torch.arange(10)
        return count.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), count % 3


def samples(stream, positions):
    return stream.__getitems__(positions).x1[:, 0, 0, 0].tolist()


def test_every_epoch_is_a_permutation_of_its_own():
    stream = RealStream(Counting(), seed=1)
    epochs = [samples(stream, np.arange(10 * e, 10 * e + 10)) for e in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert samples(RealStream(Counting(), seed=2), range(10)) != epochs[0]


def test_a_position_does_not_depend_on_its_company():
    stream = RealStream(Counting(), seed=1)
    together = samples(stream, range(35))
    assert together == [samples(stream, [p])[0] for p in range(35)]
    assert together[::-1] == samples(stream, range(34, -1, -1))


def test_labels_go_with_their_samples_when_asked_for():
    batch = RealStream(Counting(), seed=0, labels=True).__getitems__(range(25))
    assert torch.equal(batch.y, batch.x1[:, 0, 0, 0].long() % 3)
    assert RealStream(Counting(), seed=0).__getitems__(range(5)).y is None


def test_flips_mirror_about_half_and_are_keyed_by_position():
    plain = RealStream(Digits(), seed=3).__getitems__(range(2000)).x1
    flipped = RealStream(Digits(), seed=3, flip=True).__getitems__(range(2000)).x1
    same, mirrored = ((flipped == x).flatten(1).all(1) for x in (plain, plain.flip(-1)))
    assert (same | mirrored).all()
    assert 0.45 < mirrored.float().mean() < 0.55
    assert torch.equal(flipped[700:900], RealStream(Digits(), 3, flip=True).__getitems__(range(700, 900)).x1)
    # The same image is flipped in some epochs and not in others.
    one = RealStream(Digits(), seed=3, flip=True)
    index = [int((one.order._indices(np.arange(e * 1797, (e + 1) * 1797)) == 5).nonzero()) + e * 1797 for e in range(8)]
    assert len(one.__getitems__(index).x1.unique(dim=0)) == 2


def test_mirroring_leaves_a_sources_own_memory_alone():
    class Lending(Digits):
        def get(self, index):
            assert torch.equal(index, torch.arange(1797))
            return self._data

    source = Lending()
    before = source._data[0].clone()
    stream = RealStream(source, seed=3, flip=True)
    stream.order._permutation = (0, torch.arange(1797))
    flipped = stream.__getitems__(range(1797)).x1
    assert torch.equal(source._data[0], before)
    assert not torch.equal(flipped, before)


def test_vectors_stream_too():
    batch = RealStream(Toy2D("moons", size=7), seed=0, labels=True).__getitems__(range(20))
    assert (batch.x1.dtype, batch.x1.shape, batch.y.shape) == (torch.float32, (20, 2), (20,))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_see_together_what_one_process_sees(world_size):
    small, micro = 4, 3
    one = StreamSampler(small * world_size, micro)
    many = [StreamSampler(small, micro, rank, world_size) for rank in range(world_size)]
    for k in range(5):
        alone = one.batch(k).reshape(micro, -1)
        shared = np.concatenate([sampler.batch(k).reshape(micro, small) for sampler in many], axis=1)
        assert (alone == shared).all()


def test_batches_cover_positions_without_gap_or_overlap():
    ranks = [StreamSampler(4, 3, rank, 2) for rank in range(2)]
    seen = np.concatenate([sampler.batch(k) for k in range(6) for sampler in ranks])
    assert sorted(seen) == list(range(6 * 3 * 2 * 4))


def test_start_is_resuming():
    straight, resumed = iter(StreamSampler(4, 2)), iter(StreamSampler(4, 2, start=3))
    batches = [next(straight) for _ in range(6)]
    assert all((next(resumed) == batch).all() for batch in batches[3:])
    now = 0
    sampler = StreamSampler(4, 2, start=lambda: now)
    now = 5
    assert (next(iter(sampler)) == batches[5]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_yields_the_stream_in_order(workers):
    stream, sampler = RealStream(Digits(), 0, flip=True, labels=True), StreamSampler(8, 2, start=4)
    options = {"batch_size": None, "sampler": sampler, "num_workers": workers}
    loader = iter(DataLoader(stream, collate_fn=lambda batch: batch, **options))
    for k in range(4, 9):
        expected, got = stream.__getitems__(sampler.batch(k)), next(loader)
        assert torch.equal(got.x1, expected.x1)
        assert torch.equal(got.y, expected.y)


@pytest.mark.parametrize("world_size", [1, 3, 16])
def test_sequence_serves_each_sample_once(world_size):
    parts = [RealSequence(Counting(), rank, world_size) for rank in range(world_size)]
    batches = [part.__getitems__(range(len(part))) for part in parts if len(part)]
    x = torch.cat([batch.x1 for batch in batches])[:, 0, 0, 0]
    assert x.tolist() == torch.cat([batch.index for batch in batches]).tolist() == list(range(10))
    assert torch.cat([batch.y for batch in batches]).tolist() == [i % 3 for i in range(10)]


def test_shares_are_contiguous_even_and_complete():
    for count in (0, 1, 7, 50):
        parts = [share(count, rank, 4) for rank in range(4)]
        assert [i for part in parts for i in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_latent_depends_on_its_index_alone():
    every = LatentDataset(torch.arange(20), (3, 4, 4)).__getitems__(range(20))
    assert every.index.tolist() == list(range(20))
    assert every.z.shape == (20, 3, 4, 4)
    torch.manual_seed(7)
    some = LatentDataset(torch.tensor([17, 3, 5]), (3, 4, 4))
    assert torch.equal(some.__getitems__([0, 2]).z, every.z[[17, 5]])
    assert len(LatentDataset(torch.arange(0), (2,))) == 0


@pytest.mark.parametrize("shape", [(2,), (3, 5), (1, 4, 4), (17,), (3, 7, 7)])
def test_a_latent_is_what_its_generator_draws_first(shape):
    z = LatentDataset(torch.arange(9) * 10**6, shape).__getitems__(range(9)).z
    alone = [torch.randn(shape, generator=keyed_generator(LATENT, i * 10**6)) for i in range(9)]
    assert torch.equal(z, torch.stack(alone))


@pytest.mark.parametrize("seed", [0, 1])
def test_latents_are_standard_normal_and_distinct(seed):
    z = LatentDataset(torch.arange(4000), (8,), seed=seed).__getitems__(range(4000)).z
    assert z.mean().abs() < 0.02
    assert abs(z.std() - 1) < 0.02
    assert torch.corrcoef(z.T).fill_diagonal_(0).abs().max() < 0.07
    assert torch.corrcoef(torch.stack([z[:-1].flatten(), z[1:].flatten()]))[0, 1].abs() < 0.03


def test_another_seed_is_another_set_of_latents():
    batches = [LatentDataset(torch.arange(50), (2,), seed=seed).__getitems__(range(50)) for seed in (0, 1, 2)]
    assert len({tuple(row.tolist()) for batch in batches for row in batch.z}) == 150
    assert all(torch.equal(batch.index, torch.arange(50)) for batch in batches)
    again = LatentDataset(torch.tensor([9, 4]), (2,), seed=1).__getitems__([1])
    assert torch.equal(again.z[0], batches[1].z[4])
    assert again.key == batches[1].key[4]


def test_balanced_labels_are_balanced():
    assert balanced_labels(torch.arange(50), torch.arange(50), 10).bincount().tolist() == [5] * 10


def test_sampled_labels_follow_the_data_and_the_key_alone():
    source = Counting()  # four of ten have label 0
    drawn = sampled_conditions(torch.arange(8000), torch.arange(8000), source)
    assert abs((drawn == 0).float().mean() - 0.4) < 0.02
    assert torch.equal(sampled_conditions(torch.arange(2), torch.tensor([55, 7]), source), drawn[[55, 7]])


def test_indices_are_parsed_in_the_order_given():
    assert parse_indices("0-3, 9 ,5-6").tolist() == [0, 1, 2, 3, 9, 5, 6]
    assert parse_indices("7").tolist() == [7]


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-4", "1-", "1-2-3", "0.5", "²"])
def test_malformed_indices(text):
    with pytest.raises(UserError, match="expected indices such as"):
        parse_indices(text)


def test_an_index_named_twice():
    with pytest.raises(UserError, match="names 4 more often"):
        parse_indices("0-8,4")
