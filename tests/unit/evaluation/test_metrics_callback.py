import logging
import math

import pytest
import torch
from helpers import measurements, mlp, rebatched, trainer
from safetensors.torch import load_file, save_file
from torch import nn

from realuid_lightning.data import Digits, Gaussian, MatchingDataModule, to_floats
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation import FIDCallback, MetricsCallback
from realuid_lightning.evaluation.real import RealSide
from realuid_lightning.fingerprint import NoFingerprintError
from realuid_lightning.metrics import (
    FID,
    KID,
    MMD,
    PRDC,
    Features,
    FeatureStatistics,
    InceptionFeatures,
    InceptionScore,
    Modes,
    RawFeatures,
    Sample,
    Wasserstein,
    drawn_order,
)
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import MLP
from realuid_lightning.running import RunCheckpoint

SAMPLES = 150


class Pooled(Features):
    """Eight features of digits."""

    num_features = 8
    label = "pooled"

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = scale
        self.layer = nn.Linear(64, 8).double()

    def forward(self, x):
        assert not self.training
        return self.scale * self.layer(x.flatten(1).double()).tanh()


def module(**options):
    return RealUIDModule(mlp(), teacher_ckpt=None, **options)


def data(batch_size=50, source=None, **options):
    return rebatched(MatchingDataModule(source or Digits(), eval_samples=SAMPLES, **options), batch_size)


def validate(folder, callback, datamodule=None, model=None, **options):
    run = trainer(folder, callbacks=[callback], **options)
    (figures,) = run.validate(model or module(), datamodule or data(), verbose=False)
    return figures


def frechet(one, two):
    """Fréchet distance of two sets of vectors, by eigenvalues of symmetric matrices only."""
    one, two = one.double(), two.double()
    covariance, other = torch.cov(one.T), torch.cov(two.T)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return float((one.mean(0) - two.mean(0)).square().sum() + covariance.trace() + other.trace() - 2 * cross)


@torch.no_grad()
def generated(model, datamodule):
    """The samples that evaluation makes, by the network itself."""
    datamodule.setup("validate")
    z = torch.cat([batch.z for batch in datamodule.val_dataloader()])
    return model.generator(z)


def reals():
    source = Digits()
    return to_floats(source.get(torch.arange(len(source)))[0])


@pytest.mark.parametrize("make", [lambda: RawFeatures([1, 8, 8]), Pooled])
def test_the_figure_is_the_frechet_distance(tmp_path, make):
    model, features = module(), make()
    figures = validate(tmp_path, FIDCallback(features), model=model)
    with torch.no_grad():
        expected = frechet(features(reals()), features(generated(model, data())))
    assert expected > 0.01
    sampled = {name: figures[name] for name in ("fid/raw", "fid/ema_0.999")}
    assert sampled == {name: pytest.approx(expected, rel=1e-6) for name in sampled}
    assert measurements(tmp_path)[0]["figures"]["fid"] == pytest.approx(expected, rel=1e-6)


def test_samplers_have_figures_of_their_own(tmp_path):
    model = module(ema=[0.5, 0.9])
    model.start()
    with torch.no_grad():
        model.ema[0.5].network.network.out[-1].weight.zero_()
    figures = validate(tmp_path, FIDCallback(Pooled()), model=model)
    assert list(figures) == ["fid/raw", "fid/ema_0.5", "fid/ema_0.9", "fid/floor", "fid/gaussian"]
    assert figures["fid/raw"] == figures["fid/ema_0.9"] != figures["fid/ema_0.5"]


def test_real_against_real_is_zero(tmp_path):
    x = reals()
    datamodule = rebatched(MatchingDataModule(Digits(), eval_samples=len(x)), 500)

    class Pretending(FIDCallback):
        def on_validation_batch_end(self, trainer, pl_module, _, batch, *rest):
            super().on_validation_batch_end(trainer, pl_module, {"real": x[batch.index]}, batch, *rest)

    figures = validate(tmp_path, Pretending(RawFeatures([1, 8, 8])), datamodule)
    assert abs(figures["fid/real"]) < 1e-5


def test_the_batch_size_does_not_matter(tmp_path):
    figures = [validate(tmp_path, FIDCallback(Pooled()), data(size)) for size in (7, 64)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)  # samples differ by rounding


