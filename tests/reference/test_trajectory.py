"""The official alternating loop, step by step, through RealUIDModule under a Trainer in float64.

The official attention rounds its softmax to float32 even in a float64 network, and that rounding (of its machine) is
not ours. Two things feel it: generator losses, small differences of terms of about 600, agree to 1e-8 of those terms
rather than of their own value; and the attention's biases, whose gradients vanish or nearly do (a key bias shifts a
whole softmax row, a value bias shifts a channel, which the next norm of one channel a group removes), get updates of
visible size out of rounding noise, since Adam divides a gradient by its own size. Everything else agrees to the float32
rounding of the stored values.
"""

import json
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from realuid_lightning.data import Batch
from realuid_lightning.modules import RealUIDModule, Warmup
from realuid_lightning.networks import UNet

VALUES = Path(__file__).parent / "values"


class Recording(RealUIDModule):
    """Notes every loss, as the official code states it, and every gradient norm, in the order of its micro-steps."""

    def fake_loss(self, batch):
        loss = super().fake_loss(batch)
        with torch.no_grad():  # the official value is maximised, and keeps constants that have no gradient
            generated = self.path.sample(batch.t, batch.x0, self.generator(batch.z, batch.y)).target
            real = self.path.sample(batch.t, batch.x0, batch.x1).target
            constant = mean_square(generated) * self.beta**2 / self.alpha
            constant += mean_square(real) * (1 - self.beta) ** 2 / (1 - self.alpha)
        self.losses.append(-(loss + constant).item())
        return loss

    def generator_loss(self, batch):
        loss = super().generator_loss(batch)
        self.losses.append(loss.item())
        return loss

    def _update(self, optimizer, schedule, loss, network):
        norm = super()._update(optimizer, schedule, loss, network)
        self.norms.append(norm.item())
        return norm


def mean_square(target):
    return target.square().sum((1, 2, 3)).mean()


def group(tensors, prefix):
    return {key.removeprefix(prefix): value.double() for key, value in tensors.items() if key.startswith(prefix)}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("name", ["uncond", "cond"])
def test_losses_norms_and_end_weights_are_the_official_ones(name, tmp_path):
    told = json.loads((VALUES / f"trajectory_{name}.json").read_text())
    tensors = load_file(VALUES / f"trajectory_{name}.safetensors")
    network = UNet(**told["unet"])
    network.load_state_dict(group(tensors, "teacher/"), strict=True)
    fake_steps = told["adv_step"] - 1

    def optimizer(parameters):
        return torch.optim.Adam(parameters, lr=told["lr"], betas=tuple(told["adam_betas"]))

    def schedule(optimizer):
        return Warmup(optimizer, told["warmup"])

    module = Recording(
        network,
        teacher_ckpt=None,
        alpha=told["alpha"],
        beta=told["beta"],
        fake_steps=fake_steps,
        generator_optimizer=optimizer,
        generator_schedule=schedule,
        fake_optimizer=optimizer,
        fake_schedule=schedule,
        clip=told["grad_clip"],
        ema=[0.999, 0.9],
    )
    module.start()
    module.fake.load_state_dict(group(tensors, "fake_init/"), strict=True)
    module.losses, module.norms = [], []
    batches = [cycle(tensors, start, told["adv_step"]) for start in range(0, len(told["steps"]), told["adv_step"])]
    trainer = Trainer(
        accelerator="cpu",
        precision="64-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))

    assert trainer.global_step == len(batches)  # generator updates alone are counted
    for step, loss, norm in zip(told["steps"], module.losses, module.norms, strict=True):
        scale = abs(step["loss"]) if step["turn"] == "fake" else max(abs(row["loss"]) for row in told["steps"])
        assert loss == pytest.approx(step["loss"], abs=1e-8 * scale), step
        assert norm == pytest.approx(step["grad_norm"], rel=1e-6), step
    for prefix, end in [
        ("generator_final/", module.generator.network),
        ("fake_final/", module.fake),
        ("ema_0.999/", module.ema[0.999].network.network),
        ("ema_0.9/", module.ema[0.9].network.network),
    ]:
        expected, got = group(tensors, prefix), end.state_dict()
        assert expected.keys() == got.keys()
        for key in expected:
            error = (got[key] - expected[key]).abs()
            tolerance = 1e-3 if key.endswith("qkv.bias") else 1e-6
            assert error.max() < tolerance, (prefix, key)


def cycle(tensors, start, length):
    """Stack the stored draws of one cycle's micro-steps into one batch, every field filled."""
    steps = range(start, start + length)

    def stacked(field):
        return torch.cat([tensors[f"{step}/{field}"] for step in steps]).double()

    y = torch.cat([tensors[f"{step}/y"] for step in steps]) if f"{start}/y" in tensors else None
    return Batch(x1=stacked("real"), y=y, x0=stacked("noise"), z=stacked("latent"), t=stacked("t"))
