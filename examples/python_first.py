"""A teacher of digits, its one-step student, and samples: a minute and a half on a CPU, and nothing is downloaded."""

from functools import partial

import torch
from lightning import Trainer

from realuid_lightning import MatchingDataModule, RealUIDModule, TeacherModule, default_callbacks, load_generator
from realuid_lightning.data import Digits
from realuid_lightning.metrics import RawFeatures
from realuid_lightning.networks import MLP

data, raw = MatchingDataModule(Digits(), batch_size=128, eval_samples=1797), RawFeatures([1, 8, 8])
network, adam = MLP([1, 8, 8]), partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.999), fused=True)
run = Trainer(max_steps=900, val_check_interval=900, default_root_dir="runs/teacher", callbacks=default_callbacks(raw))
run.fit(TeacherModule(network, optimizer=adam, ema=[0.99]), data)
student = RealUIDModule(network, None, alpha=0.98, beta=0.96, ema=[0.99], generator_optimizer=adam, fake_optimizer=adam)
run = Trainer(max_steps=400, val_check_interval=400, default_root_dir="runs/student", callbacks=default_callbacks(raw))
run.fit(student, data)
samples = load_generator("runs/student/checkpoints/last.ckpt", ema=0.99)(torch.randn(64, 1, 8, 8))  # in [-1, 1]
