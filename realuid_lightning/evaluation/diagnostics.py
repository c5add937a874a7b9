"""Signs of divergence and of collapse, as curves beside the losses."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from realuid_lightning.data import Batch, MatchingDataModule
from realuid_lightning.data.stream import share
from realuid_lightning.errors import Faults
from realuid_lightning.evaluation.base import SamplerCallback
from realuid_lightning.evaluation.real import real_samples
from realuid_lightning.modules import MatchingModule, RealUIDModule
from realuid_lightning.sharding import full


class Diagnostics(SamplerCallback):
    """Logs what tells a run that goes wrong before its distances do; no forward pass is made for it.

    At the trainer's log interval, in a distillation:

    - ``diagnostics/teacher_fake_gap``: ``|f* - f|^2 / |f*|^2`` over the generator's batch, of what the two networks
      return. 0 says that fake model and teacher agree; growth without end, that the generator leaves the data or that
      the fake model diverges.

    At each validation, for each sampler:

    - ``diagnostics/spread/NAME``: root mean squared distance between two samples, relative to real samples; 1 is right,
      0 says that all samples are one.
    - ``diagnostics/nearest/NAME``: mean distance of a sample to its nearest neighbour, relative to real samples, among
      as many of each; near 0 says that samples repeat, also where they are spread wide.
    - ``diagnostics/distance/NAME`` for each average: ``|ema - raw| / |raw|`` over all weights. An average far from the
      raw weights is behind (or the raw weights wander).

    Args:
        count: Samples of each process that are compared, at least 2.
    """

    def __init__(self, count: int = 256) -> None:
        faults = Faults("Diagnostics")
        faults.unless(count >= 2, f"count must be at least 2, got {count}")
        faults.raise_any()
        self.count = count
        self._gap: Tensor | None = None
        self._hooks: list[RemovableHandle] = []
        self._teacher: Tensor | None = None
        self._samples: dict[str, list[Tensor]] = {}
        self._real: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the real samples of other data."""
        del trainer, pl_module, stage
        self._real = None

    # -------------------------------------------------------------------------------------------------- the gap

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hook teacher and fake model, in a step that is logged."""
        del batch, batch_idx
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if isinstance(pl_module, RealUIDModule) and interval and (trainer.global_step + 1) % interval == 0:
            hooked: list[tuple[nn.Module, Callable[..., None]]] = [
                (pl_module.teacher, self._on_teacher),
                (pl_module.fake, self._on_fake),
            ]
            self._hooks = [network.register_forward_hook(hook) for network, hook in hooked]

    def _on_teacher(self, network: nn.Module, inputs: Any, output: Tensor) -> None:
        del network, inputs
        self._teacher = output.detach()

    def _on_fake(self, network: nn.Module, inputs: Any, output: Any) -> None:
        """Compare with the teacher's last answer. The step's last pair is the generator's, whose loss asks both."""
        del network, inputs
        prediction = output if isinstance(output, Tensor) else output[0]  # a discriminator's logits come second
        if self._teacher is not None and prediction.shape == self._teacher.shape:
            self._gap = relative_gap(self._teacher, prediction.detach())
            self._teacher = None  # what the fake model is asked next is another question

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the gap."""
        del trainer, outputs, batch, batch_idx
        if self._gap is not None:
            pl_module.log("diagnostics/teacher_fake_gap", self._gap)
        self._remove_hooks()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        del trainer, pl_module, exception
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._gap, self._teacher = [], None, None

    # ----------------------------------------------------------------------------------------------- validation

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read as many real samples, once: evenly from this process' share, for data may be listed class by class."""
        data = getattr(trainer, "datamodule", None)
        if self._real is not None or not isinstance(data, MatchingDataModule):
            return
        mine = share(len(data.reference), trainer.global_rank, trainer.world_size)
        count = min(self.count, len(mine))
        index = mine.start + torch.arange(count) * len(mine) // max(count, 1)
        real = real_samples(Batch(x1=data.reference.get(index)[0]), pl_module, data)
        self._real = real.flatten(1).float()

    def see(self, trainer: Trainer, pl_module: LightningModule, samples: dict[str, Tensor], batch: Batch) -> None:
        """Keep the first samples."""
        del trainer, pl_module, batch
        for name, made in samples.items():
            kept = self._samples.setdefault(name, [])
            missing = self.count - sum(map(len, kept))
            if missing > 0:
                kept.append(made[:missing].flatten(1).float())

    def conclude(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log spread and neighbours of every sampler, and how far each average is from the raw weights."""
        if not isinstance(pl_module, MatchingModule):
            return
        for name in pl_module.evaluated():  # on all processes, also on one that has had no latents
            parts = self._samples.get(name, [])
            mine = self._compared(torch.cat(parts) if parts else None, pl_module.device)
            spread, real_spread, nearest, real_nearest = trainer.strategy.reduce(mine, reduce_op="sum").unbind()
            if real_spread > 0:  # the same on all processes
                figures = {"spread": (spread / real_spread).sqrt(), "nearest": nearest / real_nearest}
                for kind, figure in figures.items():
                    pl_module.log(f"diagnostics/{kind}/{name}", figure.float(), sync_dist=True)
        self._samples.clear()
        for name, distance in average_distances(pl_module).items():
            pl_module.log(f"diagnostics/distance/{name}", distance, sync_dist=True)

    def _compared(self, samples: Tensor | None, device: torch.device) -> Tensor:
        """Return sums over this process' samples, which processes may add: two spreads, two distances."""
        real = self._real
        size = 0 if samples is None or real is None else min(len(samples), len(real))
        if samples is None or real is None or size < 2:
            return torch.zeros(4, device=device, dtype=torch.float64)
        figures = [*(part[:size].double().var(0).sum() for part in (samples, real))]
        figures += [nearest_distance(part[:size]).double() for part in (samples, real)]
        return size * torch.stack(figures)


def relative_gap(teacher: Tensor, fake: Tensor) -> Tensor:
    """Return ``|teacher - fake|^2 / |teacher|^2`` over a batch, at most that of a teacher of norm 1e-12."""
    wide_teacher, wide_fake = teacher.float(), fake.float()
    return (wide_teacher - wide_fake).square().sum() / wide_teacher.square().sum().clamp(min=1e-24)


def nearest_distance(samples: Tensor) -> Tensor:
    """Return the mean distance of a sample, ``(B, D)``, to its nearest neighbour among the others."""
    # Distances by differences: those by products lose what is small, which is what tells repetitions.
    distances = torch.cdist(samples, samples, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(float("inf")).min(1).values.mean()


@torch.no_grad()
def average_distances(module: MatchingModule) -> dict[str, Tensor]:
    """Return ``|ema - raw| / |raw|`` over the weights, for every average of a module, by its name."""
    followed = module.generator if isinstance(module, RealUIDModule) else module.architecture
    raw = [weight.detach() for weight in followed.parameters()]
    scale = _norm(raw).clamp(min=1e-12)
    return {
        name: _norm(mine - theirs.detach() for mine, theirs in zip(average.parameters(), raw, strict=True)) / scale
        for name, average in module.ema.named().items()
    }


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    total: Tensor = torch.stack([full(torch.linalg.vector_norm(tensor.float())) for tensor in tensors]).norm()
    return total
