"""The plan against the real thing, at small sizes: bytes, activations, FLOPs, files, network passes."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from helpers import fit, mlp, points, trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from realuid_lightning.data import Batch, MatchingDataModule, MemorySource, Toy2D
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.networks import MLP, UNet, frozen_weights
from realuid_lightning.objectives import GAN
from realuid_lightning.paths import BridgePath
from realuid_lightning.planning import Plan, Rehearsal
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


def rehearsal(module, source, gpu=False, **options):
    return Rehearsal(module, source, trainer(**options), gpu)


def real_pass(module, kind, source, context=nullcontext):
    """Make a pass on numbers; return saved bytes, forward FLOPs and all FLOPs as torch's own tools measure them."""
    loss = {"fake": "fake_loss", "generator": "generator_loss", "network": "matching_loss"}[kind]
    size, parts = source.batch_size, getattr(module, "micro_batches", 1)
    batch = Batch(
        x1=torch.randn(size * parts, *source.shape),
        x0=torch.randn(size * parts, *source.shape) if source.translates else None,
        y=torch.zeros(size * parts, dtype=torch.int64) if source.labels else None,
    )
    own = {tensor.untyped_storage()._cdata for tensor in [*module.parameters(), *module.buffers()]}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = (storage, storage.nbytes())  # kept, so that its address is not used again
        return tensor

    frozen = frozen_weights(module.fake) if kind == "generator" else nullcontext()
    with frozen, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with FlopCounterMode(display=False) as flops, context():
            sample_t = module.path.generator_t if kind == "generator" else None
            draws = module.draw(batch.chunk(parts)[0], torch.Generator().manual_seed(0), sample_t)
            loss = getattr(module, loss)(draws)
        forward = flops.get_total_flops()
        with FlopCounterMode(display=False) as flops:
            loss.backward()
    inputs = sum(field.numel() * field.element_size() for field in batch if field is not None)
    return sum(size for _, size in saved.values()) + inputs, forward, forward + flops.get_total_flops()


def check_passes(module, source, times):
    """Compare the passes of a rehearsal with real ones."""
    passes = rehearsal(module, source).passes
    assert {kind: each.times for kind, each in passes.items()} == times
    for kind, planned in passes.items():
        saved, forward, flops = real_pass(module, kind, source)
        assert planned.samples == source.batch_size
        assert (planned.forward, planned.flops) == (forward, flops)
        assert planned.kept == pytest.approx(saved, rel=0.1)
        assert planned.peak >= planned.kept


@pytest.mark.parametrize("name", MODULES)
def test_activations_and_flops_are_those_of_a_real_step(name):
    fake_steps = 2 if name == "realuid" else 1
    times = {"network": 1} if name == "teacher" else {"fake": fake_steps, "generator": 1}
    check_passes(MODULES[name](), data(12, labels=name == "classes"), times)


def test_a_bridge_is_planned():
    path = BridgePath(eps=1.0, target="x1", condition=False, latent=True)
    module = RealUIDModule(MLP([2], width=32, depth=1, condition_channels=2), None, path=path)
    source = MatchingDataModule(Toy2D("moons"), origin=Toy2D("spiral"), paired=False, batch_size=64)
    check_passes(module, source, {"fake": 5, "generator": 1})


def test_passes_that_make_one_update_are_counted():
    module, source = TeacherModule(mlp((3, 8, 8))), data()
    once, thrice = (rehearsal(module, source, accumulate_grad_batches=parts).passes["network"] for parts in (1, 3))
    assert thrice == once._replace(times=3)
    module, source = RealUIDModule(mlp((3, 8, 8)), None, fake_steps=2, accumulate=3), data()
    assert [(each.times, each.samples) for each in rehearsal(module, source).passes.values()] == [(6, 2), (3, 2)]


def test_passes_that_are_known_give_gradients_and_those_of_another_size_are_measured():
    class Own(RealUIDModule):
        def training_step(self, batch, batch_idx):
            optimizer, rng = self.optimizers()[0], self.rng(batch_idx)
            for parts in (6, 3, 3, 6, 6):
                self.fake_loss(self.draw(batch.chunk(parts)[0], rng)).backward()
                assert all(weight.grad.shape == weight.shape for weight in self.fake.parameters())
                optimizer.step()
                optimizer.zero_grad()
                seen.append((parts, self.calls))

        def generated(self, batch):
            self.calls += 1
            return super().generated(batch)

        calls = 0

    seen, source = [], data(4)
    made = rehearsal(Own(mlp((3, 8, 8)), None), source).passes["fake"]
    assert seen == [(6, 1), (3, 2), (3, 2), (6, 2), (6, 2)]
    assert (made.times, made.samples) == (5, 4)
    plain = rehearsal(RealUIDModule(mlp((3, 8, 8)), None), source).passes["fake"]
    assert (made.forward, made.flops, made.gradients) == (plain.forward, plain.flops, plain.gradients)


