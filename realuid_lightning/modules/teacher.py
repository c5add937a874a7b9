"""Teacher training: any matching framework, by its path."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from realuid_lightning.conditions import Condition
from realuid_lightning.data import Batch, Draws
from realuid_lightning.errors import Faults
from realuid_lightning.guidance import dropped, null_faults, scale_faults
from realuid_lightning.losses import matching_loss
from realuid_lightning.modules.base import MatchingModule
from realuid_lightning.modules.checks import average_faults
from realuid_lightning.modules.generation import Sampler
from realuid_lightning.networks import trainable, unconditional
from realuid_lightning.networks.ema import EMA
from realuid_lightning.optimizers import Warmup, gradient_norm, optimizer_faults
from realuid_lightning.paths import MatchingPath
from realuid_lightning.sharding import share_buffers
from realuid_lightning.solvers import Euler, ManySteps, Solver


class TeacherModule(MatchingModule):
    """Trains a network to predict a path's target, ``min_f E w_t |f(t, xt) - c|^2``, and samples it in many steps.

    Args:
        network: Network ``f(t, x, y)``; ``y`` is given when the data has labels.
        path: The framework; flow matching when None.
        teacher_ckpt: Weights of a teacher that is trained further: a checkpoint of this class, an official ``.pt``, or
            a state dict, of this network, and of this path but for its training times. The averages begin there too.
            None says that training begins at the weights that ``network`` holds.
        teacher_ema: Average of that checkpoint to take, such as 0.9999; the raw weights when None.
        optimizer: Makes the optimizer of the network's parameters.
        schedule: Makes its learning-rate schedule, stepped once an update; constant by default, and when None.
        solver: Multi-step sampler of validation and prediction; Euler when None.
        label_dropout: Share of the samples whose condition is left out in training, in [0, 1), so that the network also
            learns to do without, as guidance needs it (arXiv 2207.12598; 0.1 is usual). Above 0, the network must know
            what stands for none: ``null_label`` of ``UNet`` and ``MLP``.
        guidance: Scale of the classifier-free guidance that samples are made with; None for none. Of two samples that
            the network is then called for, it leans away from the one without a condition.
        sampling_steps: Numbers of solver steps that validation measures; 1 is the one-step generator's start.
        ema: Decays of the averages that are kept, each in [0, 1).
        evaluate: As in ``MatchingModule``, like all that follow.
        predict_with: As there.
        eval_batch_size: As there.
        max_skips: As there.
        compile: As there.
        channels_last: As there.
        fresh_optimizers: As there.

    Raises:
        UserError: If arguments are out of range, listing all of them.

    Example:
        >>> from realuid_lightning.networks import MLP
        >>> from realuid_lightning.paths import DiffusionPath
        >>> module = TeacherModule(MLP([2], width=32), path=DiffusionPath(), sampling_steps=[1, 18], ema=[0.999])
        >>> list(module.samplers())
        ['raw_steps_1', 'raw_steps_18', 'ema_0.999_steps_1', 'ema_0.999_steps_18']
    """

    role: ClassVar[Literal["teacher"]] = "teacher"
    averaged: ClassVar[str | None] = "network"

    def __init__(
        self,
        network: nn.Module,
        path: MatchingPath | None = None,
        teacher_ckpt: str | None = None,
        teacher_ema: float | None = None,
        optimizer: OptimizerCallable = lambda parameters: Adam(parameters, lr=2e-4, fused=True),
        schedule: LRSchedulerCallable | None = lambda optimizer: Warmup(optimizer, steps=0),
        solver: Solver | None = None,
        label_dropout: float = 0.0,
        guidance: float | None = None,
        sampling_steps: list[int] = [1, 50],  # noqa: B006 - the default is shown by --help; never mutated
        ema: list[float] = [0.999],  # noqa: B006 - likewise
        evaluate: list[str] | None = None,
        predict_with: str | None = None,
        eval_batch_size: int = 256,
        max_skips: int = 10,
        compile: bool = False,  # noqa: A002 - what the user calls it
        channels_last: bool = False,
        fresh_optimizers: bool = False,
    ) -> None:
        super().__init__(
            path, ema, evaluate, predict_with, eval_batch_size, max_skips, compile, channels_last, fresh_optimizers
        )
        self.teacher_ckpt, self.teacher_ema = teacher_ckpt, teacher_ema
        faults = self._faults
        faults.finite(teacher_ema=teacher_ema)
        faults.extend(average_faults(self, "teacher"))
        faults.unless(bool(sampling_steps), "sampling_steps must name at least one number of steps, got none")
        for steps in sampling_steps:
            faults.unless(steps >= 1, f"sampling_steps must be at least 1, got {steps}")
        faults.unless(0 <= label_dropout < 1, f"label_dropout must be in [0, 1), got {label_dropout}")
        faults.extend(scale_faults(guidance))
        if label_dropout > 0 or guidance is not None:
            asks = "label_dropout" if label_dropout > 0 else "guidance"
            faults.extend(f"{asks}: {fault}" for fault in null_faults(network))
        self.network = network = trainable(network)
        self.optimizer = optimizer
        self.schedule = schedule or Warmup
        self.solver = solver or Euler()
        self.label_dropout, self.guidance = label_dropout, guidance
        self.sampling_steps = list(sampling_steps)
        faults.extend(optimizer_faults(network, optimizer, self.schedule, closure=True))
        faults.raise_any()
        self.ema = EMA(network, self.ema_decays)

    @property
    def architecture(self) -> nn.Module:
        """The network."""
        return self.network

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The network."""
        return {"network": self.network}

    def _check_sampling(self, faults: Faults) -> None:
        fault = self.solver.fault(self.path) if max(self.sampling_steps) > 1 else None
        faults.unless(fault is None, f"solver: {fault}")

    @property
    def begins_at(self) -> str | None:
        """The file of the teacher that is trained further."""
        return self.teacher_ckpt

    def _begin(self) -> None:
        """Load the teacher that is trained further, if there is one, and let the averages begin there."""
        if self.teacher_ckpt is not None:
            self._load(self.network, self.teacher_ckpt, self.teacher_ema, "teacher")
            self.ema.reset(self.network)

    def draw(self, batch: Batch, rng: torch.Generator, sample_t: Callable[[Tensor], Tensor] | None = None) -> Draws:
        """Make every draw, and of each sample whether it is told its condition."""
        draws = super().draw(batch, rng, sample_t)
        if self.label_dropout == 0:
            return draws
        null = unconditional(self.network, draws.y)
        chance = torch.rand(draws.t.shape, generator=rng, device=self.device, dtype=draws.t.dtype)
        return draws._replace(y=dropped(cast(Condition, draws.y), null, chance < self.label_dropout))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the matching loss of one batch."""
        loss = self.matching_loss(self.draw(batch, self.rng(batch_idx)))
        self.log("train/loss", loss.detach())
        return self.guard.armed(loss)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave out an update that is not finite."""
        norm = gradient_norm(self.network.parameters())
        self.guard.watch("network", norm, optimizer)
        self.log("grad_norm/network", norm)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says; in bf16 fused optimizers, too, which Lightning refuses there as if it scaled."""
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            return Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        return super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def matching_loss(self, batch: Draws) -> Tensor:
        """Return ``E w_t |f(t, xt) - c|^2`` of a batch with every draw made.

        Raises:
            ValueError: If the loader gave no real samples.
        """
        if batch.x1 is None:
            raise ValueError("a teacher trains on real samples: the loader must give x1, got None")
        sample = self.path.sample(batch.t, batch.x0, batch.x1, batch.eps)
        prediction = self.path.predict(self.network, sample.t, sample.xt, batch.y, self.source(batch))
        return matching_loss(prediction, sample.target, self.path.weight(sample.t))

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Make one update and let the averages follow."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        share_buffers([self.network])
        self.ema.update(self.network)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its schedule, stepped once an update."""
        optimizer = self.optimizer(self.network.parameters())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}

    def samplers(self) -> dict[str, Sampler]:
        """Return a multi-step sampler for the raw weights and every average, at every number of steps."""
        suffix = "" if self.guidance is None else f"_guidance_{self.guidance:g}"
        return {
            f"{name}_steps_{steps}{suffix}": self._sampler(network, steps)
            for name, network in {"raw": self.network, **self.ema.named()}.items()
            for steps in self.sampling_steps
        }

    def _sampler(self, network: nn.Module, steps: int) -> Sampler:
        many_steps = ManySteps(network, self.path, steps, self.solver, self.guidance)

        def sample(batch: Batch) -> Tensor:
            assert isinstance(batch.z, torch.Tensor)
            noise = partial(self.noise, batch)
            samples: Tensor = many_steps(batch.z, batch.y, self.source(batch), noise)
            return samples

        return sample
