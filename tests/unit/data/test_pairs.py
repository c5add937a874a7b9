from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from realuid_lightning.data import (
    Batch,
    Degradation,
    Degraded,
    Digits,
    Inpainting,
    MatchingDataModule,
    MemorySource,
    PairStream,
    RealStream,
    Sketch,
    SuperResolution,
    Toy2D,
)
from realuid_lightning.errors import UserError

LEFT_OUT = Inpainting(top=0.0, left=0.0, height=1.0, width=0.25)  # not symmetric: a flip moves it
DEGRADATIONS = [Inpainting(), LEFT_OUT, SuperResolution(2), Sketch()]


class Fewer(Digits):
    """The first 100 digits."""

    def load(self):
        x, y = super().load()
        return x[:100], y[:100]


class Numbered(MemorySource):
    """Image i is filled with i."""

    shape, num_classes = (1, 8, 8), None

    def __init__(self, size):
        self.size, self.prepared, self.loaded = size, 0, 0

    def prepare(self):
        self.prepared += 1

    def load(self):
        self.loaded += 1
        return torch.arange(self.size).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, *self.shape), None


def digits(count=1797):
    return Digits().get(torch.arange(count))[0]


def images(*shape):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def numbers(x):
    return x[:, 0, 0, 0].tolist()


# ------------------------------------------------------------------------------------------------------ degradations


@pytest.mark.parametrize("how", DEGRADATIONS, ids=lambda how: how.fingerprint())
def test_a_degradation_treats_each_image_by_itself_and_leaves_it_as_it_is(how):
    x = images(9, 3, 8, 16)
    before = x.clone()
    y = how(x)
    assert (y.dtype, y.shape) == (torch.uint8, x.shape)
    assert torch.equal(x, before)
    assert torch.equal(y, torch.cat([how(x[i : i + 1]) for i in range(9)]))
    assert not torch.equal(x, y)
    y[:] = 0  # what is returned may be written to
    assert torch.equal(x, before)


@pytest.mark.parametrize("how", [Inpainting(), SuperResolution(2), Sketch()], ids=lambda how: how.fingerprint())
def test_symmetric_degradations_commute_with_flips(how):
    assert torch.equal(how(digits().flip(-1)), how(digits()).flip(-1))


def test_inpainting_fills_its_box_alone():
    x = images(2, 3, 8, 12)
    y = Inpainting(top=0.5, left=0.25, height=0.25, width=0.5)(x)
    box = torch.zeros(8, 12, dtype=torch.bool)
    box[4:6, 3:9] = True
    assert (y[..., box] == 128).all()
    assert torch.equal(y[..., ~box], x[..., ~box])
    assert (Inpainting(0.0, 0.0, 1.0, 1.0)(x) == 128).all()
    assert (Inpainting(0.7, 0.7, 0.3, 0.3)(x)[..., 6:, 8:] == 128).all()  # 0.7 + 0.3 in floats


@given(st.lists(st.integers(0, 255), min_size=4, max_size=4))
def test_super_resolution_is_the_rounded_mean_of_a_block(values):
    x = torch.tensor(values, dtype=torch.uint8).view(1, 1, 2, 2)
    assert torch.equal(SuperResolution(2)(x), torch.full_like(x, round(sum(values) / 4)))


def test_super_resolution_works_by_blocks_and_once():
    x = images(2, 3, 8, 12)
    y = SuperResolution(4)(x)
    assert torch.equal(SuperResolution(4)(y), y)
    assert torch.equal(y[:, :, 4:, 8:], SuperResolution(4)(x[:, :, 4:, 8:]))
    assert len(y[0, 0].unique()) <= 6


def test_a_sketch_of_a_step_is_a_line_two_pixels_wide():
    x = torch.zeros(1, 3, 6, 6, dtype=torch.uint8)
    x[..., 3:] = 7  # a faint edge is normalised
    expected = torch.zeros_like(x)
    expected[..., 2:4] = 255
    assert torch.equal(Sketch()(x), expected)
    assert torch.equal(Sketch()(x.mT), expected.mT)
    assert not Sketch()(torch.full((1, 3, 6, 6), 200, dtype=torch.uint8)).any()


