import multiprocessing
from itertools import islice

import numpy as np
import pytest
import torch
from helpers import fit, trainer
from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything
from PIL import Image
from recording import Recorder, placed, together
from torch.utils.data._utils import signal_handling

from realuid_lightning.data import CIFAR10, Digits, Gaussian, ImageFolder, MatchingDataModule, Toy2D, loading, to_floats
from realuid_lightning.errors import UserError
from realuid_lightning.lightning_internals import workers_of

# Lightning's own use of torch.
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")


def equal(a, b):
    return len(a) == len(b) and all(
        (p is None and q is None) or torch.equal(p, q)
        for x, y in zip(a, b, strict=True)
        for p, q in zip(x, y, strict=True)
    )


@pytest.fixture(autouse=True)
def seed():
    seed_everything(3, verbose=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_continues_the_stream(tmp_path, workers):
    def data():
        return MatchingDataModule(Digits(), batch_size=4, labels=True, flip=True, num_workers=workers)

    straight, first, second = Recorder(), Recorder(), Recorder()
    fit(straight, data(), tmp_path, 6)
    fit(first, data(), tmp_path, 4).save_checkpoint(tmp_path / "a.ckpt")
    fit(second, data(), tmp_path, 6, tmp_path / "a.ckpt")
    assert equal(first.seen + second.seen, straight.seen)
    assert straight.seen[0].x1.shape == (8, 1, 8, 8)


def test_short_epochs_do_not_repeat_the_stream(tmp_path):
    straight, epochs = Recorder(), Recorder()
    fit(straight, MatchingDataModule(Digits(), 4), tmp_path, 6)
    fit(epochs, MatchingDataModule(Digits(), 4), tmp_path, -1, max_epochs=3, limit_train_batches=2)
    assert equal(epochs.seen, straight.seen)


def test_workers_and_processes_do_not_change_the_data():
    def batches(batch_size, workers=0, **place):
        data = MatchingDataModule(Digits(), batch_size, flip=True, num_workers=workers)
        return [b.x1 for b in islice(placed(data, micro_batches=3, step=2, **place).train_dataloader(), 4)]

    alone = batches(8)
    assert all(torch.equal(a, b) for a, b in zip(alone, batches(8, workers=2), strict=True))
    ranks = [batches(4, rank=rank, world_size=2) for rank in range(2)]
    for k in range(4):
        halves = [ranks[rank][k].unflatten(0, (3, 4)) for rank in range(2)]
        assert torch.equal(torch.cat(halves, 1), alone[k].unflatten(0, (3, 8)))


def test_seed_decides_order_and_flip_acts():
    def batch(**options):
        return next(iter(MatchingDataModule(Digits(), 64, **options).train_dataloader())).x1

    first = batch()
    assert torch.equal(first, batch())
    assert not torch.equal(first, batch(flip=True))
    seed_everything(4, verbose=False)
    assert not torch.equal(first, batch())


def test_loading_leaves_the_global_generator_alone():
    data = MatchingDataModule(Digits(), 8, flip=True, eval_samples=8)
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.reference_dataloader()):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_end_with_the_program_whoever_still_holds_their_iterator():
    """They ignore SIGTERM, by which Python would end them, to wait for them then."""
    begun = [iter(MatchingDataModule(Digits(), 8, num_workers=1).train_dataloader()) for _ in range(2)]
    workers = [worker for iterator in begun for worker in workers_of(iterator)]
    left = begun.pop()  # as a collection of garbage can leave it: its process is forgotten, and never told to end
    signal_handling._remove_worker_pids(id(left))
    left._shutdown, left._worker_pids_set = True, False
    assert len(workers) == 2
    loading._end_all_workers()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()


def test_a_forked_program_leaves_the_workers_alone_when_it_ends():
    iterator = iter(MatchingDataModule(Digits(), 8, num_workers=1).train_dataloader())
    forked = multiprocessing.get_context("fork").Process(target=loading._end_all_workers)
    forked.start()
    forked.join()
    assert forked.exitcode == 0
    for _ in range(10):
        assert next(iterator).x1.shape == (8, 1, 8, 8)


def test_bytes_travel_and_floats_arrive(tmp_path):
    data, model = MatchingDataModule(Digits(), 16), Recorder(micro_batches=1)
    assert next(iter(data.train_dataloader())).x1.dtype == torch.uint8
    fit(model, data, tmp_path, 1)
    x = model.seen[0].x1
    assert (x.dtype, x.min(), x.max(), x.shape) == (torch.float32, -1.0, 1.0, (16, 1, 8, 8))
    assert to_floats(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).flatten().tolist() == [-1.0, 1.0]
    vectors = Recorder()
    fit(vectors, MatchingDataModule(Gaussian([5.0], [0.1]), 16), tmp_path, 1)
    assert abs(vectors.seen[0].x1.mean() - 5) < 0.1


