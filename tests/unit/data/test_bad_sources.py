"""Data that a user's own source may give: whatever is wrong is told before training, in one message."""

import pytest
import torch
from helpers import mlp, trainer
from torch.utils.data import DataLoader

from realuid_lightning.data import (
    CIFAR10,
    CelebA,
    Digits,
    FashionMNIST,
    Gaussian,
    MatchingDataModule,
    MemorySource,
    RealSequence,
    RealStream,
    Source,
    Toy2D,
)
from realuid_lightning.data.stream import parse_indices
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # a run-time type checker would come first


class Own(Source):
    """Ten images of three classes, with whatever is wrong in place of what would be right."""

    shape = (1, 2, 2)
    num_classes = 3

    def __init__(self, **wrong):
        self.wrong = wrong

    def _given(self, name, right):
        value = self.wrong.get(name, right)
        if isinstance(value, Exception):
            raise value
        return value

    def __len__(self):
        return self._given("len", 10)

    def get(self, index):
        x = self._given("x", torch.zeros(10, 1, 2, 2, dtype=torch.uint8))
        y = self._given("y", torch.arange(10) % 3)
        return self._given("both", (x[index] if len(x) == 10 else x, y[index] if isinstance(y, torch.Tensor) else y))

    def labels(self):
        return self._given("labels", torch.arange(10) % 3)

    def fingerprint(self):
        return self._given("fingerprint", "own")

    def setup(self):
        self._given("setup", None)

    def prepare(self):
        self._given("prepare", None)


def images(*shape, dtype=torch.uint8):
    return torch.zeros(*shape, dtype=dtype)


