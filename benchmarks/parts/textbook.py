"""The training loop as one would first write it: what the package is measured against.

Imports neither Lightning nor what needs it: the more a process has imported, the more each garbage collection costs.
"""

import copy
import gc
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from parts.measure import Cycle, PeakMemory, Stopwatch, exact
from parts.sizes import IMAGES, Workload
from realuid_lightning.losses import fake_loss, generator_loss

ALPHA, BETA, CLIP, RATE, BETAS = 0.92, 0.94, 1.0, 3e-5, (0.0, 0.999)
DECAYS = [0.999, 0.9996, 0.9999]
FAKE_STEPS = 5


class Draws(NamedTuple):
    """Real samples, source noise, latents ``(B, *D)`` and times ``(B,)``."""

    x1: Tensor
    x0: Tensor
    z: Tensor
    t: Tensor


class Textbook:
    """RealUID on the linear flow path in plain torch: in float32, step by step, as the formulas stand in the paper.

    Two fake forwards, a graph of the generator in fake steps, gradients of the weights of all networks everywhere,
    torch's Adam as it comes, averages weight by weight; after each step it reads the loss, waits for the device and
    collects garbage.

    Args:
        network: Teacher; the fake model and the generator start from it.
        device: Where to train.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.device, self.watch = device, Stopwatch(device)
        self.collecting: list[float] = []
        self.teacher, self.fake, self.generator = (copy.deepcopy(network).to(device) for _ in range(3))
        self.averages = {decay: copy.deepcopy(self.generator).eval().requires_grad_(False) for decay in DECAYS}
        self.fake_adam, self.generator_adam = (
            torch.optim.Adam(part.parameters(), lr=RATE, betas=BETAS) for part in (self.fake, self.generator)
        )

    def fit(self, images: Tensor, batch_size: int, cycles: int) -> None:
        """Make some cycles on images in [-1, 1]."""
        loader = DataLoader(TensorDataset(images), batch_size, shuffle=True, drop_last=True)
        stream = endless(loader)
        self.watch.lap("start")
        for _ in range(cycles):
            self.cycle(self.draw(next(stream).to(self.device)) for _ in range(FAKE_STEPS + 1))

    def draw(self, x1: Tensor) -> Draws:
        """Draw noise, latents and times."""
        t = torch.rand(len(x1), device=self.device)
        return Draws(x1, torch.randn_like(x1), torch.randn_like(x1), t)

    def cycle(self, batches: Iterator[Draws]) -> None:
        """Make one cycle, of an update of the fake model for every batch but the last, and one of the generator."""
        for step, batch in enumerate(batches):
            self.watch.lap("rest")
            if step < FAKE_STEPS:
                self.update(self.fake_loss(batch), self.fake, self.fake_adam)
                self.watch.lap("fake")
            else:
                self.update(self.generator_loss(batch), self.generator, self.generator_adam)
                self.watch.lap("generator")
                self.average()
        self.watch.lap("end")

    def fake_loss(self, batch: Draws) -> Tensor:
        """Return the fake model's loss."""
        xt, target = self.point(batch, self.generated(batch))
        real_xt, real_target = self.point(batch, batch.x1)
        fake, fake_real = self.fake(batch.t, xt.detach()), self.fake(batch.t, real_xt)
        return fake_loss(fake, target.detach(), fake_real, real_target, alpha=ALPHA, beta=BETA)

    def generator_loss(self, batch: Draws) -> Tensor:
        """Return the generator's loss."""
        xt, target = self.point(batch, self.generated(batch))
        teacher, fake = self.teacher(batch.t, xt), self.fake(batch.t, xt)
        return generator_loss(teacher, fake, target, alpha=ALPHA, beta=BETA)

    def generated(self, batch: Draws) -> Tensor:
        """Return the generator's samples."""
        samples: Tensor = batch.z + self.generator(torch.zeros_like(batch.t), batch.z)
        return samples

    @staticmethod
    def point(batch: Draws, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point of the path towards ``x1``, and the target there."""
        t = batch.t.view(-1, *[1] * (x1.ndim - 1))
        return t * x1 + (1 - t) * batch.x0, x1 - batch.x0

    def update(self, loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Move a network's weights down its loss."""
        for part in (self.teacher, self.fake, self.generator):
            part.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        loss.item()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        gc.collect()
        self.collecting.append(time.perf_counter() - begun)

    @torch.no_grad()
    def average(self) -> None:
        """Move the averages."""
        for decay, average in self.averages.items():
            for mine, theirs in zip(average.parameters(), self.generator.parameters(), strict=True):
                mine.mul_(decay).add_(theirs, alpha=1 - decay)


def endless(loader: DataLoader[tuple[Tensor, ...]]) -> Iterator[Tensor]:
    """Yield the loader's images again and again."""
    while True:
        for (images,) in loader:
            yield images


def observe_textbook(work: Workload) -> tuple[list[Cycle], int, str]:
    """Train the textbook way; return the timed cycles, peak memory in bytes, and a note."""
    exact(work.device)
    network = work.network()
    images = 2 * torch.rand(IMAGES, *network.shape) - 1
    memory = PeakMemory(work.device)
    loop = Textbook(network, work.device)
    loop.fit(images, work.batch, work.warm_up + work.cycles)
    if work.kind == "cuda":
        torch.cuda.synchronize()
    note = f"collecting garbage takes {1e3 * statistics.median(loop.collecting):.3g} ms of each update"
    return loop.watch.cycles()[work.warm_up :], memory.bytes(), note
