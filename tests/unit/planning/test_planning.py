"""The plan against the real thing, at small sizes: bytes, activations, FLOPs, files, network passes."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from realuid_lightning.data import Batch, MatchingDataModule, MemorySource, Toy2D
from realuid_lightning.errors import UserError
from realuid_lightning.modules import MatchingModule, RealUIDModule, TeacherModule
from realuid_lightning.networks import MLP, UNet, frozen_weights
from realuid_lightning.objectives import GAN
from realuid_lightning.paths import BridgePath
from realuid_lightning.planning import Setting, Simulation, alternatives, checkpoint_size, make_plan, network_sizes
from realuid_lightning.planning.simulation import network_calls, updates
from realuid_lightning.running import RunCheckpoint
from realuid_lightning.solvers import Heun


class Untouched(MemorySource):
    """Data that a plan must not read."""

    shape, num_classes = (3, 8, 8), 10

    def load(self):
        raise AssertionError("read")


def unet(**options):
    torch.manual_seed(0)
    return UNet(8, 3, 32, 1, [1], [8], 32, **options)


def data(size=6, **options):
    return MatchingDataModule(Untouched(), **{"batch_size": size, "eval_samples": 10, **options})


ADAM = partial(torch.optim.Adam, lr=1e-4)
MODULES = {
    "teacher": lambda: TeacherModule(unet(), ema=[0.9, 0.99]),
    "realuid": lambda: RealUIDModule(unet(), None, alpha=0.9, beta=0.94, fake_steps=2),
    "classes": lambda: RealUIDModule(unet(num_classes=10), None, fake_steps=1),
    "gan": lambda: RealUIDModule(unet(), None, gan=GAN(), fake_steps=1),
    "few steps": lambda: RealUIDModule(unet(), None, sampling_steps=3, fake_steps=1),
    "general": lambda: RealUIDModule(unet(dropout=0.1), None, alpha=0.9, beta=0.9, gamma=0.5, fake_steps=1),
}


def case(name):
    return MODULES[name](), data(labels=name == "classes")


def real_step(module, kind, source, size, context=nullcontext):
    """Make an update on numbers; return saved bytes, forward FLOPs and all FLOPs as torch's own tools measure them."""
    update = updates(module)[kind]
    rows = size * getattr(module, "micro_batches", 1)
    batch = Batch(
        x1=torch.randn(rows, *source.shape),
        x0=torch.randn(rows, *source.shape) if source.translates else None,
        y=torch.zeros(rows, dtype=torch.int64) if source.labels else None,
    )
    own = {tensor.untyped_storage()._cdata for tensor in [*module.parameters(), *module.buffers()]}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = (storage, storage.nbytes())  # kept, so that its address is not used again
        return tensor

    frozen = nullcontext() if update.frozen is None else frozen_weights(update.frozen)
    with frozen, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with FlopCounterMode(display=False) as flops, context():
            filled = module.draw(batch.rows(slice(size)), torch.Generator().manual_seed(0), update.sample_t)
            loss = update.loss(filled)
        forward = flops.get_total_flops()
        with FlopCounterMode(display=False) as flops:
            loss.backward()
    inputs = sum(field.numel() * field.element_size() for field in batch if field is not None)
    return sum(size for _, size in saved.values()) + inputs, forward, forward + flops.get_total_flops()


@pytest.mark.parametrize("name", MODULES)
def test_activations_and_flops_are_those_of_a_real_step(name):
    module, source, size = *case(name), 12
    simulation = Simulation(module, source)
    for kind in updates(module):
        planned = simulation.step(kind, size)
        saved, forward, flops = real_step(module, kind, source, size)
        assert (planned.forward, planned.flops) == (forward, flops)
        assert planned.kept == pytest.approx(saved, rel=0.1)
        assert planned.peak >= planned.kept
        assert planned == simulation.step(kind, size)  # nothing is left of the first


def test_half_precision_is_measured_too():
    module, source = case("realuid")
    half = partial(torch.autocast, "cpu", torch.bfloat16)
    planned, single = (Simulation(module, source, context).step("generator", 24) for context in (half, nullcontext))
    saved, forward, _ = real_step(module, "generator", source, 24, half)
    assert planned.forward == forward
    assert planned.kept == pytest.approx(saved, rel=0.1)
    assert planned.kept < 0.65 * single.kept
    wide = Simulation(module, source, half, gpu=True).step("generator", 24)
    assert planned.kept < wide.kept < single.kept  # norms in float32