def test_rows_tell_figures_bounds_and_protocol(tmp_path):
    first = validate(tmp_path, FIDCallback(Pooled()))
    again = validate(tmp_path, FIDCallback(Pooled()))
    assert first == again
    rows = measurements(tmp_path)
    assert [row["sampler"] for row in rows] == ["raw", "ema_0.999"] * 2
    for row in rows:
        assert (row["step"], row["checkpoint"]) == (0, "none")  # no training, no file
        logged = {"figures": row["sampler"], "floor": "floor", "gaussian": "gaussian"}
        for kind, name in logged.items():
            assert row[kind] == {"fid": pytest.approx(first[f"fid/{name}"], rel=1e-6)}
        assert [len(row["protocol"].pop(name)) for name in ("weights", "metrics")] == [16, 16]
        assert row["protocol"] == {
            **{"features": "pooled", "rounding": "none", "resize": "none", "labels": "none", "samples": SAMPLES},
            **{"seed": 0, "reference": Digits().fingerprint(), "reference_samples": len(Digits())},
            **{"held_out": "halves", "floor_samples": SAMPLES},
        }


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Run an evaluation and return how many real samples it measured."""
    counts, measure = [], RealSide._measure

    def counting(side, run, model, data):
        counts.append(len(data.reference))
        return measure(side, run, model, data)

    monkeypatch.setattr(RealSide, "_measure", counting)

    def run(features, datamodule=None, cache=None):
        counts.clear()
        validate(tmp_path, FIDCallback(features, cache=cache), datamodule)
        return sum(counts)

    return run


def test_real_data_are_measured_once(cache_home, tmp_path, measured):
    features, all_digits = Pooled(), len(Digits())
    assert measured(features) == all_digits
    assert measured(features) == 0
    assert measured(Pooled(), data(7)) == 0  # in another run, in batches of another size
    assert len(list((cache_home / "realuid_lightning").iterdir())) == 1
    assert measured(features, cache=str(tmp_path / "own")) == all_digits
    assert measured(features, cache=str(tmp_path / "own")) == 0


class Fewer(Digits):
    def load(self):
        x, y = super().load()
        return x[:500], y[:500]


def test_another_extractor_or_other_data_are_measured_anew(measured):
    all_digits = len(Digits())
    assert measured(Pooled()) == all_digits
    other = Pooled()
    with torch.no_grad():
        other.layer.weight[0, 0] += 1e-6
    assert measured(other) == all_digits
    assert measured(Pooled(2.0)) == all_digits
    assert measured(Pooled(), data(reference=Fewer())) == 500
    assert measured(Pooled()) == 0


class Shifted(nn.Module):
    """A user's extractor with a plain attribute."""

    num_features = 8

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x.flatten(1)[:, 20:28] + self.by


def test_a_plain_attribute_or_other_code_is_measured_anew(measured, monkeypatch):
    all_digits = len(Digits())
    assert measured(Shifted(0.0)) == all_digits
    assert measured(Shifted(0.0)) == 0
    assert measured(Shifted(1.0)) == all_digits
    monkeypatch.setattr(Shifted, "forward", lambda self, x: x.flatten(1)[:, 28:36] + self.by)
    assert measured(Shifted(1.0)) == all_digits


def test_what_has_no_fingerprint_is_measured_every_time_and_told(cache_home, measured):
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"Shifted have no fingerprint \(Shifted.by.*a method fingerprint"):
            assert measured(Shifted(Unreadable())) == len(Digits())
    assert not cache_home.exists()

    class Named(Shifted):
        def fingerprint(self):
            return "first edition"

    assert [measured(Named(Unreadable())) for _ in range(2)] == [len(Digits()), 0]


class Unreadable(int):
    def __reduce_ex__(self, protocol):
        raise TypeError("not to be taken apart")


def test_data_without_a_fingerprint_are_measured_every_time_and_compared_with_nothing(tmp_path, measured):
    class Nameless(Digits):
        def fingerprint(self):
            raise NoFingerprintError("in the cloud")

    for _ in range(2):
        with pytest.warns(UserWarning, match=r"the real data have no fingerprint \(in the cloud\)"):
            assert measured(Pooled(), data(reference=Nameless())) == len(Digits())
    assert len({row["protocol"]["reference"] for row in measurements(tmp_path)}) == 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_statistics_that_are_not_finite_are_neither_kept_nor_used(cache_home, measured, value):
    source, features = Digits(), Pooled()
    measured(features)
    (file,) = (cache_home / "realuid_lightning").iterdir()
    known = load_file(file)
    known["outer"][0, 0] = value
    save_file(known, file)
    assert measured(features) == len(source)
    assert measured(features) == 0


