"""The package's own loop under observation: RealUIDModule through a Trainer, with one optimisation after the other."""

import logging
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from parts.measure import Cycle, PeakMemory, Stopwatch, exact
from parts.sizes import IMAGES, Workload
from parts.textbook import ALPHA, BETA, BETAS, CLIP, DECAYS, FAKE_STEPS, RATE, Textbook
from realuid_lightning.data import Draws, MatchingDataModule, MemorySource
from realuid_lightning.modules import RealUIDModule, Warmup
from realuid_lightning.networks import frozen_weights
from realuid_lightning.optimizers import RecipeAdam

CHECKS = 2  # cycles in which nothing may synchronise
Setting = dict[str, Any]

ADDED: dict[str, Setting] = {
    "fp32": {},
    "fused_adam": {"fused_adam": True},
    "bf16": {"precision": "bf16-mixed"},
    "channels_last": {"channels_last": True},
    "on_device": {"on_device": True},
    "checkpoint": {"checkpoint": "cheap"},
    "compile": {"compile": True},
}
"""What each row adds to the rows before it. Compilation comes last: it takes minutes, and so is done once."""
ALONE = "checkpoint"
"""This row spares memory and costs time: the rows after it do without."""


def cumulated(names: list[str]) -> dict[str, Setting]:
    """Return the settings of the rows ``names``: each adds to those before it, but for ``ALONE``."""
    rows: dict[str, Setting] = {}
    setting: Setting = {}
    for name in names:
        rows[name] = {**setting, **ADDED[name]}
        setting = setting if name == ALONE else rows[name]
    return rows


def dtype_of(setting: Setting) -> str:
    """Return the dtype of a setting's matrix products."""
    return "bf16" if "bf16" in setting.get("precision", "") else "fp32"


class Noise(MemorySource):
    """Images of random bytes in memory.

    Args:
        shape: Shape of an image.
        count: Number of images.
        num_classes: Number of classes, if they have labels.
    """

    shape: tuple[int, ...] = ()
    num_classes: int | None = None

    def __init__(self, shape: tuple[int, ...], count: int = IMAGES, num_classes: int | None = None) -> None:
        self.shape, self.count, self.num_classes = shape, count, num_classes

    def load(self) -> tuple[Tensor, Tensor | None]:
        """Draw the images."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(0, 256, (self.count, *self.shape), dtype=torch.uint8, generator=generator)
        return x, torch.arange(self.count) % self.num_classes if self.num_classes else None


class Watched(RealUIDModule):
    """Charges its time to phases, and keeps every loss as a tensor.

    Args:
        watch: The stopwatch.
        args: As those of ``RealUIDModule``.
        kwargs: Likewise.
    """

    def __init__(self, watch: Stopwatch, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watch = watch
        self.losses: dict[str, list[Tensor]] = {"fake": [], "generator": []}

    def on_train_start(self) -> None:
        """Start the watch."""
        super().on_train_start()
        self.watch.lap("start")

    def fake_loss(self, batch: Draws) -> Tensor:
        """Begin a fake update."""
        self.watch.lap("rest")
        loss = super().fake_loss(batch)
        self.losses["fake"].append(loss.detach())
        return loss

    def generator_loss(self, batch: Draws) -> Tensor:
        """Begin a generator update."""
        self.watch.lap("rest")
        loss = super().generator_loss(batch)
        self.losses["generator"].append(loss.detach())
        return loss

    def _update(self, *args: Any) -> Tensor:
        norm = super()._update(*args)
        self.watch.lap("fake" if args[-1] is self.fake else "generator")
        return norm

    def on_train_batch_end(self, *args: Any) -> None:
        """End the cycle."""
        super().on_train_batch_end(*args)
        self.watch.lap("end")


class NoSynchronisation(Callback):
    """Makes it an error that the host waits for the GPU, in all that happens between two cycles.

    Args:
        first: Cycles before.
        count: Cycles that are checked.
    """

    def __init__(self, first: int, count: int) -> None:
        self.first, self.last = first, first + count

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin or end the check."""
        if trainer.global_step == self.first:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        if trainer.global_step == self.last:
            torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, *_: Any) -> None:
        """Let the trainer clean up."""
        torch.cuda.set_sync_debug_mode("default")