def test_checkpointing_is_measured_too():
    plain, cheap, recomputing = (
        Simulation(TeacherModule(unet(checkpoint=way)), data()).step("network", 24) for way in (False, "cheap", True)
    )
    assert recomputing.peak < cheap.peak < 0.8 * plain.peak
    assert recomputing.kept < 0.5 * plain.kept
    assert recomputing.forward == cheap.forward == plain.forward
    assert recomputing.flops > 1.25 * plain.flops
    assert cheap.flops == plain.flops


def test_bytes_grow_with_the_batch_in_a_straight_line():
    simulation = Simulation(*case("realuid"))
    low, middle, high = (simulation.step("generator", size).peak for size in (8, 16, 24))
    assert high - middle == pytest.approx(middle - low, rel=0.01)


def trained(module, source, folder, steps=1):
    """Train on random samples, and return the trainer."""

    class Noise(Untouched):
        def load(self):
            return torch.zeros(20, *self.shape, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64)

    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[RunCheckpoint()],
    )
    trainer.fit(module, MatchingDataModule(Noise(), batch_size=4, labels=source.labels))
    return trainer


OPTIMIZERS = {
    "adam": ADAM,
    "fused": partial(torch.optim.Adam, lr=1e-4, fused=True),
    "amsgrad": partial(torch.optim.AdamW, lr=1e-4, amsgrad=True),
    "sgd": partial(torch.optim.SGD, lr=1e-4),
    "momentum": partial(torch.optim.SGD, lr=1e-4, momentum=0.9),
    "adafactor": partial(torch.optim.Adafactor, lr=1e-4),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bytes_and_checkpoints_are_those_of_a_real_run(optimizer, tmp_path):
    chosen = OPTIMIZERS[optimizer]
    module = RealUIDModule(
        unet(num_classes=10), None, fake_steps=1, ema=[0.9], fake_optimizer=chosen, generator_optimizer=ADAM
    )
    source = data(labels=True)
    sizes = {size.name: size for size in network_sizes(module)}
    predicted = checkpoint_size(module)
    real = copy.deepcopy(module)
    trainer = trained(real, source, tmp_path)
    networks = {"teacher": real.teacher, "fake": real.fake, "generator": real.generator, "ema_0.9": real.ema[0.9]}
    assert list(sizes) == list(networks)
    for name, network in networks.items():
        weights = list(network.parameters())
        assert sizes[name].parameters == sum(weight.numel() for weight in weights)
        assert sizes[name].weights == sum(tensor.nbytes for tensor in network.state_dict().values())
        assert sizes[name].gradients == (sizes[name].weights if name in ("fake", "generator") else 0)
    for name, made in zip(("fake", "generator"), trainer.optimizers, strict=True):
        kept = [value for states in made.state.values() for value in states.values() if isinstance(value, torch.Tensor)]
        assert sizes[name].states == sum(tensor.nbytes for tensor in kept)
    assert predicted == pytest.approx((tmp_path / "checkpoints" / "last.ckpt").stat().st_size, rel=0.02)


def test_buffers_count_and_shared_weights_count_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first
            self.register_buffer("table", torch.zeros(10))

        def recorded(self):
            return {}

    (size, _) = network_sizes(TeacherModule(Twice(), ema=[0.5]))
    assert (size.parameters, size.weights) == (20, 4 * 30)


def test_network_calls_are_counted():
    torch.manual_seed(0)
    teacher = TeacherModule(unet(), ema=[0.9], solver=Heun(), sampling_steps=[1, 4])
    calls, _ = network_calls(teacher, data())
    assert calls == {"raw_steps_1": 1, "raw_steps_4": 7, "ema_0.9_steps_1": 1, "ema_0.9_steps_4": 7}
    calls, inputs = network_calls(RealUIDModule(unet(), None, sampling_steps=3, evaluate=["raw"]), data())
    assert calls == {"raw": 3}
    assert [None if part is None else tuple(part.shape) for part in inputs[:2]] == [(1,), (1, 3, 8, 8)]


def test_a_bridge_is_planned():
    path = BridgePath(eps=1.0, target="x1", condition=False, latent=True)
    module = RealUIDModule(MLP([2], width=32, depth=1, condition_channels=2), None, path=path)
    source = MatchingDataModule(Toy2D("moons"), origin=Toy2D("spiral"), paired=False, batch_size=64)
    for kind in updates(module):
        planned = Simulation(module, source).step(kind, 64)
        saved, forward, flops = real_step(module, kind, source, 64)
        assert (planned.forward, planned.flops) == (forward, flops)
        assert planned.kept == pytest.approx(saved, rel=0.1)


def setting(module, source, devices=1, **options):
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "max_steps": 100,
            "val_check_interval": 20,
            "check_val_every_n_epoch": None,
            "devices": devices,
            "logger": False,
            "callbacks": [RunCheckpoint(monitor="fid/raw", keep=2, every=10)],
            **options,
        }
    )
    return Setting(module, source, trainer, devices)