def test_validation_test_and_prediction_under_a_trainer(tmp_path):
    def data():
        return MatchingDataModule(Digits(), 4, labels=True, eval_samples=25, predict_seeds="20-24,3")

    run = trainer(tmp_path)
    small, large = Recorder(), Recorder()
    large.eval_batch_size = 7  # as a module says that takes so many in one forward
    run.validate(small, data(), verbose=False)
    run.test(large, data(), verbose=False)
    assert [b.size for b in small.seen] == [4] * 6 + [1]
    assert [b.size for b in large.seen] == [7, 7, 7, 4]
    for field in ("z", "y", "index"):
        assert torch.equal(together(small.seen, field), together(large.seen, field))
    predicted = run.predict(Recorder(), data())
    assert together(predicted, "index").tolist() == [20, 21, 22, 23, 24, 3]
    assert torch.equal(together(predicted, "z"), together(small.seen, "z")[[20, 21, 22, 23, 24, 3]])


@pytest.mark.parametrize("name", ["val_dataloader", "test_dataloader", "predict_dataloader", "reference_dataloader"])
def test_evaluation_is_shared_out_without_duplicates(name):
    data = MatchingDataModule(Toy2D("moons", size=23), 4, labels=True, eval_samples=23, predict_seeds="40-60,2")
    alone = list(getattr(data, name)())
    ranks = [batch for rank in range(3) for batch in getattr(placed(data, rank, 3), name)()]
    for field in ("x1", "y", "z", "index"):
        if getattr(alone[0], field) is not None:
            assert torch.equal(together(alone, field), together(ranks, field))


def test_evaluation_labels():
    def labels(**options):
        data = MatchingDataModule(Toy2D("rings", size=9), 50, eval_samples=100, **options)
        return [batch.y for batch in data.val_dataloader()]

    assert labels() == [None, None]
    assert torch.cat(labels(labels=True)).bincount().tolist() == [25] * 4
    sampled = torch.cat(labels(labels=True, eval_labels="sampled"))
    real = Toy2D("rings", size=9).labels()
    assert set(sampled.tolist()) == set(real.tolist())
    assert sampled.bincount().tolist() != [25] * 4


def test_reference_is_unflipped_complete_and_another_source_if_given():
    data = MatchingDataModule(Digits(), 256, flip=True)
    batches = list(data.reference_dataloader())
    assert torch.equal(together(batches, "x1"), Digits().get(torch.arange(1797))[0])
    assert torch.equal(together(batches, "y"), Digits().labels())
    assert data.reference_fingerprint == Digits().fingerprint()
    other = Toy2D("moons", size=5)
    data = MatchingDataModule(Toy2D("moons"), reference=other)
    assert together(data.reference_dataloader(), "x1").shape == (5, 2)
    assert data.reference_fingerprint == other.fingerprint()


def test_held_out_data_are_read_where_figures_are_measured(tmp_path):
    class Held(Digits):
        seen = ""

        def prepare(self):
            self.seen += "prepared "

        def setup(self):
            self.seen += "set up"

    assert MatchingDataModule(Digits()).held_out_dataloader() is None
    assert MatchingDataModule(Digits()).held_out_fingerprint is None
    for stage in ("fit", "validate", "test", "predict"):
        held_out = Held("odd")
        data = MatchingDataModule(Digits("even"), 64, held_out=held_out, eval_samples=4, predict_seeds="0-3")
        run = trainer(tmp_path, max_steps=1)
        run.fit(Recorder(), data) if stage == "fit" else getattr(run, stage)(Recorder(), data)
        assert held_out.seen == ("" if stage == "predict" else "prepared set up")
    assert torch.equal(together(data.held_out_dataloader(), "x1"), Digits().get(torch.arange(1, 1797, 2))[0])
    assert data.held_out_fingerprint == held_out.fingerprint()