class Broken(nn.Module):
    num_features = 8

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        rows = x.flatten(1)[:, :8]
        return {
            "width": rows[:, :7],
            "rank": rows[..., None, None],
            "rows": rows[:1],
            "type": rows.long(),
            "list": rows.tolist(),
            "NaN": rows * float("nan"),
            "error": None if self.how != "error" else rows[:, 99],
        }[self.how]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("width", r"floating-point numbers of shape \(2, 8\).*returned torch.float32 of shape \(2, 7\)"),
        ("rank", r"returned torch.float32 of shape \(2, 8, 1, 1\)"),
        ("rows", r"of shape \(1, 8\)"),
        ("type", "returned torch.int64"),
        ("list", "returned .*list"),
        ("NaN", "of the real samples must be finite"),
        ("error", r"samples of shape \(2, 1, 8, 8\) on cpu, but they raised IndexError: index 99"),
    ],
)
def test_broken_features_are_told_before_any_work(tmp_path, how, told):
    callback = FIDCallback(Broken(how))
    callback.on_validation_start = None  # not reached
    with pytest.raises(UserError, match=rf"metrics: features Broken.*{told}"):
        validate(tmp_path, callback)


def test_real_features_that_are_not_finite_are_told_and_not_kept(cache_home, tmp_path):
    class Later(nn.Module):
        num_features = 8

        def forward(self, x):
            return x.flatten(1)[:, :8].masked_fill(x.flatten(1)[:, 20:21] > 0.9, torch.inf)

    with pytest.raises(UserError, match="Later of the real samples must be finite"):
        validate(tmp_path, FIDCallback(Later()))
    assert not cache_home.exists()


def test_a_single_real_sample_has_no_distance(tmp_path):
    class One(Digits):
        def load(self):
            x, y = super().load()
            return x[:1], y[:1]

    with pytest.raises(UserError, match="need at least 2 real samples, but the reference has 1"):
        validate(tmp_path, FIDCallback(Pooled()), data(source=One()))


def test_too_few_held_out_samples_are_told(tmp_path):
    class Three(Digits):
        def load(self):
            x, y = super().load()
            return x[:3], y[:3]

    held_out = MatchingDataModule(Digits(), eval_samples=64, held_out=Three())
    callback = MetricsCallback(RawFeatures([1, 8, 8]), [FID(), PRDC(k=3)])
    with pytest.raises(UserError, match=r"data\.held_out has 3 samples, fewer than metrics need: PRDC 4"):
        validate(tmp_path, callback, held_out)