def test_a_sketch_is_the_sobel_magnitude():
    x = images(4, 3, 7, 9)
    grey = torch.nn.functional.pad(x.double().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).double()
    edges = torch.nn.functional.conv2d(grey, torch.stack([sobel, sobel.T])[:, None]).norm(dim=1, keepdim=True)
    expected = 255 * edges / edges.amax((-2, -1), keepdim=True)
    assert (Sketch()(x).double() - expected).abs().max() <= 0.5 + 1e-9
    assert (Sketch()(x).amax((-2, -1)) == 255).all()


# ---------------------------------------------------------------------------------------------------- the source


def test_a_degraded_source_is_its_source_but_for_the_images():
    source, index = Digits(), torch.tensor([5, 3, 5, 1796])
    origin = Degraded(source, Sketch())
    x, y = origin.get(index)
    assert torch.equal(x, Sketch()(source.get(index)[0]))
    assert torch.equal(y, source.get(index)[1])
    assert torch.equal(origin.labels(), source.labels())
    assert (len(origin), origin.shape, origin.num_classes, origin.in_memory) == (1797, (1, 8, 8), 10, True)


def test_a_fingerprint_tells_source_class_and_arguments():
    made = [Degraded(source, how) for source in (Digits(), Fewer()) for how in (*DEGRADATIONS, SuperResolution(4))]
    assert len({origin.fingerprint() for origin in made}) == 10
    assert made[0].fingerprint() == f"Degraded-Inpainting-0.25-0.25-0.5-0.5-{Digits().fingerprint()}"


def test_preparing_and_reading_are_the_sources_own():
    source = Numbered(4)
    origin = Degraded(source, Sketch())
    origin.prepare()
    origin.setup()
    assert (source.prepared, source.loaded) == (1, 1)


@pytest.mark.parametrize(
    ("make", "faults"),
    [
        (lambda: Inpainting(-0.1, 0.5, 0.5, 0.75), ["top must be in", r"left \+ width must be at most 1, got 0.5 \+"]),
        (lambda: Inpainting(0.0, 0.0, 0.0, 2.0), ["height must be in", "width must be in", "at most 1"]),
        (lambda: SuperResolution(1), ["factor must be at least 2, got 1"]),
        (lambda: Degraded(Digits(), SuperResolution(3)), [r"divide height and width, got 3 .* \(1, 8, 8\)"]),
        (lambda: Degraded(Digits(), Inpainting(0.0, 0.0, 0.01, 1.0)), ["hides 0 x 8 pixels .* make the box larger"]),
        (lambda: Degraded(Toy2D("moons"), Sketch()), [r"must have images \(C, H, W\).*\(2,\)"]),
    ],
)
def test_faults_are_told_at_once(make, faults):
    for fault in faults:
        with pytest.raises(UserError, match=fault):
            make()


# ---------------------------------------------------------------------------------------------------- training pairs


@pytest.mark.parametrize("how", DEGRADATIONS, ids=lambda how: how.fingerprint())
def test_pairs_stay_together_through_permutations_and_flips(how):
    source = Digits()
    batch = PairStream(source, Degraded(source, how), seed=3, flip=True, labels=True).__getitems__(range(1700, 2200))
    alone = RealStream(source, seed=3, flip=True, labels=True).__getitems__(range(1700, 2200))
    assert torch.equal(batch.x1, alone.x1)
    assert torch.equal(batch.y, alone.y)
    plain = RealStream(source, seed=3).__getitems__(range(1700, 2200)).x1
    mirrored = (plain != batch.x1).flatten(1).any(1)
    assert 200 < mirrored.sum() < 300
    assert torch.equal(batch.x0[~mirrored], how(plain[~mirrored]))
    assert torch.equal(batch.x0[mirrored], how(plain[mirrored]).flip(-1))


