"""Teachers and generators between two domains: the source ends go where they belong, and come from nowhere else."""

import json

import pytest
import torch
from helpers import drawn, fit, mlp, rebatched, same, trainer, weights
from torch import nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from realuid_lightning.data import Batch, Degraded, Digits, Inpainting, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.evaluation import FidelityCallback
from realuid_lightning.modules import RealUIDModule, TeacherModule, Warmup
from realuid_lightning.paths import BridgePath, FlowMatchingPath, InterpolantPath
from realuid_lightning.solvers import Ancestral, Euler

SHAPE = (1, 8, 8)
SIZE = 64
BRIDGES = {
    "plain": lambda: BridgePath(condition=False),
    "drift": lambda: BridgePath(eps=0.5, target="drift"),
    "conditioned": BridgePath,
    "latent": lambda: BridgePath(condition=False, latent=True),
    "both": lambda: BridgePath(latent=True),
}
PATHS = {
    **BRIDGES,
    "interpolant": lambda: InterpolantPath(gamma="none", translates=True),
    "smooth-interpolant": lambda: InterpolantPath(gamma="sin2", translates=True),
    "shown-interpolant": lambda: InterpolantPath(translates=True),
}


def teacher(path, **options):
    solver = Ancestral() if isinstance(path, BridgePath) else Euler()
    options = {"sampling_steps": [1, 3], "solver": solver, "ema": [0.5], "eval_batch_size": 4, **options}
    network = mlp(condition_channels=path.conditions, dropout=options.pop("dropout", 0.0))
    return TeacherModule(network, path, **options)


def distillation(path, **options):
    options = {"fake_schedule": Warmup, "generator_schedule": Warmup, "eval_batch_size": 4, "ema": [0.5], **options}
    network = mlp(condition_channels=path.conditions, dropout=options.pop("dropout", 0.0))
    return RealUIDModule(network, None, path=path, **{"fake_steps": 2, "alpha": 0.9, "beta": 0.94, **options})


def data(batch_size=4, translates=True, **options):
    origin = Degraded(Digits(), Inpainting()) if translates else None
    return MatchingDataModule(Digits(), batch_size, origin=origin, **{"eval_samples": 10, **options})


def inputs_of(of):
    """Note every input of a network, its channels apart."""
    seen = []
    of.register_forward_pre_hook(lambda _, args: seen.append((args[0].detach(), *args[1].detach().split(1, 1))))
    return seen


def channel_gradients(of):
    """Norms of the first layer's gradient, by channel of the input."""
    return [float(block.norm()) for block in of.input.weight.grad.split(SIZE, 1)]


@pytest.mark.parametrize("name", BRIDGES)
def test_a_bridge_shows_what_it_says_to_whom_it_says(name):
    path = BRIDGES[name]()
    model, made = teacher(path), distillation(path)
    batch = drawn(made, 5, SHAPE)
    model.matching_loss(batch).backward()
    made.fake_loss(batch).backward()
    fake = channel_gradients(made.fake)
    nn.init.normal_(made.fake.out[-1].weight)  # equal to the teacher, it would leave the generator in peace
    made.generator_loss(batch).backward()
    conditioned, latent = [True] * path.condition, [True] * path.latent
    for got in (channel_gradients(model.network), fake):  # the latent's block is zero for both
        assert [norm > 0 for norm in got] == [True, *conditioned, *(not shown for shown in latent)]
    assert [norm > 0 for norm in channel_gradients(made.generator.network)] == [True, *conditioned, *latent]


@pytest.mark.parametrize("name", PATHS)
def test_a_given_source_end_is_never_replaced_by_noise(name):
    made = distillation(PATHS[name]())
    batch = drawn(made, 5, SHAPE)
    again = made.draw(Batch(x1=batch.x1, x0=batch.x0), torch.Generator().manual_seed(9))
    assert torch.equal(again.x0, batch.x0)
    assert torch.equal(made.source(batch), batch.x0)
    assert (again.eps is None) == (not made.path.noisy)
    assert distillation(FlowMatchingPath()).source(batch) is None


@pytest.mark.parametrize("name", PATHS)
def test_both_halves_of_a_fake_step_share_their_source_ends_times_and_noise(name):
    made = distillation(PATHS[name]())
    batch, seen = drawn(made, 5, SHAPE), inputs_of(made.fake)
    made.fake_loss(batch)
    ((t, xt, *shown),) = seen
    assert torch.equal(t, torch.cat([batch.t, batch.t]))
    for x1, half in zip((made.generated(batch), batch.x1), xt.chunk(2), strict=True):
        torch.testing.assert_close(half, made.path.sample(batch.t, batch.x0, x1, batch.eps).xt)
    if getattr(made.path, "condition", False):
        assert torch.equal(shown[0], torch.cat([batch.x0, batch.x0]))


@pytest.mark.parametrize("name", PATHS)
def test_the_generator_translates_its_source_end_with_and_without_real_data(name):
    for coefficients in ((1.0, 1.0), (0.9, 0.94)):
        made = distillation(PATHS[name](), alpha=coefficients[0], beta=coefficients[1])
        nn.init.normal_(made.fake.out[-1].weight)  # as above
        batch = drawn(made, 5, SHAPE)
        batch.x0.requires_grad_()
        (gradient,) = torch.autograd.grad(made.generated(batch).sum(), batch.x0)
        assert (gradient.flatten(1).norm(dim=1) > 0).all()
        made.generator_loss(batch).backward()
        assert made.generator.network.input.weight.grad.norm() > 0