def module_of(network: nn.Module, watch: Stopwatch, setting: Setting) -> Watched:
    """Return a module that trains as ``Textbook`` does, but for what the setting changes."""

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return RecipeAdam(parameters, RATE) if setting.get("fused_adam") else torch.optim.Adam(parameters, RATE, BETAS)

    def constant(optimizer: torch.optim.Optimizer) -> Warmup:
        return Warmup(optimizer, steps=0)

    return Watched(
        watch,
        network,
        teacher_ckpt=None,
        alpha=ALPHA,
        beta=BETA,
        fake_steps=FAKE_STEPS,
        generator_optimizer=adam,
        generator_schedule=constant,
        fake_optimizer=adam,
        fake_schedule=constant,
        clip=CLIP,
        ema=DECAYS,
        **{name: setting[name] for name in ("channels_last", "compile") if name in setting},
    )


def trainer_of(kind: str, steps: int, **options: Any) -> Trainer:
    """Return a trainer that does nothing but train, and logs nothing.

    Args:
        kind: ``cpu`` or ``cuda``.
        steps: Cycles.
        options: Further arguments of ``Trainer``.
    """
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(
        accelerator="gpu" if kind == "cuda" else "cpu",
        max_steps=steps,
        log_every_n_steps=10**9,
        **{"devices": 1, "limit_val_batches": 0, **quiet, **options},
    )


def train(work: Workload, setting: Setting, checks: int = 0) -> tuple[Watched, int, str | None]:
    """Train as long as planned, and then for ``checks`` cycles more in which no synchronisation may happen.

    Returns:
        The module, the peak memory in bytes, and where a synchronisation was met, None if nowhere.
    """
    exact(work.device)
    network = work.network()
    if "checkpoint" in setting and hasattr(network, "checkpoint"):
        network.checkpoint = setting["checkpoint"]
    source = Noise(network.shape)
    source.setup()
    memory = PeakMemory(work.device)
    module = module_of(network, Stopwatch(work.device), setting)
    data = MatchingDataModule(source, work.batch, **({"on_device": True} if setting.get("on_device") else {}))
    cycles = work.warm_up + work.cycles
    # One cycle more, in which the check has ended: Lightning reads values when training ends.
    steps, callbacks = (cycles + checks + 1, [NoSynchronisation(cycles, checks)]) if checks else (cycles, [])
    trainer = trainer_of(work.kind, steps, precision=setting.get("precision", "32-true"), callbacks=callbacks)
    met = None
    try:
        trainer.fit(module, data)
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        met = _place(error)
    if work.kind == "cuda":
        torch.cuda.synchronize()
    return module, memory.bytes(), met


def observe(work: Workload, setting: Setting) -> tuple[list[Cycle], int, str | None]:
    """Train; return the timed cycles, peak memory in bytes, and what a check for synchronisations found."""
    # An optimizer that is not fused has to be told in time not to make an update that is not finite.
    checks = CHECKS if work.kind == "cuda" and setting.get("fused_adam") else 0
    module, peak, met = train(work, setting, checks)
    found = (met or f"no synchronisation in {checks} cycles") if checks else None
    return module.watch.cycles()[work.warm_up :][: work.cycles], peak, found


def _place(error: Exception) -> str:
    """Return the innermost line outside of torch that an error came from."""
    torch_home = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    frame = next(frame for frame in reversed(frames) if not frame.filename.startswith(torch_home))
    return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"


# ------------------------------------------------------------------------------------------------------------- FLOPs


def flops(work: Workload) -> dict[str, int]:
    """Return the FLOPs of one cycle of the package's loop and of the textbook's.

    They are counted at batch 1, for they scale with the batch.

    A multiplication and an addition are two. Tensors without memory are enough, and do not depend on the kernels that
    a device would choose.
    """
    network, device = work.network().to("meta"), torch.device("meta")
    shape = (1, *network.shape)
    module, textbook = module_of(network, Stopwatch(device), {}), Textbook(network, device)
    sample = torch.empty(shape, device=device)
    batch = Draws(x1=sample, x0=sample, z=sample, t=torch.empty(1, device=device))
    with FlopCounterMode(display=False) as lean:
        for _ in range(FAKE_STEPS):
            module.fake_loss(batch).backward()
        with frozen_weights(module.fake):
            module.generator_loss(batch).backward()
    with FlopCounterMode(display=False) as other:
        for _ in range(FAKE_STEPS):
            textbook.fake_loss(batch).backward()
        textbook.generator_loss(batch).backward()
    return {"lean": work.batch * lean.get_total_flops(), "textbook": work.batch * other.get_total_flops()}
