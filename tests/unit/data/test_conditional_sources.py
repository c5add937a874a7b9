"""Sources whose samples come with conditions of any form: tensors, and dicts of tensors such as texts and masks."""

from itertools import islice

import pytest
import torch
from helpers import fit, trainer
from recording import Recorder, placed, together

from realuid_lightning import conditions
from realuid_lightning.data import Degraded, Inpainting, MatchingDataModule, MemorySource, Source
from realuid_lightning.data.stream import share
from realuid_lightning.errors import UserError

SIZE = 20


def described(index, form):
    """The condition of sample i tells i."""
    i = index.float()[:, None]
    texts = {"text": torch.stack([i, i + 0.5], 2), "mask": torch.stack([index % 2 == 0, index % 2 == 1], 1)}
    return {"dict": texts, "tensor": texts["text"], "bytes": (index % 256).to(torch.uint8)[:, None]}[form]


class Described(Source):
    """Images whose byte in every pixel is their index, with conditions given by ``get`` alone."""

    shape = (1, 2, 2)

    def __init__(self, form="dict", size=SIZE, **wrong):
        self.form, self.size, self.read = form, size, 0
        vars(self).update(wrong)

    def __len__(self):
        return self.size

    def get(self, index):
        self.read += 1
        x = index.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
        x[..., 0] += 100  # so that a mirrored one differs
        return x, described(index, self.form)

    def fingerprint(self):
        return "described"


class Held(MemorySource):
    """The same, held in memory."""

    shape = (1, 2, 2)

    def __init__(self, form="dict", size=SIZE):
        self.form, self.size = form, size

    def load(self):
        return Described(self.form, self.size).get(torch.arange(self.size))


FORMS = ["dict", "tensor", "bytes"]
KINDS = [Described, Held]


