"""Generators of several steps: what they train on, how they are sampled, and which checkpoints fit them."""

import pytest
import torch
from helpers import fit, mlp, rebatched, same, trainer, weights

from realuid_lightning.checkpoints import RECORD, export_generator, load_generator, read_checkpoint
from realuid_lightning.data import Batch, Gaussian, LatentDataset, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, Warmup
from realuid_lightning.objectives import DMD, GAN
from realuid_lightning.paths import BridgePath, DiffusionPath, FlowMatchingPath


def bridge():
    return BridgePath(latent=True)


PATHS = [FlowMatchingPath, DiffusionPath, bridge]


def module(steps, path=None, **options):
    path = path or FlowMatchingPath()
    network = mlp([3], depth=2, condition_channels=3 * path.conditions)
    options = {"fake_schedule": Warmup, "generator_schedule": Warmup, "fake_steps": 2, **options}
    return RealUIDModule(network, None, path=path, sampling_steps=steps, **options)


def data(batch_size=4, **options):
    origin = Gaussian([1.0] * 3, [1.0] * 3, size=64) if options.pop("translates", False) else None
    source = Gaussian([0.0] * 3, [1.0] * 3, size=64)
    return MatchingDataModule(source, batch_size, origin=origin, **{"eval_samples": 8, **options})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Checkpoints of one cycle, by the number of steps."""
    folder, files = tmp_path_factory.mktemp("runs"), {}
    for steps in (1, 2, 4):
        run = fit(module(steps), data(), folder, 1)
        files[steps] = folder / f"{steps}.ckpt"
        run.save_checkpoint(files[steps])
    return files


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_checkpoint_records_its_steps_and_a_resumed_run_is_exact(steps, runs, tmp_path):
    assert read_checkpoint(runs[steps])[RECORD]["sampling_steps"] == steps
    whole, resumed = module(steps), module(steps)
    fit(whole, data(), tmp_path)
    fit(resumed, data(), tmp_path, 2, runs[steps])
    assert same(weights(resumed), weights(whole))
    assert not same(weights(whole.generator), weights(whole.ema[0.999].network))


@pytest.mark.parametrize("options", [{"gan": GAN()}, {"divergence": DMD()}], ids=["GAN", "DMD"])
def test_several_steps_go_with_other_objectives(options, tmp_path):
    made = module(2, alpha=0.9, beta=0.94, **options)
    start = weights(made.generator)
    fit(made, data(), tmp_path)
    moved = weights(made.generator)
    assert all(value.isfinite().all() for value in moved.values())
    assert not same(moved, start)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("steps", "size"), [(2, 6), (2, 5), (4, 7), (4, 4)])
def test_each_part_of_a_training_batch_is_what_that_step_of_sampling_makes(path, steps, size):
    made = module(steps, path()).double()
    rng = torch.Generator().manual_seed(0)
    x1, x0 = torch.randn(2, size, 3, generator=rng, dtype=torch.float64)
    batch = made.draw(Batch(x1=x1, x0=x0), rng)
    x0 = made.source(batch)
    assert batch.renoise.shape == (size, steps - 1, 3)
    rolled = made.generated(batch)
    guesses = []
    guess = made.path.one_step(made.generator.network, batch.z, None, x0)
    for k, time in enumerate(made.path.levels(steps)):
        if k:
            t, noise = torch.full((size,), time, dtype=torch.float64), batch.renoise[:, k - 1]
            guess = made.path.guess(made.generator.network, t, made.path.noised(t, noise, guess, x0), None, x0, noise)
        guesses.append(guess)
    parts = [row * steps // size for row in range(size)]
    assert set(parts) == set(range(steps))
    assert {parts.count(k) for k in range(steps)} <= {size // steps, -(-size // steps)}
    torch.testing.assert_close(rolled, torch.stack([guesses[k][row] for row, k in enumerate(parts)]))
    torch.testing.assert_close(made.generator(batch.z, None, x0, batch.renoise), guesses[-1])


def test_gradients_reach_the_last_call_of_each_sample_alone():
    made, batches = module(4), []
    made.generator.network.register_forward_hook(lambda _, args, out: batches.append((len(args[1]), out.requires_grad)))
    made.generated(made.draw(Batch(x1=torch.zeros(8, 3)), torch.Generator().manual_seed(0)))
    assert batches == [(6, False), (4, False), (2, False), (8, True)]


def test_training_draws_fresh_noise_for_the_later_steps():
    made, rng = module(4), torch.Generator().manual_seed(0)
    batch = made.draw(Batch(x1=torch.zeros(2, 3)), rng)
    rows = torch.cat([batch.renoise, batch.z[:, None], batch.x0[:, None]], 1).flatten(0, 1)
    assert len(rows.unique(dim=0)) == len(rows) == 10
    assert module(1).draw(Batch(x1=torch.zeros(2, 3)), rng).renoise is None


@pytest.mark.parametrize(("trained", "asked"), [(1, 1), (2, 1), (4, 1), (4, 2), (4, 4)])
def test_evaluation_may_take_a_divisor_of_the_trained_steps(trained, asked, runs, tmp_path):
    made = module(asked)
    (batch, *_) = trainer(tmp_path).predict(made, data(predict_seeds="0-3"), ckpt_path=runs[trained])
    full = load_generator(runs[trained], ema=0.999)
    full.steps = asked
    latents = LatentDataset(torch.arange(4), (3,)).__getitems__(range(4))
    later = [made.noise(latents, step) for step in range(1, asked)]
    expected = full(latents.z, None, None, torch.stack(later, 1) if later else None)
    torch.testing.assert_close(batch, expected)


@pytest.mark.parametrize(("trained", "asked"), [(4, 3), (2, 4), (1, 2), (4, 8)])
def test_evaluation_refuses_steps_that_were_not_trained(trained, asked, runs, tmp_path):
    for command in ("validate", "predict"):
        with pytest.raises(UserError, match=f"was trained for {trained} sampling_steps, got {asked}"):
            getattr(trainer(tmp_path), command)(module(asked), data(), ckpt_path=runs[trained])


@pytest.mark.parametrize(("trained", "asked"), [(4, 2), (4, 1), (2, 4), (1, 2)])
def test_training_goes_on_with_the_same_steps_alone(trained, asked, runs, tmp_path):
    with pytest.raises(UserError, match=f"was trained for {trained} sampling_steps, got {asked}"):
        fit(module(asked), data(), tmp_path, 2, runs[trained])


def test_fine_tuning_may_add_steps(runs, tmp_path):
    made = module(4, generator_ckpt=str(runs[1]))
    made.start()
    start = weights(made.generator.network)
    assert same(start, weights(load_generator(runs[1]).network))
    fit(made, data(), tmp_path)
    assert not same(weights(made.generator.network), start)


@pytest.mark.parametrize("path", PATHS)
def test_a_predicted_sample_is_a_function_of_its_index_alone(path, tmp_path):
    def predicted(seeds, size, chunk):
        made = module(4, path(), eval_batch_size=chunk)
        source = rebatched(data(predict_seeds=seeds, translates=made.path.translates), size)
        return torch.cat(trainer(tmp_path).predict(made, source))

    whole = predicted("0-8", 9, 4)
    assert len(whole.unique(dim=0)) == 9
    for size in (1, 2, 4, 7):
        assert torch.equal(predicted("0-8", size, 4), whole)
    assert torch.equal(predicted("7,2-3", 2, 4), whole[[7, 2, 3]])
    torch.testing.assert_close(predicted("0-8", 5, 3), whole)  # forwards of another size round otherwise
    assert torch.equal(predicted("0-8", 9, 4), whole)


def test_a_loaded_generator_takes_its_steps_and_equals_the_modules_sampler(runs, tmp_path):
    made = module(4, eval_batch_size=8)
    samples = trainer(tmp_path).predict(made, data(8, predict_seeds="0-7"), ckpt_path=runs[4])[0]
    latents = LatentDataset(torch.arange(8), (3,)).__getitems__(range(8))
    renoise = torch.stack([made.noise(latents, step) for step in (1, 2, 3)], 1)
    export_generator(runs[4], tmp_path / "generator.safetensors", ema=0.999)
    for generator in (load_generator(runs[4], ema=0.999), load_generator(tmp_path / "generator.safetensors")):
        calls = []
        generator.network.register_forward_hook(lambda _, args, out, calls=calls: calls.append(len(out)))
        assert torch.equal(generator(latents.z, renoise=renoise), samples)
        assert calls == [8] * 4
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(generator(latents.z))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


def test_levels_of_ones_own_are_one_a_step(tmp_path):
    path = FlowMatchingPath(levels=[0.0, 0.2, 0.5, 0.8])
    for steps in (1, 2, 4):  # a divisor is for evaluation
        (samples,) = trainer(tmp_path).predict(module(steps, path=path), data(predict_seeds="0-2"))
        assert len(samples) == 3
    for steps in (1, 2):
        with pytest.raises(UserError, match=f"sampling_steps must be 4 in training, one a level of .*, got {steps}"):
            fit(module(steps, path=path), data(), tmp_path)
    with pytest.raises(UserError, match=r"sampling_steps must be 4, one a level of path.levels, .* got 3"):
        module(3, path=path)


def test_a_training_batch_must_hold_a_sample_of_each_step(tmp_path):
    (samples,) = trainer(tmp_path).predict(module(4), data(batch_size=1, predict_seeds="0-2"))
    assert len(samples) == 3
    with pytest.raises(UserError, match=r"data.batch_size must be at least sampling_steps 4, .* got 3"):
        fit(module(4), data(batch_size=3), tmp_path)
    with pytest.raises(UserError, match="sampling_steps must be at least 1, got 0"):
        module(0)
