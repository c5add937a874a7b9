"""A diffusion of digits trained by diffusers, distilled to one step with and without guidance, drawn by diffusers."""

import sys
from functools import partial
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from lightning import Trainer

from realuid_lightning import MatchingDataModule, RealUIDModule, TeacherModule, default_callbacks
from realuid_lightning.checkpoints import export_diffusers, load_diffusers
from realuid_lightning.data import Digits
from realuid_lightning.metrics import ClassifierFeatures
from realuid_lightning.objectives import SiD
from realuid_lightning.optimizers import LinearDecay

NONE = 10  # the label that stands for no digit


def train_teacher(folder, steps):
    """Train a network to predict the noise, given the digit or none, as diffusers does; nothing here is ours."""
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    sizes = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (16, 32),
        "norm_num_groups": 8,
    }
    unet, scheduler = UNet2DModel(**sizes, **blocks, layers_per_block=1, num_class_embeds=11), DDPMScheduler()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(100, steps), steps)
    digits = Digits()
    digits.setup()
    images, labels = digits.get(torch.arange(len(digits)))
    images = images / 127.5 - 1
    for _ in range(steps):
        chosen = torch.randint(len(images), (128,))
        clean, times = images[chosen], torch.randint(1000, (128,))
        noise = torch.randn_like(clean)
        told = torch.where(torch.rand(128) < 0.1, NONE, labels[chosen])
        predicted = unet(scheduler.add_noise(clean, noise, times), times, told).sample
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    DDIMPipeline(unet, scheduler).save_pretrained(folder)


def distil(folder, guidance, steps, measured, many):
    """Distil the teacher of a folder; return 20 images, two of each digit, in [0, 1]."""
    name = "plain" if guidance is None else f"guidance_{guidance:g}"
    network, path = load_diffusers(folder / "teacher", null=NONE)  # what it predicts, and when, is in the folder
    data = MatchingDataModule(Digits(), batch_size=128, labels=True, eval_samples=measured)
    watched = partial(default_callbacks, ClassifierFeatures("digits"))
    Trainer(default_root_dir=folder / f"teacher_{name}", callbacks=watched()).validate(
        TeacherModule(network, path, sampling_steps=[1, many], ema=[], guidance=guidance), data
    )
    adam = partial(torch.optim.Adam, lr=5e-4, betas=(0.0, 0.999))
    falling = [partial(LinearDecay, steps=count, warmup=min(20, count - 1)) for count in (steps, 5 * steps)]
    student = RealUIDModule(
        network,
        None,
        path=path,
        divergence=SiD(),
        guidance=guidance,
        generator_optimizer=adam,
        generator_schedule=falling[0],
        fake_optimizer=adam,
        fake_schedule=falling[1],
        ema=[0.99],
    )
    run = Trainer(max_steps=steps, val_check_interval=steps, default_root_dir=folder / name, callbacks=watched())
    run.fit(student, data)
    export_diffusers(folder / name / "checkpoints" / "last.ckpt", folder / f"pipeline_{name}", ema=0.99)
    pipeline = DiffusionPipeline.from_pretrained(folder / f"pipeline_{name}")  # from here on, without us
    rng = torch.Generator().manual_seed(0)
    return pipeline(20, class_labels=[*range(10)] * 2, generator=rng, output_type="pt").images


def main(folder, teacher_steps=2000, student_steps=300, measured=1797, many=50):
    """Go all the way; return the images of the student without guidance, and of that of a guided teacher."""
    folder = Path(folder)
    train_teacher(folder / "teacher", teacher_steps)
    return [distil(folder, guidance, student_steps, measured, many) for guidance in (None, 1.5)]


if __name__ == "__main__":
    torch.manual_seed(0)
    main(sys.argv[1] if sys.argv[1:] else "runs/diffusers_digits")