BAD = {
    "empty": ({"len": 0}, "Own: expected samples, but it is empty"),
    "no number": ({"len": "ten"}, "Own.__len__ raised TypeError"),
    "negative": ({"len": -1}, "Own.__len__ raised ValueError"),
    "raises in setup": (
        {"setup": OSError("no disk")},
        r"Own.setup raised OSError: no disk \(.*test_bad_sources.py, line",
    ),
    "raises when read": (
        {"x": KeyError("pixels")},
        r"Own.get raised KeyError: 'pixels' \(.*line \d+\): mend the source",
    ),
    "raises in labels": ({"labels": RuntimeError("two\nlines")}, "Own.labels raised RuntimeError: two lines"),
    "other shape": ({"x": images(10, 1, 2, 3)}, r"of shape \(1, 1, 2, 2\), got torch.uint8 of shape \(1, 1, 2, 3\)"),
    "no batch": ({"both": (images(1, 2, 2), None)}, r"got torch.uint8 of shape \(1, 2, 2\)"),
    "other type": ({"x": images(10, 1, 2, 2, dtype=torch.float64)}, "got torch.float64"),
    "no tensor": ({"both": ([[0]], None)}, "got list"),
    "no pair": ({"both": images(1, 1, 2, 2)}, "Own.get raised ValueError"),
    "NaN": (
        {"x": images(10, 1, 2, 2, dtype=torch.float32) / 0},
        "samples must be finite numbers.*the first of them sample 0",
    ),
    "labels too large": (
        {"y": torch.full((10,), 3)},
        "Own.get must give labels from 0 to 2, for num_classes is 3, got 3",
    ),
    "negative labels": ({"labels": torch.arange(10) % 3 - 1}, "Own.labels must give labels from 0 to 2, .*got -1"),
    "NaN for labels": (
        {"y": torch.full((10,), torch.nan)},
        r"labels as torch.int64 of shape \(1,\), got torch.float32",
    ),
    "too few labels": ({"labels": torch.arange(3)}, r"of shape \(10,\), got torch.int64 of shape \(3,\)"),
    "no labels": ({"labels": None}, "got NoneType"),
    "no labels of a batch": ({"y": None}, "got NoneType"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_what_is_wrong_is_told_before_training(case):
    wrong, told = BAD[case]
    with pytest.raises(UserError, match=told) as caught:
        MatchingDataModule(Own(**wrong), labels=True).setup("fit")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["reference", "held_out", "origin", "eval_origin"])
def test_other_sources_are_looked_at_too(option):
    others = {"origin": Own()} if option == "eval_origin" else {}
    for wrong in ({"len": 0}, {"x": KeyError("pixels")}):
        with pytest.raises(UserError, match=r"^Own"):
            MatchingDataModule(Own(), **others | {option: Own(**wrong)}).setup("fit")


@pytest.mark.parametrize("wrong", [{"y": None, "labels": None}, {"y": torch.full((10,), 9.5)}])
def test_labels_that_nobody_asks_for_may_be_anything(wrong):
    MatchingDataModule(Own(**wrong)).setup("fit")
    assert RealStream(Own(**wrong), 0).__getitems__([0, 1]).y is None


def test_later_samples_are_looked_at_when_they_are_read():
    class Later(Own):
        def get(self, index):
            if 7 in index:
                raise OSError("sample 7 is gone")
            x = torch.zeros(len(index), 1, 2, 2).masked_fill((index == 5)[:, None, None, None], torch.inf)
            return x, (index == 3) * 4

    source = Later()
    MatchingDataModule(source, labels=True).setup("fit")
    stream = RealStream(source, 0, labels=True)
    for index, told in ((7, "sample 7 is gone"), (5, "first of them sample 5"), (3, "labels from 0 to 2, .*got 4")):
        position = next(p for p in range(10) if int(stream.order.codes([p])[0]) == index)
        with pytest.raises(UserError, match=told):
            stream.__getitems__([position])


def test_a_loaders_process_passes_it_on_as_one_message():
    loader = DataLoader(RealSequence(Own(x=KeyError("pixels"))), 5, num_workers=1, collate_fn=lambda batch: batch)
    with pytest.raises(UserError) as caught:
        list(loader)
    (line,) = str(caught.value).rpartition("UserError: ")[2].strip().splitlines()
    assert line.startswith("Own.get raised KeyError: 'pixels'")


def test_samples_in_memory_are_all_looked_at():
    class Held(MemorySource):
        shape, num_classes = (2,), None

        def load(self):
            return torch.zeros(100, 2).index_fill(0, torch.tensor([70]), torch.nan), None

    with pytest.raises(UserError, match=r"Held: samples must be finite .*in 1 of 100 .*sample 70"):
        MatchingDataModule(Held()).setup("fit")


@pytest.mark.parametrize("shape", [(), (0, 2), (2.0,), [2], None, 4])
def test_a_shape_that_is_none_is_told(shape):
    class Shaped(Own):
        pass

    Shaped.shape = shape
    with pytest.raises(UserError, match=r"Shaped.shape must be a tuple of positive integers, got"):
        MatchingDataModule(Shaped())


@pytest.mark.parametrize("method", ["prepare", "fingerprint"])
def test_every_method_is_named(method):
    data = MatchingDataModule(Own(**{method: ZeroDivisionError("zero")}))
    with pytest.raises(UserError, match=rf"Own.{method} raised ZeroDivisionError: zero"):
        data.prepare_data() if method == "prepare" else data.reference_fingerprint


def test_batches_that_no_memory_holds_are_told(tmp_path):
    told = "batch_size is 1000000000000, and .*take 245869.2 GiB, but this machine"
    with pytest.raises(UserError, match=rf" {told}"):
        MatchingDataModule(Digits(), batch_size=10**12)
    model = RealUIDModule(mlp(), teacher_ckpt=None, eval_batch_size=10**12)
    with pytest.raises(UserError, match=rf" eval_{told}"):
        trainer(tmp_path).predict(model, MatchingDataModule(Digits()))


def test_samples_that_no_memory_holds_are_told(monkeypatch):
    monkeypatch.setattr("realuid_lightning.data.memory.host_memory", lambda: 2.0**35)

    class Huge(Own):
        shape = (3, 10**5, 10**5)

    with pytest.raises(UserError, match=r"batch_size is 1, and .*take 111.8 GiB, but this machine has 32.0 GiB"):
        MatchingDataModule(Huge(), batch_size=1)


@pytest.mark.parametrize("make", [lambda n: Gaussian([0.0], [1.0], size=n), lambda n: Toy2D("rings", size=n)])
def test_more_samples_than_memory_are_told(make):
    with pytest.raises(UserError, match="size is 1000000000000000, and so many samples take"):
        make(10**15)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_moments_must_be_finite(value):
    with pytest.raises(UserError, match="mean must be finite"):
        Gaussian([value], [1.0])
    with pytest.raises(UserError, match="std must be positive and finite"):
        Gaussian([0.0], [value])


def test_more_evaluation_samples_than_indices_are_told():
    with pytest.raises(UserError, match="eval_samples must be 1 to 100000000, got 1000000000000"):
        MatchingDataModule(Digits(), eval_samples=10**12)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0-999999999999", "at most 100000000 .*names 1000000000000"),
        ("0-60000000,100000000-160000000", "names 120000002"),
        ("9223372036854775808", "at most 18 digits"),
        ("0-99999999999999999999", "at most 18 digits"),
        ("9" * 5000, "at most 18 digits"),
        ("5.0", "expected indices"),
        ("True", "expected indices"),
        ("", "expected indices"),
    ],
)
def test_samples_that_cannot_be_asked_for(text, told):
    with pytest.raises(UserError, match=f"predict_seeds: .*{told}") as caught:
        MatchingDataModule(Digits(), predict_seeds=text)
    assert len(str(caught.value)) < 6000


def test_large_indices_have_latents_of_their_own():
    indices = parse_indices(f"{10**12},{10**18 - 1},007")
    assert indices.tolist() == [10**12, 10**18 - 1, 7]


@pytest.mark.parametrize("seeds", [5, None, [0, 5]])
def test_seeds_are_a_text(seeds):
    with pytest.raises(UserError, match=r"predict_seeds: expected text such as '0-63,100,200-299', got"):
        MatchingDataModule(Digits(), predict_seeds=seeds)


@pytest.mark.parametrize("kind", [CIFAR10, FashionMNIST, CelebA])
def test_home_is_where_a_shell_finds_it(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"no complete data in {tmp_path}/data"):
        kind("~/data").setup()