@pytest.mark.parametrize("name", PATHS)
def test_every_sampler_starts_at_the_batchs_source_end(name):
    path = PATHS[name]()
    for made in (teacher(path), distillation(path), distillation(path, sampling_steps=2)):
        rng = torch.Generator().manual_seed(3)
        z, x0 = torch.randn(2, 4, *SHAPE, generator=rng)
        networks = [made.network] if isinstance(made, TeacherModule) else [made.generator.network]
        networks += [made.ema[0.5].network if isinstance(made, TeacherModule) else made.ema[0.5].network.network]
        seen = [inputs_of(each) for each in networks]
        for sampler in made.samplers().values():
            for calls in seen:
                calls.clear()
            made.generate(sampler, Batch(z=z, x0=x0, index=torch.arange(4)))
            (calls,) = (calls for calls in seen if calls)
            t, xt, *_ = calls[0]
            assert torch.equal(xt, path.noised(t, z, torch.zeros_like(z), x0))
            torch.testing.assert_close(xt, x0, rtol=0, atol=0.3)  # a thousandth of the time from the source
            if getattr(path, "condition", False):
                assert all(torch.equal(call[2], x0) for call in calls)


@pytest.mark.parametrize("make", [teacher, distillation])
def test_what_does_not_fit_the_data_is_told_in_setup_all_at_once(make, tmp_path):
    def said(made, source):
        with pytest.raises(UserError) as told:
            fit(made, source, tmp_path, 1)
        return str(told.value)

    wrong = make(BridgePath())
    wrong.architecture.condition_channels, wrong.evaluate = 3, ["best"]
    message = said(wrong, data(translates=False, labels=True))
    for word in (
        "BridgePath shows the network 1 further channels, but its condition_channels is 3: set it to 1",
        "begins at samples of a source domain: name it in data.origin",
        "evaluate names 'best'",
        "data.labels is true",
    ):
        assert word in message
    message = said(make(FlowMatchingPath()), data())
    assert "data.origin is set, but FlowMatchingPath begins at noise: leave it out, or translate" in message
    message = said(make(InterpolantPath()), data())
    assert "data.origin is set, but InterpolantPath begins at noise" in message
    assert "further channels" not in message


@pytest.mark.parametrize("gamma", ["none", "sin2"])
def test_a_teacher_that_was_shown_x0_where_that_reveals_the_data_must_be_trained_anew(gamma, tmp_path):
    """Such paths once showed ``x0``: a config of those days has ``condition_channels`` for it."""
    made = teacher(InterpolantPath(gamma=gamma, translates=True))
    made.architecture.condition_channels = 1
    with pytest.raises(UserError, match="is 1: set it to 0, and train its teacher anew if that was shown x0"):
        fit(made, data(), tmp_path, 1)


@pytest.mark.parametrize("make", [teacher, distillation])
@pytest.mark.parametrize("name", PATHS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make, name, tmp_path):
    whole, first, second = (make(PATHS[name](), dropout=0.1) for _ in range(3))
    start = weights(whole)
    fit(whole, data(flip=True), tmp_path)
    run = fit(first, data(flip=True), tmp_path, 1)
    run.save_checkpoint(tmp_path / "half.ckpt")
    fit(second, data(flip=True), tmp_path, 2, tmp_path / "half.ckpt")
    assert same(weights(second), weights(whole))
    assert all(value.isfinite().all() for value in weights(whole).values())
    for earlier in (start, weights(first)):
        assert not same(weights(second), earlier)


@pytest.mark.parametrize("make", [teacher, distillation])
def test_validation_compares_every_samplers_samples_with_the_truth(make, tmp_path):
    made = make(InterpolantPath(gamma="none", translates=True))
    samplers = list(made.samplers())
    for parameter in made.parameters():
        parameter.data.zero_()  # at rest, every sample stays what it was
    run = trainer(tmp_path, callbacks=[FidelityCallback()])
    run.validate(made, rebatched(data(), 3), verbose=False)
    source, index = Digits(), torch.arange(10)
    source.setup()
    truth, _ = source.get(index)
    ends = Inpainting()(truth)
    expected = peak_signal_noise_ratio(ends / 127.5 - 1, truth / 127.5 - 1, data_range=(-1.0, 1.0))
    for name in samplers:
        assert float(run.callback_metrics[f"psnr/{name}"]) == pytest.approx(float(expected), abs=1e-4)
        assert 0 < run.callback_metrics[f"ssim/{name}"] < 1
    rows = [json.loads(line) for line in (tmp_path / "fidelity.jsonl").read_text().splitlines()]
    assert [(row["sampler"], row["samples"]) for row in rows] == [(name, 10) for name in samplers]


@pytest.mark.parametrize("name", PATHS)
def test_samples_do_not_depend_on_the_batch_size(name, tmp_path):
    def predicted(make, size, seeds="0-9"):
        source = rebatched(data(predict_seeds=seeds), size)
        return torch.cat(trainer(tmp_path).predict(make(PATHS[name]()), source))

    for make in (teacher, distillation):
        whole = predicted(make, 10)
        assert torch.equal(predicted(make, 3), whole)
        assert torch.equal(predicted(make, 2, "8,1"), whole[[8, 1]])


def test_ancestral_steps_draw_noise_of_sample_and_step():
    made = teacher(BridgePath())
    batch = Batch(z=torch.zeros(3, *SHAPE), index=torch.tensor([4, 5, 4]))
    first, second = made.noise(batch, 1), made.noise(batch, 2)
    assert torch.equal(first[0], first[2])
    for left, right in ((first[0], first[1]), (first[0], second[0]), (first[1], second[1])):
        assert not torch.equal(left, right)
    keyed = made.noise(batch._replace(key=torch.tensor([5, 7, 4])), 1)
    assert torch.equal(keyed[0], first[1])
    assert not torch.equal(keyed[1], first[1])