def test_half_precision_is_measured_too():
    module, source = RealUIDModule(unet(), None, fake_steps=1), data(24)
    half = rehearsal(module, source, precision="bf16-mixed").passes["generator"]
    single = rehearsal(module, source).passes["generator"]
    saved, forward, _ = real_pass(module, "generator", source, partial(torch.autocast, "cpu", torch.bfloat16))
    assert half.forward == forward
    assert half.kept == pytest.approx(saved, rel=0.1)
    assert half.kept < 0.65 * single.kept
    wide = rehearsal(module, source, gpu=True, precision="bf16-mixed").passes["generator"]
    assert half.kept < wide.kept < single.kept  # norms in float32


def test_checkpointing_is_measured_too():
    plain, cheap, recomputing = (
        rehearsal(TeacherModule(unet(checkpoint=way)), data(24)).passes["network"] for way in (False, "cheap", True)
    )
    assert recomputing.peak < cheap.peak < 0.8 * plain.peak
    assert recomputing.kept < 0.5 * plain.kept
    assert recomputing.forward == cheap.forward == plain.forward
    assert recomputing.flops > 1.25 * plain.flops
    assert cheap.flops == plain.flops


def test_bytes_grow_with_the_batch_in_a_straight_line():
    module = MODULES["teacher"]()
    low, middle, high = (rehearsal(module, data(size)).passes["network"].peak for size in (8, 16, 24))
    assert high - middle == pytest.approx(middle - low, rel=0.01)


def trained(module, folder, labels=False):
    """Train on random samples, and return the trainer."""

    class Black(Untouched):
        def load(self):
            return torch.zeros(20, *self.shape, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64)

    source = MatchingDataModule(Black(), batch_size=4, labels=labels)
    return fit(module, source, folder, steps=1, callbacks=[RunCheckpoint()])


OPTIMIZERS = [
    (ADAM, partial(torch.optim.Adam, lr=1e-4, fused=True)),
    (partial(torch.optim.AdamW, lr=1e-4, amsgrad=True), partial(torch.optim.Adafactor, lr=1e-4)),
    (partial(torch.optim.SGD, lr=1e-4), partial(torch.optim.SGD, lr=1e-4, momentum=0.9)),
]


@pytest.mark.parametrize("optimizers", OPTIMIZERS)
def test_bytes_and_checkpoints_are_those_of_a_real_run(optimizers, tmp_path):
    chosen = dict(zip(("fake_optimizer", "generator_optimizer"), optimizers, strict=True))
    module = RealUIDModule(unet(num_classes=10), None, fake_steps=1, ema=[0.9], **chosen)
    planned = rehearsal(module, data(labels=True))
    sizes = {size.name: size for size in planned.networks}
    real = copy.deepcopy(module)
    states = [optimizer.state for optimizer in trained(real, tmp_path, labels=True).optimizers]
    networks = {"teacher": real.teacher, "fake": real.fake, "generator": real.generator, "ema_0.9": real.ema[0.9]}
    assert list(sizes) == list(networks)
    for name, network in networks.items():
        weights = list(network.parameters())
        assert sizes[name].parameters == sum(weight.numel() for weight in weights)
        assert sizes[name].weights == sum(tensor.nbytes for tensor in network.state_dict().values())
        assert sizes[name].gradients == (sizes[name].weights if name in ("fake", "generator") else 0)
    for name, state in zip(("fake", "generator"), states, strict=True):
        kept = [value for each in state.values() for value in each.values() if isinstance(value, torch.Tensor)]
        assert sizes[name].states == sum(tensor.nbytes for tensor in kept)
    assert planned.checkpoint() == pytest.approx((tmp_path / "checkpoints" / "last.ckpt").stat().st_size, rel=0.02)


def test_buffers_count_and_shared_weights_count_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = self.first
            self.register_buffer("table", torch.zeros(10))

        def recorded(self):
            return {}

        def forward(self, t, x, y=None):
            return self.second(self.first(x))

    (size, _) = rehearsal(TeacherModule(Twice(), ema=[0.5]), points()).networks
    assert (size.parameters, size.weights) == (12, 4 * 22)


