"""One distillation cycle of this package against the same cycle written the textbook way, side by side in one run.

The textbook cycle computes what a first implementation would: two fake forwards, a generator graph in fake steps,
weight gradients of the fake model in generator steps. Both make the same updates from the same draws.

Usage: python benchmarks/cycle.py [--size digits|cifar] [--batch 64] [--cycles 20] [--device cpu]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from realuid_lightning.data import MatchingBatch
from realuid_lightning.losses import fake_loss, generator_loss
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import MLP, UNet, frozen_weights

SIZES = {
    "digits": lambda: MLP([1, 8, 8]),
    "cifar": lambda: UNet(32, 3, 128, 2, [1, 2, 2, 2], [16], 64),
}
FAKE_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="digits")
    parser.add_argument("--batch", type=int, default=64, help="samples per update")
    parser.add_argument("--cycles", type=int, default=20, help="timed cycles of each kind")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = SIZES[options.size]()
    kinds: dict[str, Callable[[RealUIDModule, list[MatchingBatch], Optimizers], None]]
    kinds = {"textbook": textbook_cycle, "this package": lean_cycle}
    sides = {name: side(network, options.device) for name in kinds}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for cycle in range(options.cycles + 2):  # the first two warm up
        batches = [draw(network.shape, options.batch, options.device, cycle, step) for step in range(FAKE_STEPS + 1)]
        for name, run in kinds.items():  # in turn, so that both meet the same moods of the machine
            module, optimizers = sides[name]
            times[name].append(timed(partial(run, module, batches, optimizers), options.device))
    show({name: values[2:] for name, values in times.items()}, options)
    worst = max(
        (left - right).abs().max().item()
        for left, right in zip(*(module.generator.parameters() for module, _ in sides.values()), strict=True)
    )
    print(f"largest difference of generator weights after {options.cycles + 2} cycles: {worst:.1e}")


Optimizers = tuple[torch.optim.Optimizer, torch.optim.Optimizer]


def side(network: torch.nn.Module, device: str) -> tuple[RealUIDModule, Optimizers]:
    """Return a module with its own weights, and optimizers of its fake model and generator."""
    module = RealUIDModule(copy.deepcopy(network), teacher_ckpt=None, alpha=0.92, beta=0.94, fake_steps=FAKE_STEPS)
    module.start()
    module.to(device)
    return module, tuple(torch.optim.Adam(part.parameters(), 1e-5) for part in (module.fake, module.generator))  # type: ignore[return-value]


def draw(shape: tuple[int, ...], size: int, device: str, *keys: int) -> MatchingBatch:
    generator = torch.Generator().manual_seed(hash(keys) % 2**31)
    x1, x0, z = (torch.randn(size, *shape, generator=generator).to(device) for _ in range(3))
    return MatchingBatch(x1=x1, x0=x0, z=z, t=torch.rand(size, generator=generator).to(device))


def lean_cycle(module: RealUIDModule, batches: list[MatchingBatch], optimizers: Optimizers) -> None:
    for batch in batches[:-1]:
        update(optimizers[0], module.fake_loss(batch))
    with frozen_weights(module.fake):
        update(optimizers[1], module.generator_loss(batches[-1]))


def textbook_cycle(module: RealUIDModule, batches: list[MatchingBatch], optimizers: Optimizers) -> None:
    for batch in batches[:-1]:
        generated = module.path.sample(batch.t, batch.x0, module.generator(batch.z))
        real = module.path.sample(batch.t, batch.x0, batch.x1)
        fake_generated = module.fake(generated.t, generated.xt.detach())
        fake_real = module.fake(real.t, real.xt)
        loss = fake_loss(fake_generated, generated.target.detach(), fake_real, real.target, alpha=0.92, beta=0.94)
        update(optimizers[0], loss)
    batch = batches[-1]
    generated = module.path.sample(batch.t, batch.x0, module.generator(batch.z))
    teacher, fake = module.teacher(generated.t, generated.xt), module.fake(generated.t, generated.xt)
    update(optimizers[1], generator_loss(teacher, fake, generated.target, alpha=0.92, beta=0.94))


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def timed(run: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def show(times: dict[str, list[float]], options: argparse.Namespace) -> None:
    table = Table(
        "cycle", "median seconds", "micro-steps a second", "speed-up", title=f"{options.size}, batch {options.batch}"
    )
    reference = times["textbook"]
    for name, values in times.items():
        ratio = statistics.median(slow / fast for slow, fast in zip(reference, values, strict=True))
        median = statistics.median(values)
        table.add_row(name, f"{median:.4f}", f"{(FAKE_STEPS + 1) / median:.1f}", f"{ratio:.2f} x")
    Console().print(table)


if __name__ == "__main__":
    main()