def test_a_plan_counts_files_and_passes():
    module = RealUIDModule(unet(), None, fake_steps=2, ema=[0.9], eval_batch_size=8)
    plan = make_plan(setting(module, data()))
    assert (plan.files, plan.writes) == (4, 21)  # 5 validations, each the last and one of the best; 10 and the end
    assert plan.evaluation is not None
    # Batches of 8 and 2 samples, each filled up to forwards of 8, by two samplers.
    assert (plan.evaluation.samples, plan.evaluation.passes, plan.evaluation.validations) == (16, 32, 5)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        module.architecture(torch.zeros(1), torch.zeros(1, 3, 8, 8))
    assert plan.evaluation.flops == flops.get_total_flops()
    assert plan.buckets == 0
    assert plan.total == plan.lasting + max(plan.peaks.values())
    assert setting(module, data()).updates_per_step == {"fake": 2, "generator": 1}


def test_networks_that_train_in_turn_hold_gradients_in_turn(tmp_path):
    module, source = MODULES["realuid"](), data()
    fake, generator = (size for size in network_sizes(module) if size.gradients)
    plan = make_plan(setting(module, source))
    assert plan.gradients == max(fake.gradients, generator.gradients)
    views = setting(module, source, 2, strategy=DDPStrategy(gradient_as_bucket_view=True))
    assert make_plan(views).gradients == fake.gradients + generator.gradients
    real = copy.deepcopy(module)
    trained(real, source, tmp_path)
    assert all(weight.grad is None for weight in real.parameters())


def test_strategies_differ():
    module, source = MODULES["teacher"](), data()
    gradients = sum(size.gradients for size in network_sizes(module))
    assert make_plan(setting(module, source, 2, strategy="ddp")).buckets == gradients
    whole = make_plan(setting(module, source))
    divided = make_plan(setting(module, source, 4, strategy=ModelParallelStrategy()))
    assert (divided.shards, divided.buckets, divided.lasting) == (4, 0, -(-whole.lasting // 4))
    assert divided.evaluation.samples == 4 * 64  # two or three samples a device, one chunk each


def test_a_run_without_end_or_validation_is_planned():
    module, source = MODULES["teacher"](), data()
    endless = make_plan(setting(module, source, max_steps=-1))
    assert (endless.writes, endless.evaluation.validations) == (None, None)
    assert make_plan(setting(module, source, limit_val_batches=0)).evaluation is None


def test_what_to_change_is_measured():
    module = TeacherModule(unet(), ema=[0.9, 0.99], sampling_steps=[1], eval_batch_size=2)
    chosen = setting(module, data(64))
    plan = make_plan(chosen)
    limit = plan.lasting + max(plan.peaks.values()) // 2
    found = {words.split("=")[0]: (words, total) for words, total in alternatives(chosen, plan, limit)}
    words, total = found["--data.batch_size"]
    fitting = int(words.split("=")[1])
    for size, fits in ((fitting, True), (fitting + 2, False)):
        again = make_plan(setting(module, data(size)))
        assert (again.total <= limit) == fits
    assert total == pytest.approx(make_plan(setting(module, data(fitting))).total, rel=0.01)
    halved = make_plan(setting(module, data(64), precision="bf16-mixed")).total
    assert found["--trainer.precision"][1] == pytest.approx(halved, rel=1e-3)
    assert halved < plan.total
    one = make_plan(setting(TeacherModule(unet(), ema=[0.9], sampling_steps=[1], eval_batch_size=2), data(64))).total
    assert found["--model.ema"] == ("--model.ema=[0.9]", one)
    totals = dict(alternatives(chosen, plan, limit))
    full, cheap = (totals[f"--model.network.checkpoint={way}"] for way in ("true", "cheap"))
    assert full < cheap < plan.total


def test_a_strange_module_is_refused():
    class Strange(MatchingModule):
        pass

    with pytest.raises(UserError, match="expected a TeacherModule or a RealUIDModule"):
        updates(Strange.__new__(Strange))
