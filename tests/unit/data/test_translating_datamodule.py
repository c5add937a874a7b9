from itertools import islice

import pytest
import torch
from helpers import fit, trainer
from lightning.pytorch import seed_everything
from recording import Recorder, placed, together

from realuid_lightning.data import Degraded, Digits, Inpainting, MatchingDataModule, Sketch, Toy2D
from realuid_lightning.errors import UserError

HOW = Sketch()


class Part(Digits):
    """Digits ``start`` to ``stop - 1``, noting what is asked of it."""

    def __init__(self, start=0, stop=1797, classes=10):
        self.start, self.stop, self.classes, self.prepared, self.loaded = start, stop, classes, 0, 0

    @property
    def num_classes(self):
        return self.classes

    def prepare(self):
        self.prepared += 1

    def load(self):
        self.loaded += 1
        x, y = super().load()
        return x[self.start : self.stop], None if self.classes is None else y[self.start : self.stop]

    @property
    def asked(self):
        return self.prepared, self.loaded


def translating(source=None, origin=None, **options):
    source = source or Digits()
    return MatchingDataModule(source, 4, origin=origin or Degraded(source, HOW), **options)


@pytest.mark.parametrize("paired", [True, False])
def test_resuming_continues_both_ends(tmp_path, paired):
    def data():
        return translating(flip=True, labels=True, paired=paired)

    seed_everything(3, verbose=False)
    straight, first, second = Recorder(), Recorder(), Recorder()
    fit(straight, data(), tmp_path, 6)
    fit(first, data(), tmp_path, 4).save_checkpoint(tmp_path / "a.ckpt")
    fit(second, data(), tmp_path, 6, tmp_path / "a.ckpt")
    for field in ("x0", "x1", "y"):
        assert torch.equal(together(first.seen + second.seen, field), together(straight.seen, field))


@pytest.mark.parametrize("paired", [True, False])
def test_two_processes_train_on_what_one_trains_on(paired):
    def batches(batch_size, rank=0, world_size=1):
        data = MatchingDataModule(Digits(), batch_size, flip=True, origin=Degraded(Digits(), HOW), paired=paired)
        return list(islice(placed(data, rank, world_size, 2, micro_batches=3).train_dataloader(), 4))

    alone, ranks = batches(8), [batches(4, rank, 2) for rank in range(2)]
    for k, field in [(k, field) for k in range(4) for field in ("x0", "x1")]:
        halves = [getattr(ranks[rank][k], field).unflatten(0, (3, 4)) for rank in range(2)]
        assert torch.equal(torch.cat(halves, 1), getattr(alone[k], field).unflatten(0, (3, 8)))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_knows_the_truth_of_each_source_end(workers):
    data = translating(Part(0, 30), eval_samples=70, num_workers=workers)
    real = Digits().get(torch.arange(70) % 30)[0]
    for loader in (data.val_dataloader(), data.test_dataloader()):
        batches = list(loader)
        assert together(batches, "index").tolist() == list(range(70))
        assert torch.equal(together(batches, "x1"), real)
        assert torch.equal(together(batches, "x0"), HOW(real))
        assert together(batches, "z").shape == (70, 1, 8, 8)


def test_prediction_has_source_ends_without_their_truth():
    batches = list(translating(Part(0, 30), predict_seeds="28-31,5").predict_dataloader())
    assert torch.equal(together(batches, "x0"), HOW(Digits().get(torch.tensor([28, 29, 0, 1, 5]))[0]))
    assert all(batch.x1 is None for batch in batches)


def test_other_source_ends_can_be_evaluated():
    held_out = Part(1000, 1040)
    options = {"eval_origin": Degraded(held_out, HOW), "eval_samples": 50}
    known = list(translating(reference=held_out, **options).val_dataloader())
    ends = Digits().get(1000 + torch.arange(50) % 40)[0]
    assert torch.equal(together(known, "x0"), HOW(ends))
    assert torch.equal(together(known, "x1"), ends)
    for data in (translating(**options), translating(reference=held_out, paired=False, **options)):
        batches = list(data.val_dataloader())
        assert torch.equal(together(batches, "x0"), HOW(ends))
        assert all(batch.x1 is None for batch in batches)


@pytest.mark.parametrize("name", ["val_dataloader", "predict_dataloader"])
def test_evaluation_is_shared_out_without_duplicates(name):
    data = translating(Part(0, 20), labels=True, eval_samples=23, predict_seeds="40-60,2")
    alone = list(getattr(data, name)())
    ranks = [batch for rank in range(3) for batch in getattr(placed(data, rank, 3), name)()]
    for field in ("x0", "x1", "y", "z", "index"):
        if getattr(alone[0], field) is not None:
            assert torch.equal(together(alone, field), together(ranks, field))