def equal(a, b):
    pairs = zip(conditions.tensors(a), conditions.tensors(b), strict=True)
    return type(a) is type(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def numbers(x):
    """Indices of images."""
    return x[:, 0, 0, :].min(1).values.long()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_conditions_stay_with_their_samples(kind, form):
    for options in ({}, {"flip": True}, {"flip": True, "origin": kind(form)}, {"origin": kind(form), "paired": False}):
        data = MatchingDataModule(kind(form), 8, labels=True, **options)
        data.setup("fit")
        for batch in islice(data.train_dataloader(), 6):
            assert equal(batch.y, described(numbers(batch.x1), form))
            assert batch.size == 8
            if options.get("paired", True) and "origin" in options:
                assert torch.equal(batch.x0, batch.x1)
    (batch,) = islice(MatchingDataModule(kind(form), 8).train_dataloader(), 1)
    assert batch.y is None  # unless they are asked for


@pytest.mark.parametrize("form", FORMS)
def test_processes_and_workers_do_not_change_them(form):
    def batches(size, workers=0, **place):
        data = placed(MatchingDataModule(Described(form), size, labels=True, num_workers=workers), **place)
        return list(islice(data.train_dataloader(), 3))

    alone = batches(8)
    assert all(equal(a.y, b.y) for a, b in zip(alone, batches(8, workers=2), strict=True))
    for whole, *halves in zip(alone, *(batches(4, rank=rank, world_size=2) for rank in range(2)), strict=True):
        assert equal(conditions.joined([half.y for half in halves]), whole.y)


@pytest.mark.parametrize("form", FORMS)
def test_held_on_the_device_they_are_the_same(form):
    def seen(on_device):
        source = Held(form)
        origin = Degraded(source, Inpainting(0.0, 0.0, 1.0, 0.5))
        data = placed(MatchingDataModule(source, 8, labels=True, flip=True, origin=origin, on_device=on_device))
        data.setup("fit")
        return [data.on_after_batch_transfer(batch, 0) for batch in islice(data.train_dataloader(), 8)]

    for a, b in zip(seen(True), seen(False), strict=True):
        assert equal(a.y, b.y)
        assert torch.equal(a.x1, b.x1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_sample_takes_the_condition_of_its_index(kind, form):
    options = {"labels": True, "eval_samples": 50, "predict_seeds": "3,41-44"}
    for data, size in (
        (MatchingDataModule(kind(form), 7, **options), SIZE),
        (MatchingDataModule(kind(form), 7, reference=kind(form, 6), **options), 6),
        (MatchingDataModule(kind(form), 7, reference=kind(form, 6), origin=kind(form), **options), SIZE),
        (MatchingDataModule(kind(form), 7, origin=kind(form), eval_origin=kind(form, 9), **options), 9),
    ):
        batches = list(data.val_dataloader())
        index = together(batches, "index")
        assert equal(conditions.joined([batch.y for batch in batches]), described(index % size, form))
        (batch,) = data.predict_dataloader()
        assert equal(batch.y, described(torch.tensor([3, 41, 42, 43, 44]) % size, form))


@pytest.mark.parametrize("form", FORMS)
def test_they_can_be_drawn_by_the_index_alone(form):
    options = {"labels": True, "eval_labels": "sampled", "eval_samples": 90}
    data = MatchingDataModule(Described(form), 7, reference=Described(form, 6), **options)
    whole = conditions.joined([batch.y for batch in data.val_dataloader()])
    drawn = next(iter(conditions.tensors(whole))).flatten(1)[:, 0].long()
    assert set(drawn.tolist()) == set(range(6))
    assert not torch.equal(drawn, torch.arange(90) % 6)
    for rank in range(3):
        part = conditions.joined([batch.y for batch in placed(data, rank, 3).val_dataloader()])
        assert equal(part, conditions.rows(whole, torch.tensor(share(90, rank, 3))))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("on_device", [True, False])
def test_they_arrive_as_they_are(tmp_path, on_device, workers):
    model = Recorder()
    options = {"labels": True, "eval_samples": 8, "predict_seeds": "0-7", "on_device": on_device}
    data = MatchingDataModule(Held(), 8, origin=Held(), num_workers=workers, **options)
    fit(model, data, tmp_path, 1, limit_val_batches=None, val_check_interval=1, check_val_every_n_epoch=None)
    (predicted,) = trainer(tmp_path).predict(model, data)
    for batch in (*model.seen, predicted):
        assert batch.x0.dtype == torch.float32
        assert {key: part.dtype for key, part in batch.y.items()} == {"text": torch.float32, "mask": torch.bool}


def test_prediction_prepares_and_reads_only_what_gives_conditions(tmp_path):
    class Noting(Described):
        def prepare(self):
            self.prepared = True

    def asked(**options):
        sources = {"source": Noting(), "reference": Noting(), **options}
        trainer(tmp_path).predict(Recorder(), MatchingDataModule(labels=True, predict_seeds="0-2", **sources))
        return [(hasattr(source, "prepared"), source.read > 0) for source in sources.values()]

    assert asked() == [(False, False), (True, True)]
    assert asked(origin=Noting())[::2] == [(False, False), (True, True)]


def test_where_they_can_be_had_alone_no_sample_is_read_for_them():
    class Apart(Described):
        def conditions(self, index):
            return described(index, self.form)

    data = MatchingDataModule(Apart(), 8, labels=True, eval_samples=16)
    data.setup("predict")
    before = data.source.read
    batches = list(data.predict_dataloader())
    assert data.source.read == before
    assert equal(batches[0].y, described(torch.arange(8), "dict"))


class Wrong(Described):
    """Gives what is right, but for what ``spoil`` makes of the conditions of some samples."""

    def get(self, index):
        x, y = super().get(index)
        return x, self.spoil(index, y)


def spoilt(which, **parts):
    return lambda index, y: {**y, **{key: make(y) for key, make in parts.items()}} if which in index else y


BAD = {
    "fewer": (
        lambda _, y: conditions.rows(y, slice(1)),
        r"is the number of samples, here 4, got shape \(1, 1, 2\) und",
    ),
    "one for all": (lambda _, y: y["text"][0, 0, 0], r"is the number of samples, here 1, got shape \(\)$"),
    "no tensor": (lambda _, y: {**y, "text": ["a"] * len(y["mask"])}, "here 1, got list under 'text'$"),
    "nothing in it": (lambda _, y: {}, "here 1, got dict$"),
    "NaN": (spoilt(7, text=lambda y: y["text"] / 0), "NaN or infinite ones came under 'text', the first .* sample 7:"),
    "another key": (
        spoilt(7, style=lambda y: y["mask"]),
        r"of one form: mask: torch.bool \(2,\), text: torch.float32 \(1, 2\) came first, got mask: .*, style: ",
    ),
    "another length": (spoilt(7, text=lambda y: y["text"].repeat(1, 3, 1)), r"came first, got .*float32 \(3, 2\)$"),
    "another type": (spoilt(7, mask=lambda y: y["mask"].float()), r"came first, got mask: torch.float32 \(2,\)"),
    "none at last": (lambda index, y: None if 7 in index else y, "here 4, got NoneType$"),
    "none at all": (
        lambda _, y: None,
        "^MatchingDataModule: labels: true needs a source with .* but Wrong has none here",
    ),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_what_is_wrong_is_told_in_one_message(case, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # a run-time type checker would come first
    spoil, told = BAD[case]
    source = Wrong(spoil=spoil)
    data = MatchingDataModule(source, 4, labels=True, predict_seeds="4-7")

    def run(stage):  # which fails at once, or when sample 7 comes
        data.setup(stage)
        list(islice(data.train_dataloader() if stage == "fit" else data.predict_dataloader(), 5))

    for stage in ("fit", "predict"):
        with pytest.raises(UserError, match=told if stage == "fit" else None) as caught:
            run(stage)
        assert "\n" not in str(caught.value)


class Labelled(Held):
    """With class labels."""

    num_classes = 10

    def load(self):
        return super().load()[0], torch.arange(SIZE) % 10


def test_sources_of_other_conditions_do_not_go_together():
    told = r"Described, whose conditions evaluation takes, must give such as Held, torch.float32 \(1, 2\), got mask: "
    with pytest.raises(UserError, match=told):
        MatchingDataModule(Held("tensor"), labels=True, reference=Described()).setup("fit")
    with pytest.raises(UserError, match=r"must give such as Labelled, torch.int64 \(\), got torch.uint8 \(1,\)"):
        MatchingDataModule(Labelled(), labels=True, origin=Described("bytes")).setup("fit")


def test_a_loaders_process_tells_it_in_one_message():
    source = Wrong(spoil=spoilt(7, style=lambda y: y["mask"]))
    data = MatchingDataModule(source, 4, labels=True, num_workers=1)
    data.setup("fit")
    with pytest.raises(UserError) as caught:
        list(islice(data.train_dataloader(), 5))
    (line,) = str(caught.value).rpartition("UserError: ")[2].strip().splitlines()
    assert line.startswith("Wrong.get must give conditions of one form")