def test_fewer_samples_than_features_are_told(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        validate(tmp_path, FIDCallback(RawFeatures([1, 8, 8])), MatchingDataModule(Digits(), eval_samples=64))
    assert "64 samples do not span 64 features" in caplog.text


def test_one_callback_serves_other_data_in_another_run(tmp_path):
    callback, model = (
        FIDCallback(RawFeatures([2])),
        RealUIDModule(network=MLP([2], width=4, depth=1), teacher_ckpt=None),
    )
    near, far = (data(source=Gaussian([mean, 0.0], [1.0, 1.0], size=400)) for mean in (0.0, 9.0))
    assert validate(tmp_path, callback, near, model)["fid/raw"] < 1
    assert validate(tmp_path, callback, far, model)["fid/raw"] > 80


def test_features_stay_as_they_are(tmp_path):
    features = Pooled().train()
    before = {name: tensor.clone() for name, tensor in features.state_dict().items()}
    model = module()
    validate(tmp_path, FIDCallback(features), model=model)
    assert all(torch.equal(before[name], tensor) for name, tensor in features.state_dict().items())
    assert not any(parameter.requires_grad for parameter in features.parameters())
    assert not any("layer" in name for name in model.state_dict())


def test_figures_come_in_training_and_not_in_the_sanity_check(tmp_path):
    callback = FIDCallback(RawFeatures([1, 8, 8]))
    options = {"max_steps": 2, "val_check_interval": 1, "check_val_every_n_epoch": None, "num_sanity_val_steps": 1}
    run = trainer(tmp_path, callbacks=[callback], **options)
    run.fit(module(fake_steps=1), data(batch_size=64))
    assert [row["step"] for row in measurements(tmp_path)] == [1, 1, 2, 2]
    assert run.callback_metrics["fid/raw"] == pytest.approx(measurements(tmp_path)[2]["figures"]["fid"], rel=1e-6)


def test_missing_weights_are_told_before_any_work(tmp_path):
    callback = FIDCallback(InceptionFeatures(str(tmp_path / "absent.pth")))
    with pytest.raises(UserError, match=r"absent.pth.*--features.weights"):
        validate(tmp_path, callback)


def test_the_default_needs_a_download(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("offline")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(UserError, match=r"the download failed.*offline.*--features.weights"):
        validate(tmp_path, FIDCallback())


def test_features_without_their_number_are_refused():
    with pytest.raises(UserError, match=r"num_features, but Flatten has none"):
        FIDCallback(nn.Flatten())


def test_inception_is_for_images_only(tmp_path):
    model = RealUIDModule(network=MLP([2], width=4, depth=1), teacher_ckpt=None)
    with pytest.raises(UserError, match=r"InceptionFeatures need images of 1 or 3 channels.*\(2,\).*RawFeatures"):
        validate(tmp_path, FIDCallback(), data(source=Gaussian([0.0, 0.0], [1.0, 1.0])), model)


def test_a_single_sample_has_no_distance(tmp_path):
    with pytest.raises(UserError, match=r"at least 2 samples, got data.eval_samples 1"):
        validate(tmp_path, FIDCallback(Pooled()), MatchingDataModule(Digits(), eval_samples=1))


def test_prediction_needs_no_extractor(tmp_path):
    callback = FIDCallback(InceptionFeatures(str(tmp_path / "absent.pth")))
    assert len(torch.cat(trainer(tmp_path, callbacks=[callback]).predict(module(), data()))) == 64


def test_it_says_what_takes_long(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        validate(tmp_path, FIDCallback(Pooled()))
    assert "metrics: measuring the real data by pooled, once" in caplog.text


def test_a_diverged_generator_has_no_figure_and_ends_no_training(tmp_path):
    model = module()
    nn.init.constant_(model.teacher.network.out[-1].bias, float("nan"))
    figures = validate(tmp_path, FIDCallback(Pooled()), model=model)
    assert all(math.isnan(figures[f"fid/{name}"]) for name in ("raw", "ema_0.999"))
    assert len(measurements(tmp_path)) == 2


# ---------------------------------------------------------------------------------------------------- several metrics


class Classes(Pooled):
    """The same, which tell four classes apart."""

    num_classes = 4

    def logits(self, vectors):
        return 5 * vectors[:, :4]


def everything():
    return [FID(), KID(subset_size=50), PRDC(samples=100), MMD([0.5]), Wasserstein(40), Modes(), InceptionScore()]


def test_all_metrics_see_the_same_samples_encoded_once(tmp_path):
    calls = []

    class Counting(Classes):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    model = module(ema=[])
    figures = validate(tmp_path, MetricsCallback(Counting(), everything()), model=model)
    real = Sample.of(*encoded(Classes(), reals()))
    sample = Sample.of(*encoded(Classes(), generated(model, data())))
    for metric in everything():
        for name, value in metric.compute(real, sample).items():
            assert figures[f"{name}/raw"] == pytest.approx(value, rel=1e-5, abs=1e-7)
    assert (
        sum(calls) == 2 + len(Digits()) + 2 * SAMPLES
    )  # tried out; real, whose halves are the floor; Gaussian, generated


@torch.no_grad()
def encoded(features, x):
    vectors = features.double().eval()(x)
    return vectors, features.logits(vectors)


def test_the_floor_is_one_half_of_the_reference_against_the_other(tmp_path):
    validate(tmp_path, MetricsCallback(Classes(), everything()))
    (row, *_), x = measurements(tmp_path), reals()[drawn_order(len(Digits()))]
    known, other = (encoded(Classes(), x[parity::2]) for parity in (0, 1))
    known, chosen = Sample.of(*known), drawn_order(len(x) // 2)[:SAMPLES]
    other = Sample(FeatureStatistics.of(other[0][chosen]), other[0][chosen], other[1][chosen])
    for metric in everything():
        expected = metric.compute(known, other)
        assert {name: row["floor"][name] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert row["protocol"]["floor_samples"] == SAMPLES


def test_held_out_data_are_the_floor_where_there_are_any(tmp_path):
    near, far = (Gaussian([mean, 0.0], [1.0, 1.0], size=300 + int(mean)) for mean in (0.0, 9.0))
    model = RealUIDModule(MLP([2], width=4, depth=1), teacher_ckpt=None)
    for held_out in (near, far):
        both = MatchingDataModule(near, eval_samples=SAMPLES, held_out=held_out)
        validate(tmp_path, FIDCallback(RawFeatures([2])), both, model)
    rows = measurements(tmp_path)[::2]
    assert [row["floor"]["fid"] > 60 for row in rows] == [False, True]
    assert [row["protocol"]["held_out"] for row in rows] == [near.fingerprint(), far.fingerprint()]


def test_the_gaussian_has_the_moments_of_the_data_and_its_range(tmp_path):
    seen = []

    class Watching(RawFeatures):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    validate(tmp_path, FIDCallback(Watching([1, 8, 8])), MatchingDataModule(Digits(), eval_samples=5000))
    real, gaussian = torch.cat(seen[:8])[: len(Digits())], torch.cat(seen)[len(Digits()) :][:5000]
    assert gaussian.abs().max() == 1
    inner = real.flatten(1).std(0) * 2 + real.flatten(1).mean(0).abs() < 1  # pixels that are hardly ever clipped
    torch.testing.assert_close(gaussian.flatten(1).mean(0)[inner], real.flatten(1).mean(0)[inner], atol=0.05, rtol=0)
    (row, *_) = measurements(tmp_path)
    assert row["floor"]["fid"] < row["gaussian"]["fid"] < row["figures"]["fid"]


def test_bounds_may_be_left_out(tmp_path):
    figures = validate(tmp_path, MetricsCallback(Pooled(), bounds=False))
    assert list(figures) == ["fid/raw", "fid/ema_0.999"]
    (row, *_) = measurements(tmp_path)
    assert (row["floor"], row["gaussian"], row["protocol"]["held_out"]) == ({}, {}, "none")


def test_the_moments_of_real_features_are_written(tmp_path):
    file = tmp_path / "new" / "real.npz"
    first = validate(tmp_path, MetricsCallback(Pooled(), statistics=str(file)))
    again = validate(tmp_path, MetricsCallback(Pooled(), [FID(str(file))]), data(reference=Fewer()))
    assert again["fid/raw"] == pytest.approx(first["fid/raw"], rel=1e-6)


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ([], "metrics must name at least one"),
        ([FID(), KID(), FID()], "each figure must come from one metric, but fid from several"),
    ],
)
def test_metrics_that_do_not_go_together_are_refused(metrics, told):
    with pytest.raises(UserError, match=told):
        MetricsCallback(Pooled(), metrics)


def test_metrics_that_these_features_do_not_serve_are_refused_before_any_work(tmp_path):
    callback = MetricsCallback(Pooled(), [Modes(), PRDC(k=200)])
    with pytest.raises(UserError, match=r"(?s)Modes needs the logits.*PRDC needs at least 201 samples"):
        validate(tmp_path, callback)


def test_a_checkpoint_keeps_the_protocol_and_a_changed_one_is_told(tmp_path):
    options = {"val_check_interval": 1, "check_val_every_n_epoch": None}

    def run(steps, callback, ckpt=None):
        made = trainer(tmp_path, callbacks=[callback], max_steps=steps, **options)
        made.fit(module(), data(batch_size=64), ckpt_path=ckpt)
        made.save_checkpoint(tmp_path / "it.ckpt")
        return callback.protocol

    first = run(1, FIDCallback(Pooled()))
    assert torch.load(tmp_path / "it.ckpt")["callbacks"]["FIDCallback"] == first.record
    run(2, FIDCallback(Pooled()), tmp_path / "it.ckpt")  # in silence
    with pytest.warns(UserWarning, match=r"by another protocol than before \(weights changed\)"):
        run(3, FIDCallback(Pooled(2.0)), tmp_path / "it.ckpt")


def test_a_monitor_that_would_keep_the_worst_is_refused(tmp_path):
    saver = RunCheckpoint(monitor="coverage/raw")
    options = {"callbacks": [MetricsCallback(Pooled(), [PRDC()]), saver], "max_steps": 1}
    with pytest.raises(UserError, match=r"mode must be max for coverage/raw, got min: it would keep the worst"):
        trainer(tmp_path, **options).fit(module(), data())


def test_a_reference_smaller_than_a_metric_needs_is_refused(tmp_path):
    small = data(reference=Gaussian([0.0, 0.0], [1.0, 1.0], size=4), source=Gaussian([0.0, 0.0], [1.0, 1.0]))
    with pytest.raises(UserError, match="PRDC needs at least 6 samples, real and generated, but there are 4"):
        validate(tmp_path, MetricsCallback(RawFeatures([2]), [PRDC()]), small, RealUIDModule(MLP([2], 4, 1), None))


def test_an_evaluation_that_was_broken_off_leaves_nothing_behind(tmp_path):
    class Broken(FIDCallback):
        def conclude(self, trainer, pl_module):
            raise KeyError("broken off")

    expected = validate(tmp_path, FIDCallback(Pooled()))
    callback = Broken(Pooled())
    with pytest.raises(KeyError):
        validate(tmp_path, callback)
    callback.__class__ = FIDCallback
    assert validate(tmp_path, callback) == expected