@pytest.mark.parametrize("eval_labels", ["balanced", "sampled"])
def test_samples_take_the_labels_of_their_source_ends(eval_labels):
    options = {"labels": True, "eval_labels": eval_labels, "eval_samples": 50, "predict_seeds": "3,31"}
    own = translating(Part(0, 30), **options)
    assert torch.equal(together(own.val_dataloader(), "y"), Digits().labels()[torch.arange(50) % 30])
    assert torch.equal(together(own.predict_dataloader(), "y"), Digits().labels()[[3, 1]])
    silent = translating(Part(0, 30), Degraded(Part(0, 30, classes=None), HOW), **options)
    plain = MatchingDataModule(Part(0, 30), 4, **options)
    assert torch.equal(together(silent.val_dataloader(), "y"), together(plain.val_dataloader(), "y"))
    off = translating(Part(0, 30), eval_samples=50)
    assert all(batch.y is None for batch in off.val_dataloader())


def test_data_without_an_origin_are_as_before():
    data = MatchingDataModule(Digits(), 4, eval_samples=4)
    assert not data.translates
    for loader in (data.train_dataloader(), data.val_dataloader(), data.predict_dataloader()):
        assert next(iter(loader)).x0 is None
    assert next(iter(data.val_dataloader())).x1 is None


def test_each_stage_prepares_and_reads_what_it_needs(tmp_path):
    def asked(run):
        sources = [Part(0, 30), Part(30, 60), Part(60, 90), Part(90, 120)]
        source, origin, eval_origin, reference = sources
        options = {"eval_origin": eval_origin, "reference": reference, "eval_samples": 8, "predict_seeds": "0-3"}
        run(Recorder(), MatchingDataModule(source, 4, origin=origin, **options))
        return [part.asked for part in sources]

    assert asked(trainer(tmp_path, max_steps=1, limit_val_batches=1).fit) == [(1, 1)] * 4
    prepared = [(1, 0), (1, 0), (1, 1), (1, 1)]
    assert asked(lambda *given: trainer(tmp_path, limit_val_batches=1).validate(*given, verbose=False)) == prepared
    assert asked(trainer(tmp_path).predict) == [(0, 0), (0, 0), (1, 1), (0, 0)]


@pytest.mark.parametrize("labelled", [True, False])
def test_prediction_needs_the_source_for_labels_that_its_ends_lack(tmp_path, labelled):
    source, origin = Part(), Part(classes=10 if labelled else None)
    data = MatchingDataModule(source, 4, labels=True, eval_labels="sampled", origin=origin, predict_seeds="0-3")
    trainer(tmp_path).predict(Recorder(), data)
    assert source.asked == ((0, 0) if labelled else (1, 1))
    assert origin.asked == (1, 1)


def test_floats_arrive_in_evaluation(tmp_path):
    model = Recorder()
    trainer(tmp_path).validate(model, translating(eval_samples=8), verbose=False)
    for x in (model.seen[0].x0, model.seen[0].x1):
        assert (x.dtype, x.min(), x.max()) == (torch.float32, -1.0, 1.0)


def test_pairs_need_equal_lengths():
    data = translating(Part(0, 30), Part(0, 20))
    with pytest.raises(UserError, match=r"as many samples as source \(30\).*got 20: set paired: false"):
        data.setup("fit")
    data.setup("predict")
    translating(Part(0, 30), Part(0, 20), paired=False).setup("fit")


def test_ends_may_not_have_more_classes_than_the_network():
    with pytest.raises(UserError, match="at most the 10 classes of source, got 12: set labels: false"):
        translating(Digits(), Part(classes=12), labels=True).setup("predict")
    translating(Digits(), Part(classes=12)).setup("predict")


def test_all_faults_at_once():
    with pytest.raises(UserError) as caught:
        MatchingDataModule(Digits(), eval_samples=0, origin=Toy2D("moons"), eval_origin=Toy2D("rings"))
    assert [line.split()[1] for line in str(caught.value).splitlines()] == ["eval_samples", "origin", "eval_origin"]
    with pytest.raises(UserError, match=r"^MatchingDataModule: origin must have samples of shape \(1, 8, 8\).*$"):
        MatchingDataModule(Digits(), origin=Toy2D("moons"))
    with pytest.raises(UserError, match="eval_origin needs origin"):
        MatchingDataModule(Digits(), eval_origin=Degraded(Digits(), Inpainting()))