@pytest.mark.parametrize(
    ("module", "calls"),
    [
        (lambda: TeacherModule(mlp((3, 8, 8)), ema=[0.9], solver=Heun(), sampling_steps=[1, 4]), 2 * (1 + 7)),
        (lambda: TeacherModule(mlp((3, 8, 8)), sampling_steps=[3], evaluate=["raw_steps_3"]), 3),
        (lambda: RealUIDModule(mlp((3, 8, 8)), None, sampling_steps=3, evaluate=["raw"]), 3),
        (lambda: RealUIDModule(unet(), None, generator_network=mlp((3, 8, 8)), generator_init="random"), 2),
    ],
)
def test_network_calls_are_counted(module, calls):
    module = module()
    found, peak, flops = rehearsal(module, data()).evaluate()
    size = module.eval_batch_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mlp((3, 8, 8))(torch.zeros(size), torch.zeros(size, 3, 8, 8))
    assert (found, flops) == (calls, calls * counter.get_total_flops())
    assert peak > 2 * 4 * size * 3 * 8 * 8  # latents and samples at the least


def plan(module, source, devices=1, **options):
    chosen = {"max_steps": 100, "val_check_interval": 20, "check_val_every_n_epoch": None, "devices": devices}
    callbacks = [RunCheckpoint(monitor="fid/raw", keep=2, every=10)]
    return Plan(module, source, trainer(**{**chosen, "callbacks": callbacks, **options}), devices)


def test_a_plan_counts_files_and_passes():
    module = RealUIDModule(mlp((3, 8, 8)), None, fake_steps=2, ema=[0.9], eval_batch_size=8)
    made = plan(module, data())
    assert (made.steps, made.files, made.writes) == (100, 4, 21)  # 5 times the last and one of the best; 10 and the end
    assert made.evaluation is not None
    # 10 samples in two forwards of 8, by two samplers.
    assert (made.evaluation.passes, made.evaluation.validations) == (32, 5)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        module.architecture(torch.zeros(32), torch.zeros(32, 3, 8, 8))
    assert made.evaluation.flops == flops.get_total_flops()
    assert made.buckets == 0
    assert made.total == made.lasting + max(made.evaluation.peak, *(each.peak for each in made.passes.values()))


def test_networks_that_train_in_turn_hold_gradients_in_turn(tmp_path):
    module, source = RealUIDModule(mlp((3, 8, 8)), None, fake_steps=1), data()
    made = plan(module, source)
    fake, generator = (size for size in made.networks if size.gradients)
    assert made.gradients == max(fake.gradients, generator.gradients)
    views = plan(module, source, 2, strategy=DDPStrategy(gradient_as_bucket_view=True))
    assert views.gradients == fake.gradients + generator.gradients
    real = copy.deepcopy(module)
    trained(real, tmp_path)
    assert all(weight.grad is None for weight in real.parameters())


def test_strategies_differ():
    module, source = TeacherModule(mlp((3, 8, 8))), data()
    whole = plan(module, source)
    assert plan(module, source, 2, strategy="ddp").buckets == sum(size.gradients for size in whole.networks)
    divided = plan(module, source, 4, strategy=ModelParallelStrategy())
    assert (divided.shards, divided.buckets, divided.lasting) == (4, 0, -(-whole.lasting // 4))
    assert divided.evaluation.passes == 4 * whole.evaluation.passes  # two or three samples a device, one forward each


def test_a_run_without_end_or_validation_is_planned():
    module, source = TeacherModule(mlp((3, 8, 8))), data()
    endless = plan(module, source, max_steps=-1)
    assert (endless.steps, endless.writes, endless.evaluation.validations) == (None, None, None)
    assert plan(module, source, limit_val_batches=0).evaluation is None


def test_a_strange_module_is_refused():
    class Strange(TeacherModule):
        def training_step(self, batch, batch_idx):
            return self.network(torch.zeros(len(batch.x1)), batch.x1).mean()

    with pytest.raises(UserError, match="calls one of fake_loss, generator_loss, matching_loss, got Strange"):
        rehearsal(Strange(mlp((3, 8, 8))), data())


def test_a_module_that_steps_optimizers_unseen_is_rehearsed_once():
    class Unseen(TeacherModule):
        def training_step(self, batch, batch_idx):
            self.matching_loss(self.draw(batch, self.rng(batch_idx))).backward()
            torch.optim.SGD(self.parameters(), lr=0.1).step()  # of which the trainer counts nothing

    module = Unseen(mlp((3, 8, 8)))
    module.automatic_optimization = False
    assert rehearsal(module, data()).passes["network"].times == 1


def test_conditions_that_only_data_tell_are_refused():
    class Described(Untouched):
        num_classes = None

    with pytest.raises(
        UserError, match="expected conditions that are class labels, got a Described without num_classes"
    ):
        rehearsal(TeacherModule(mlp((3, 8, 8))), MatchingDataModule(Described(), batch_size=4, labels=True))