def test_unpaired_ends_have_an_order_and_flips_of_their_own():
    def stream(size=200, flip=False):
        return PairStream(Numbered(200), Numbered(size), 3, flip=flip, paired=False)

    batch = stream().__getitems__(range(400))
    x0, x1 = numbers(batch.x0), numbers(batch.x1)
    for epoch in (slice(200), slice(200, 400)):
        assert sorted(x0[epoch]) == sorted(x1[epoch]) == list(range(200))
    assert sum(a == b for a, b in zip(x0, x1, strict=True)) < 15  # 2 expected
    assert abs(torch.corrcoef(torch.tensor([x0, x1]).double())[0, 1]) < 0.15
    shorter = stream(7).__getitems__(range(400))
    assert numbers(shorter.x1) == x1
    assert sorted(numbers(shorter.x0)[:7]) == list(range(7))
    plain, flipped = (PairStream(Digits(), Digits(), 3, flip, paired=False) for flip in (False, True))
    before, after = (pairs.__getitems__(range(2000)) for pairs in (plain, flipped))
    one, two = ((getattr(before, end) != getattr(after, end)).flatten(1).any(1) for end in ("x0", "x1"))
    assert 0.2 < (one & two).float().mean() < 0.3
    assert 0.45 < one.float().mean() < 0.55


def batches(count=3, **options):
    data = MatchingDataModule(Digits(), 8, flip=True, origin=Degraded(Digits(), Sketch()), **options)
    return list(islice(data.train_dataloader(), count))


@pytest.mark.parametrize("paired", [True, False])
def test_a_pair_depends_on_seed_and_position_alone(paired, monkeypatch):
    alone, workers = batches(paired=paired), batches(paired=paired, num_workers=2)
    stream = PairStream(Digits(), Degraded(Digits(), Sketch()), 0, flip=True, paired=paired)
    for k, (one, two) in enumerate(zip(alone, workers, strict=True)):
        again = stream.__getitems__(range(8 * k, 8 * k + 8))
        for field in ("x0", "x1"):
            assert torch.equal(getattr(one, field), getattr(two, field))
            assert torch.equal(getattr(one, field), getattr(again, field))
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    other = batches(paired=paired)
    assert not torch.equal(other[0].x0, alone[0].x0)


def test_bytes_travel_and_both_ends_arrive_as_floats():
    (batch,) = batches(1)
    assert batch.x0.dtype == batch.x1.dtype == torch.uint8
    arrived = MatchingDataModule(Digits()).on_after_batch_transfer(batch, 0)
    for byte, value in ((batch.x0, arrived.x0), (batch.x1, arrived.x1)):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, byte / 127.5 - 1)
    vectors = Batch(x0=torch.ones(2, 3))
    assert torch.equal(MatchingDataModule(Digits()).on_after_batch_transfer(vectors, 0).x0, torch.ones(2, 3))


def test_vectors_pair_too():
    data = MatchingDataModule(Toy2D("moons", 20), 10, origin=Toy2D("rings", 30), paired=False, eval_samples=40)
    data.setup()
    assert next(iter(data.train_dataloader())).x0.shape == (10, 2)
    ends = torch.cat([batch.x0 for batch in data.val_dataloader()])
    assert torch.equal(ends, Toy2D("rings", 30).get(torch.arange(40) % 30)[0])


def test_options_can_come_from_a_config():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MatchingDataModule, "data")
    degraded = {
        "source": {"class_path": "Digits"},
        "how": {"class_path": "SuperResolution", "init_args": {"factor": 2}},
    }
    origin = {"class_path": "Degraded", "init_args": degraded}
    config = {"source": {"class_path": "Digits"}, "origin": origin}
    data = parser.instantiate(parser.parse_object({"data": config})).data
    assert data.translates
    assert data.eval_origin is data.origin
    assert isinstance(data.origin.how, Degradation)
    assert data.origin.how.factor == 2