@pytest.mark.parametrize("name", ["val_dataloader", "predict_dataloader"])
def test_another_eval_seed_has_other_latents_and_sampled_labels(name):
    def batch(**options):
        options |= {"labels": True, "eval_samples": 64, "eval_labels": "sampled"}
        return next(iter(getattr(MatchingDataModule(Toy2D("rings"), 64, **options), name)()))

    usual, other = batch(), batch(eval_seed=7)
    assert torch.equal(usual.index, other.index)
    for field in ("z", "y", "key"):
        assert torch.equal(getattr(usual, field), getattr(batch(eval_seed=0), field))
        assert torch.equal(getattr(other, field), getattr(batch(eval_seed=7), field))
        assert not torch.equal(getattr(usual, field), getattr(other, field))


def test_properties():
    data = MatchingDataModule(Digits(), labels=True)
    assert (data.shape, data.num_classes, data.image) == ((1, 8, 8), 10, True)
    data = MatchingDataModule(Toy2D("moons"))
    assert (data.shape, data.num_classes, data.image) == ((2,), None, False)


def test_construction_reads_nothing_and_prediction_needs_no_data(tmp_path):
    missing = CIFAR10(str(tmp_path / "nowhere"))
    data = MatchingDataModule(missing, labels=True, reference=missing, predict_seeds="0-2")
    data.prepare_data()
    data.setup("predict")
    assert together(data.predict_dataloader(), "z").shape == (3, 3, 32, 32)
    for stage in ("fit", "validate"):
        with pytest.raises(UserError, match="download: true"):
            data.setup(stage)


def test_prepare_data_prepares_both_sources():
    class Noting(Digits):
        prepared = 0

        def prepare(self):
            self.prepared += 1

    source, reference = Noting(), Noting()
    MatchingDataModule(source, reference=reference).prepare_data()
    MatchingDataModule(source).prepare_data()
    assert (source.prepared, reference.prepared) == (2, 1)


def test_labels_need_a_source_with_classes(tmp_path):
    with pytest.raises(
        UserError, match="labels: true needs a source with classes or other conditions, but Toy2D has none"
    ):
        fit(Recorder(), MatchingDataModule(Toy2D("spiral"), labels=True), tmp_path, 1)


def test_fewer_samples_than_processes():
    data = placed(MatchingDataModule(Digits(), eval_samples=3, predict_seeds="0-1"), rank=0, world_size=4)
    with pytest.raises(
        UserError, match="eval_samples must name at least one sample for each of the 4 processes, got 3"
    ):
        data.val_dataloader()
    with pytest.raises(UserError, match="predict_seeds"):
        data.predict_dataloader()


def test_all_faults_at_once(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # a run-time type checker would come first
    with pytest.raises(UserError) as caught:
        MatchingDataModule(
            Toy2D("moons"),
            batch_size=0,
            flip=True,
            num_workers=-1,
            eval_samples=0,
            eval_labels="random",
            eval_seed=-1,
            predict_seeds="9-1",
            reference=Digits(),
            held_out=Digits(),
        )
    options = [
        "batch_size",
        "eval_samples",
        "eval_labels",
        "eval_seed",
        "predict_seeds:",
        "num_workers",
        "flip:",
        "reference",
        "held_out",
    ]
    assert [line.split()[1] for line in str(caught.value).splitlines()] == options


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers", lambda _: 8)


@pytest.mark.usefixtures("many_cores")
def test_lightning_advises_workers_only_where_they_help(tmp_path):
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i}.png")

    def fit(in_memory):
        source = ImageFolder(str(tmp_path), 8, in_memory=in_memory)
        run = trainer(tmp_path, max_steps=1, limit_val_batches=1)
        run.fit(Recorder(), MatchingDataModule(source, 2, eval_samples=2))
        run.predict(Recorder(), MatchingDataModule(source, 2))

    fit(in_memory=True)
    with pytest.warns(UserWarning, match="'train_dataloader' does not have many workers") as caught:
        fit(in_memory=False)
    assert sum("many workers" in str(warning.message) for warning in caught) == 1


def test_usable_from_a_config():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MatchingDataModule, "data")
    config = {"source": {"class_path": "Digits"}, "batch_size": 7, "reference": {"class_path": "Digits"}}
    data = parser.instantiate(parser.parse_object({"data": config})).data
    assert (type(data.source), type(data.reference), data.batch_size) == (Digits, Digits, 7)


@pytest.mark.parametrize("labels", ["balanced", "sampled"])
def test_prediction_downloads_only_what_it_samples_labels_from(tmp_path, labels):
    class Counted(Digits):
        prepared = 0

        def prepare(self):
            Counted.prepared += 1

    data = MatchingDataModule(Counted(), 4, labels=True, eval_labels=labels, predict_seeds="0-2")
    trainer(tmp_path).predict(Recorder(), data)
    assert Counted.prepared == (labels == "sampled")
