import io
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from helpers import fit, trainer
from lightning.pytorch import seed_everything
from PIL import Image
from recording import Recorder, placed
from small_encoders import Blocks
from small_shards import shards
from torch.utils.data._utils.pin_memory import pin_memory

from realuid_lightning.data import (
    Batch,
    CelebA,
    Degraded,
    Digits,
    ImageFolder,
    Inpainting,
    Latents,
    MatchingDataModule,
    PairStream,
    Shards,
    Sketch,
    Toy2D,
    resident,
)
from realuid_lightning.data.resident import CodedBatch, Resident
from realuid_lightning.errors import UserError

CPU = torch.device("cpu")


class Part(Digits):
    """The first digits, noting how often they are asked for."""

    def __init__(self, size=50):
        self.size, self.asked = size, 0

    def load(self):
        x, y = super().load()
        return x[: self.size], y[: self.size]

    def get(self, index):
        self.asked += 1
        return super().get(index)


class Holding(Recorder):
    """Notes what the data module holds with every batch, too."""

    def __init__(self, fail=False):
        super().__init__()
        self.fail, self.held = fail, []

    def training_step(self, batch, batch_idx):
        assert not self.fail
        self.held.append(self.trainer.datamodule._resident)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.held.append(self.trainer.datamodule._resident)
        super().validation_step(batch, batch_idx)


def same(batches, others):
    """Whether all fields are alike in kind and in every bit."""
    return len(batches) == len(others) and all(
        a is b is None or (a.dtype == b.dtype and torch.equal(a, b))
        for batch, other in zip(batches, others, strict=True)
        for a, b in zip(batch, other, strict=True)
    )


