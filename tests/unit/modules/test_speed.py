"""What makes steps fast changes no result, leaves no trace in checkpoints, and reads nothing from the device."""

import copy
import functools
import shutil

import helpers
import pytest
import torch
from helpers import Tied, acting, mlp, points
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from realuid_lightning.data import Batch, Digits, MatchingDataModule
from realuid_lightning.modules import RealUIDModule, TeacherModule, Warmup
from realuid_lightning.networks import LoRA, UNet
from realuid_lightning.objectives import GAN
from realuid_lightning.planning.ledger import weightless

pytestmark = [
    pytest.mark.slow,
    # Dynamo looks at every attribute of its inputs.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


def unet():
    torch.manual_seed(1)
    return acting(UNet(8, 1, 32, 1, [1], [8], 32), 0.05)


def distilling(network, **options):
    return RealUIDModule(
        network, None, alpha=0.9, beta=0.94, fake_steps=2, ema=[0.5, 0.9], eval_batch_size=16, **options
    )


def fit(model, folder, steps=2, ckpt=None, precision="32-true"):
    data = MatchingDataModule(Digits(), batch_size=8, eval_samples=20)
    options = {"limit_val_batches": None, "val_check_interval": 2, "check_val_every_n_epoch": None}
    return helpers.fit(model, data, folder, steps, ckpt, precision=precision, **options)


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({}, "32-true"),
        ({}, "bf16-mixed"),
        ({"gan": GAN()}, "bf16-mixed"),
        ({"sampling_steps": 2}, "bf16-mixed"),
        ({"fake_network": LoRA(2), "generator_network": LoRA(2)}, "bf16-mixed"),
    ],
    ids=["plain, single", "plain", "gan", "steps", "adapters"],
)
def test_compiled_networks_train_alike(options, precision, traced, tmp_path):
    if "fake_network" in options:
        pytest.importorskip("peft")
    models = []
    for compiled in (False, True):
        network = mlp(depth=2)  # which seeds what adapters begin from
        models.append(distilling(network, compile=compiled, **copy.deepcopy(options)))
    for model in models:
        fit(model, tmp_path, precision=precision)
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    graphs, breaks = traced()
    assert graphs >= 6  # training and frozen ones at one or two batch sizes, and those that are evaluated
    assert not breaks


def test_a_compiled_teacher_trains_alike(traced, tmp_path):
    models = [TeacherModule(mlp(depth=2), sampling_steps=[2], compile=compiled) for compiled in (False, True)]
    for model in models:
        fit(model, tmp_path)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    assert traced() == (3, {})  # in training, in evaluation, and its average


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a compiler of C++")
def test_the_compiler_of_torch_makes_the_same_of_it_up_to_rounding(tmp_path, monkeypatch):
    """Other tests run what is traced as it is; this one compiles two layers, by nothing left of another processor."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()
    rule = functools.partial(torch.optim.SGD, lr=0.1)  # Adam makes much of what is rounded, where gradients are small
    torch.manual_seed(0)
    models = [TeacherModule(Tied(), optimizer=rule)]
    models.append(TeacherModule(copy.deepcopy(models[0].network), optimizer=rule, compile=True))
    for model in models:
        helpers.fit(model, points(8, eval_samples=20), tmp_path, 2)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-4, atol=1e-5)
    assert list((tmp_path / "compiled").rglob("*.so"))
    torch._dynamo.reset()


@pytest.mark.parametrize("way", [False, "cheap", True])
def test_the_unet_is_one_graph(way, traced):
    network = unet()
    network.checkpoint = way
    network.compile()
    network(torch.rand(2), torch.randn(2, 1, 8, 8))
    assert traced() == (1, {})


def test_runs_resume_across_compilation(traced, tmp_path):
    whole = distilling(mlp(depth=2))
    fit(whole, tmp_path, 4)
    for first, second in ((True, False), (False, True)):
        fit(distilling(mlp(depth=2), compile=first), tmp_path, 2).save_checkpoint(tmp_path / "half.ckpt")
        resumed = distilling(mlp(depth=2), compile=second)
        fit(resumed, tmp_path, 4, tmp_path / "half.ckpt")
        torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert traced()[0] > 0


def test_channels_last_is_the_order_of_every_convolution_and_changes_rounding_only(tmp_path):
    models = [distilling(unet(), channels_last=last) for last in (False, True)]
    for model in models:
        fit(model, tmp_path, 2)
    for part in models[1].modules():
        if isinstance(part, nn.Conv2d):
            assert part.weight.is_contiguous(memory_format=torch.channels_last)
    assert not models[0].fake.middle_block[0].in_layers[2].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-4, atol=1e-5)


def test_runs_resume_across_channels_last(tmp_path):
    """The states of fused optimizers have to lie as the weights do, whose order has changed."""
    whole = distilling(unet())
    fit(whole, tmp_path, 4)
    for first, second in ((True, False), (False, True)):
        fit(distilling(unet(), channels_last=first), tmp_path, 2).save_checkpoint(tmp_path / "half.ckpt")
        resumed = distilling(unet(), channels_last=second)
        trainer = fit(resumed, tmp_path, 4, tmp_path / "half.ckpt")
        torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=1e-4, atol=1e-5)
        for optimizer in trainer.optimizers:
            for weight, states in optimizer.state.items():
                assert states["exp_avg"].stride() == weight.stride()


def test_every_fake_update_sees_the_weights_of_the_one_before_in_bf16(tmp_path):
    """Autocast may keep its copies of weights for as long as its context lasts, which is a whole cycle here."""
    seen = []

    class Watching(RealUIDModule):
        def fake_loss(self, batch):
            with torch.no_grad():
                seen.append(self.fake(torch.full((1,), 0.5), torch.ones(1, 1, 8, 8)).norm().item())
            return super().fake_loss(batch)

    model = Watching(
        mlp(depth=2),
        None,
        fake_steps=3,
        fake_schedule=Warmup,
        fake_optimizer=lambda weights: torch.optim.SGD(weights, 0.1),
    )
    fit(model, tmp_path, 1, precision="bf16-mixed")
    assert len(set(seen)) == 3


@pytest.mark.parametrize("options", [{}, {"gan": GAN()}, {"sampling_steps": 2}], ids=["plain", "gan", "steps"])
def test_an_update_reads_nothing_from_the_device(options):
    """Tensors without values refuse to be read, and a device would be waited for wherever they do."""
    module = distilling(mlp(depth=2), **options)
    module.start()
    mode = FakeTensorMode()
    module = weightless(module, mode)
    module.manual_backward = lambda loss: loss.backward()
    with mode:
        module.guard.skipped = torch.zeros((), dtype=torch.int64)
        batch = Batch(x1=torch.empty(8, 1, 8, 8))
        fake, generator = (module.fake_optimizer(part.parameters()) for part in (module.fake, module.generator))
        for optimizer, loss, network in [
            (fake, module.fake_loss, module.fake),
            (generator, module.generator_loss, module.generator),
        ]:
            for _ in range(2):
                filled = module.draw(batch, torch.Generator())
                module._update(optimizer, Warmup(optimizer, 1), loss(filled), network)
        module.ema.update(module.generator)
        with pytest.raises(RuntimeError, match="_local_scalar_dense"):  # as this does
            module.guard.skipped.item()