def folder(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(5, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    return ImageFolder(str(tmp_path), 8, in_memory=True)


DATA = {
    "images": lambda _: {"source": Part(), "flip": True, "labels": True},
    "plain": lambda _: {"source": Part()},
    "files": lambda tmp_path: {"source": folder(tmp_path), "flip": True},
    "archives": lambda tmp_path: {"source": Shards(shards(tmp_path), 8, in_memory=True), "flip": True, "labels": True},
    "latents": lambda _: {"source": Latents(Part(), Blocks(), flip=True, in_memory=True), "labels": True},
    "latent pairs": lambda _: {
        "source": Latents(Part(), Blocks(), in_memory=True),
        "origin": Latents(Degraded(Part(), Inpainting()), Blocks(), in_memory=True),
    },
    "vectors": lambda _: {"source": Toy2D("moons", 30), "labels": True},
    "pairs": lambda _: {"source": Part(), "origin": Degraded(Part(), Inpainting(0.0, 0.0, 1.0, 0.25)), "flip": True},
    "unpaired": lambda _: {"source": Part(), "origin": Part(33), "paired": False, "flip": True, "labels": True},
    "vector pairs": lambda _: {"source": Toy2D("moons", 30), "origin": Toy2D("rings", 30)},
}


@pytest.fixture(params=DATA)
def data(request, tmp_path):
    """Return a function that makes the same data module with other options."""
    seed_everything(3, verbose=False)
    return lambda **options: MatchingDataModule(
        **DATA[request.param](tmp_path), **{"batch_size": 8, "eval_samples": 9, **options}
    )


def fitted(tmp_path, data, steps, ckpt_path=None, **options):
    model = Holding()
    return model.seen, fit(model, data, tmp_path, steps, ckpt_path, **options)


def test_training_and_validation_meet_the_same_batches_bit_for_bit(tmp_path, data, monkeypatch):
    monkeypatch.setattr(resident, "PART", 7)  # data come to the device in several parts
    options = {"accumulate_grad_batches": 2, "limit_val_batches": 1, "num_sanity_val_steps": 1}
    streamed, _ = fitted(tmp_path, data(), 4, **options)
    held, _ = fitted(tmp_path, data(on_device=True), 4, **options)
    assert len(streamed) == 1 + 8  # one of the sanity check; the training batches pass the end of the data twice
    assert same(held, streamed)


def test_resuming_continues_the_stream_either_way(tmp_path, data):
    straight, _ = fitted(tmp_path, data(), 6)
    first, stopped = fitted(tmp_path, data(on_device=True), 4)
    stopped.save_checkpoint(tmp_path / "a.ckpt")
    for on_device in (True, False):
        again = data(on_device=on_device)
        second, _ = fitted(tmp_path, again, 6, tmp_path / "a.ckpt")
        assert same(first + second, straight)


def test_processes_meet_their_own_batches(data):
    def batches(rank, on_device):
        made = placed(data(on_device=on_device), rank, world_size=2, step=5, micro_batches=3)
        made.setup("fit")
        return [made.on_after_batch_transfer(batch, 0) for batch in islice(made.train_dataloader(), 3)]

    for rank in range(2):
        assert same(batches(rank, on_device=True), batches(rank, on_device=False))


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_vectors_take_the_trainers_precision_either_way(tmp_path, precision):
    def seen(on_device):
        data = MatchingDataModule(Toy2D("moons", 30), 4, on_device=on_device)
        return fitted(tmp_path, data, 2, precision=precision, limit_val_batches=0)[0]

    assert same(seen(on_device=True), seen(on_device=False))


def test_the_loader_passes_codes_alone(data):
    made = placed(data(on_device=True, num_workers=2), micro_batches=3)
    made.setup("fit")
    loader = made.train_dataloader()
    batch = next(iter(loader))
    assert isinstance(batch, CodedBatch)
    assert (batch.x1.dtype, batch.x1.shape) == (torch.int64, (24,))
    assert (batch.x0 is None) == (made.origin is None)
    assert loader.num_workers == 0
    assert made.reference_dataloader().num_workers == 2


def test_a_process_is_sent_no_samples():
    held = Resident(PairStream(Digits(), Digits(), 0, flip=True, labels=True), CPU)
    assert len(pickle.dumps(held.codes)) < 2_000 < 100_000 < len(pickle.dumps(held))


def test_samples_are_held_once_from_setup_to_teardown(tmp_path):
    source = Part()
    data, model = MatchingDataModule(source, 8, flip=True, on_device=True), Holding()
    fit(model, data, tmp_path, 4)
    assert len(set(map(id, model.held))) == 1
    assert isinstance(model.held[0], Resident)
    assert source.asked == 3  # to look at a sample, for the type of one, and for all of them
    assert data._resident is None


def test_an_interrupted_run_leaves_nothing_to_the_next(tmp_path):
    data = MatchingDataModule(Part(), 8, on_device=True, eval_samples=4)
    with pytest.raises(AssertionError):
        fit(Holding(fail=True), data, tmp_path, 1)
    assert data._resident is not None
    model = Holding()
    trainer(tmp_path, limit_val_batches=1).validate(model, data, verbose=False)
    assert model.held == [None]


def test_nothing_goes_into_a_checkpoint(tmp_path):
    def checkpoint(on_device):
        data = MatchingDataModule(Part(), 8, on_device=on_device)
        run, model, file = trainer(tmp_path, max_steps=1, limit_val_batches=0), Holding(), io.BytesIO()
        states = []
        model.on_train_batch_end = lambda *_: states.append(
            (data.state_dict(), run._checkpoint_connector.dump_checkpoint())
        )
        run.fit(model, data)
        ((state, dumped),) = states
        assert state == {}
        assert [*model.state_dict()] == ["weight"]
        torch.save(dumped, file)
        return dumped.keys(), len(file.getvalue())

    keys, size = checkpoint(on_device=True)
    assert (keys, size) == checkpoint(on_device=False)


@pytest.mark.parametrize("paired", [True, False])
def test_looking_up_never_waits_for_the_device(paired):
    """A tensor on the meta device has no values: whatever needs one on the host fails."""
    stream = PairStream(Part(), Part(), 0, flip=True, labels=True, paired=paired)
    held = Resident(stream, torch.device("meta"))
    coded = CodedBatch(*(codes.to("meta") for codes in held.codes.__getitems__(range(20))))
    batch = held.batch(coded)
    arrived = MatchingDataModule(Part()).on_after_batch_transfer(batch, 0)
    assert batch.x1.dtype == torch.uint8
    assert all(field.is_meta for field in (arrived.x1, arrived.x0, arrived.y))


def test_sources_that_are_not_held_in_memory_are_refused(tmp_path):
    files = CelebA(str(tmp_path), size=8)
    options = {"origin": Degraded(files, Sketch()), "eval_samples": 0}
    with pytest.raises(UserError) as caught:
        MatchingDataModule(files, on_device=True, **options)
    told = str(caught.value).splitlines()
    assert ["eval_samples" in line for line in told] == [True, False, False]
    advice = "set its in_memory: true if it has that option, or on_device: false"
    for line, option, name in zip(told[1:], ("source", "origin"), ("CelebA", "Degraded"), strict=True):
        assert line.endswith(f"on_device: true needs {option} held in memory, but {name} is not: {advice}")
    held = CelebA(str(tmp_path), size=8, in_memory=True)
    MatchingDataModule(held, reference=files, on_device=True)  # evaluation reads as it did


def test_a_device_that_is_too_small(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.Tensor, "new_empty", full)
    with pytest.raises(UserError, match=r"cpu has no room for the 0\.0 GiB of .* Digits: set on_device: false"):
        MatchingDataModule(Digits(), on_device=True).setup("fit")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("on_device", [True, False])
def test_batches_are_pinned_exactly_for_cuda(device, on_device, monkeypatch):
    data = placed(MatchingDataModule(Digits(), on_device=on_device))
    data.setup("fit")
    placed(data, device=device)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    loaders = data.train_dataloader(), data.val_dataloader(), data.reference_dataloader()
    assert [loader.pin_memory for loader in loaders] == [device == "cuda"] * 3


def test_a_pinned_batch_is_still_a_batch(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self + 1)
    zeros = torch.zeros(2, dtype=torch.int64)
    assert same([pin_memory(Batch(y=zeros))], [Batch(y=zeros + 1)])
    assert isinstance(pin_memory(Batch(y=zeros)), Batch)
    assert isinstance(pin_memory(CodedBatch(zeros)), CodedBatch)
