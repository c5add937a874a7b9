"""What every distillation shares: three networks, their start, the training cycle, and generated samples."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from realuid_lightning.checkpoints import RECORD, load_strictly, load_weights
from realuid_lightning.data import Batch, MatchingDataModule
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.modules.base import MatchingModule, Sampler
from realuid_lightning.networks import Frozen, OneStepGenerator, frozen_weights, trainable
from realuid_lightning.networks.ema import EMA
from realuid_lightning.optimizers import RecipeAdam, Warmup, clip_gradients, optimizer_faults
from realuid_lightning.paths import MatchingPath
from realuid_lightning.sharding import share_buffers


class DistillationModule(MatchingModule):
    """Trains a fake model and a generator in turn, beside a frozen teacher; a subclass gives the two losses.

    One training step is one cycle of ``fake_steps`` updates of the fake model ``f`` and one update of the generator
    ``G``, from one batch of ``fake_steps + 1`` micro-batches. So steps, log axis and checkpoints all count generator
    updates.

    Args:
        network: Architecture of teacher, fake model and generator alike.
        teacher_ckpt: Teacher's weights: a checkpoint of ``TeacherModule``, an official ``.pt``, or a state dict. None
            says that ``network`` already holds them.
        teacher_ema: Average of that checkpoint to take, such as 0.9999; the raw weights when None.
        path: The framework that the teacher was trained on; flow matching when None.
        fake_steps: Fake updates per generator update, at least 1.
        fake_init: Start of the fake model: the teacher's weights, or those that ``network`` was built with.
        generator_ckpt: Start of the generator (fine-tuning): a checkpoint of ``RealUIDModule``, or an official ``.pt``;
            the teacher when None.
        generator_ema: Average of that checkpoint to take; the raw weights when None.
        generator_optimizer: Makes the generator's optimizer.
        generator_schedule: Makes its schedule, stepped once a generator update.
        fake_optimizer: Makes the fake model's optimizer.
        fake_schedule: Makes its schedule, stepped once a fake update.
        clip: Greatest gradient norm of each network, above 0; None clips nothing.
        sampling_steps: Network calls that a sample takes, and that the generator trains for; at least 1. Evaluation may
            ask a generator for fewer, a divisor of what it trained for.
        matching: Options of ``MatchingModule``: ``ema`` (decays of the generator's averages, counted in generator
            updates), ``evaluate``, ``compile`` and others.
    """

    role: ClassVar[Literal["generator"]] = "generator"
    averaged: ClassVar[str | None] = "generator"
    fake: nn.Module

    def __init__(
        self,
        network: nn.Module,
        teacher_ckpt: str | None,
        teacher_ema: float | None = None,
        path: MatchingPath | None = None,
        fake_steps: int = 5,
        fake_init: Literal["teacher", "random"] = "teacher",
        generator_ckpt: str | None = None,
        generator_ema: float | None = None,
        generator_optimizer: OptimizerCallable = lambda parameters: RecipeAdam(parameters, lr=3e-5),
        generator_schedule: LRSchedulerCallable = lambda optimizer: Warmup(optimizer, steps=500),
        fake_optimizer: OptimizerCallable = lambda parameters: RecipeAdam(parameters, lr=3e-5),
        fake_schedule: LRSchedulerCallable = lambda optimizer: Warmup(optimizer, steps=500),
        clip: float | None = 1.0,
        sampling_steps: int = 1,
        **matching: Any,
    ) -> None:
        super().__init__(path, **matching)
        faults = Faults(type(self).__name__)
        faults.finite(clip=clip, teacher_ema=teacher_ema, generator_ema=generator_ema)
        faults.unless(fake_steps >= 1, f"fake_steps must be at least 1, got {fake_steps}")
        faults.unless(sampling_steps >= 1, f"sampling_steps must be at least 1, got {sampling_steps}")
        faults.unless(clip is None or clip > 0, f"clip must be above 0, or null for no clipping, got {clip}")
        faults.unless(fake_init in ("teacher", "random"), f"fake_init must be 'teacher' or 'random', got {fake_init!r}")
        faults.unless(
            fake_init == "teacher" or teacher_ckpt is not None,
            "fake_init: random needs a teacher_ckpt, since without one the network's own weights are the teacher",
        )
        faults.unless(teacher_ema is None or teacher_ckpt is not None, "teacher_ema is set, but teacher_ckpt is null")
        faults.unless(
            generator_ema is None or generator_ckpt is not None, "generator_ema is set, but generator_ckpt is null"
        )
        faults.raise_any()
        self.automatic_optimization = False
        self.fake_steps, self.sampling_steps = fake_steps, sampling_steps
        self.fake_init = fake_init
        self.teacher_ckpt, self.teacher_ema = teacher_ckpt, teacher_ema
        self.generator_ckpt, self.generator_ema = generator_ckpt, generator_ema
        self.generator_optimizer, self.generator_schedule = generator_optimizer, generator_schedule
        self.fake_optimizer, self.fake_schedule = fake_optimizer, fake_schedule
        self.clip = clip
        network = trainable(copy.deepcopy(network))  # a teacher that has been evaluated may be frozen
        self.teacher = Frozen(copy.deepcopy(network))
        self.fake = copy.deepcopy(network)
        self.generator = OneStepGenerator(network, self.path, max(sampling_steps, 1))
        self.ema = EMA(self.generator, self.ema_decays)
        self._started = False
        for fault in (
            *optimizer_faults(self.fake, fake_optimizer, fake_schedule, ("fake_optimizer", "fake_schedule")),
            *optimizer_faults(
                self.generator, generator_optimizer, generator_schedule, ("generator_optimizer", "generator_schedule")
            ),
        ):
            faults.unless(False, fault)
        faults.raise_any()

    @property
    def architecture(self) -> nn.Module:
        """The teacher's network."""
        return self.teacher.network

    @property
    def fake_network(self) -> nn.Module:
        """The teacher-shaped network of the fake model, without what a subclass adds to it."""
        return self.fake

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The fake model and the generator."""
        return {"fake": self.fake, "generator": self.generator}

    @property
    def micro_batches(self) -> int:
        """Micro-batches that one training step consumes: one an update."""
        return self.fake_steps + 1

    @abstractmethod
    def fake_loss(self, batch: Batch) -> Tensor:
        """Return what the fake model minimises on a filled batch; no gradient may reach the generator."""

    @abstractmethod
    def generator_loss(self, batch: Batch) -> Tensor:
        """Return what the generator minimises on a filled batch.

        In training the fake model's weights are frozen around this call and its backward pass.
        """

    # ----------------------------------------------------------------------------------------------------- start

    def setup(self, stage: str) -> None:
        """Check the set-up, before any step is made."""
        super().setup(stage)
        strategy = self.trainer.strategy
        if (
            stage == "fit"
            and isinstance(strategy, DDPStrategy)
            and not getattr(strategy, "per_network", False)
            and not strategy._ddp_kwargs.get("find_unused_parameters")
        ):
            # Each backward reaches one of two networks; plain DDP would wait for the other, or send nothing at all.
            raise UserError(
                "trainer.strategy: the fake model and the generator train in turn, which plain ddp can not follow; "
                "set it to ddp_per_network, which sends the gradients of the training network alone, or to "
                "ddp_find_unused_parameters_true, which sends those of both"
            )

    def _check_data(self, data: MatchingDataModule, faults: Faults) -> None:
        super()._check_data(data, faults)
        training = self.trainer.state.fn == "fit"
        faults.unless(
            not training or data.batch_size >= self.sampling_steps,
            f"data.batch_size must be at least sampling_steps {self.sampling_steps}, for each step trains on its part "
            f"of a batch, got {data.batch_size}",
        )

    def on_fit_start(self) -> None:
        """Load the teacher and start both other networks, unless a checkpoint has just filled all three."""
        self.start()
        super().on_fit_start()

    def on_validation_start(self) -> None:
        """Load and start as for training."""
        self.start()

    on_test_start = on_predict_start = on_validation_start

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the checkpoint; it holds every network, so the teacher's own file is not needed."""
        super().on_load_checkpoint(checkpoint)
        trained = checkpoint[RECORD].get("sampling_steps", 1)
        training = self._trainer is not None and self.trainer.state.fn == "fit"
        if trained % self.sampling_steps or (training and trained != self.sampling_steps):
            raise UserError(
                f"ckpt_path: the generator was trained for {trained} sampling_steps, got {self.sampling_steps}: "
                "training goes on with the same number, and evaluation with one that divides it"
            )
        self._started = True

    def start(self) -> None:
        """Load the teacher, and start the fake model and the generator; a second call does nothing.

        Raises:
            UserError: If a checkpoint is missing, broken, of another architecture or of another framework.
        """
        if self._started:
            return
        if self.teacher_ckpt is not None:
            self._load(self.teacher.network, self.teacher_ckpt, self.teacher_ema, "teacher")
        weights = self.teacher.network.state_dict()
        if self.fake_init == "teacher":
            self.fake_network.load_state_dict(weights)
        self.generator.network.load_state_dict(weights)
        if self.generator_ckpt is not None:
            self._load(self.generator.network, self.generator_ckpt, self.generator_ema, "generator")
        self.ema.reset(self.generator)
        self._started = True

    def _load(self, network: nn.Module, file: str, ema: float | None, role: Literal["teacher", "generator"]) -> None:
        weights = load_weights(file, role=role, ema=ema, path=self.path)
        load_strictly(network, weights, f"{role}_ckpt {file}")

    def _record(self) -> dict[str, Any]:
        return {**super()._record(), "sampling_steps": self.sampling_steps}

    # ------------------------------------------------------------------------------------------------- training

    def draw(self, batch: Batch, rng: torch.Generator, sample_t: Callable[[Tensor], Tensor] | None = None) -> Batch:
        """Fill what the loader left open, with the noise of a several-step generator's later steps."""
        batch = super().draw(batch, rng, sample_t)
        if self.sampling_steps == 1 or batch.renoise is not None:
            return batch
        assert batch.z is not None
        shape = (batch.size, self.sampling_steps - 1, *batch.z.shape[1:])
        return batch._replace(renoise=torch.randn(shape, generator=rng, device=self.device, dtype=batch.z.dtype))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Make one cycle: ``fake_steps`` fake updates, each from its own micro-batch, then one generator update."""
        rng = self.rng(batch_idx)
        fake_optimizer, generator_optimizer = cast(list[LightningOptimizer], self.optimizers())
        fake_schedule, generator_schedule = cast(list[LRScheduler], self.lr_schedulers())
        *fake_batches, generator_batch = batch.chunk(self.micro_batches)
        for micro_batch in fake_batches:
            loss = self.fake_loss(self.draw(micro_batch, rng))
            # The bare optimizer: Lightning would count its steps as training steps.
            fake_norm = self._update(fake_optimizer.optimizer, fake_schedule, loss, self.fake)
        fake_loss = loss.detach()
        with frozen_weights(self.fake):
            loss = self.generator_loss(self.draw(generator_batch, rng, self.path.generator_t))
            generator_norm = self._update(generator_optimizer, generator_schedule, loss, self.generator)
        share_buffers(self.trained.values())
        self.ema.update(self.generator)
        self.log_dict({"train/generator_loss": loss.detach(), "train/fake_loss": fake_loss}, prog_bar=True)
        self.log_dict({"grad_norm/generator": generator_norm, "grad_norm/fake": fake_norm})

    def _update(
        self, optimizer: Optimizer | LightningOptimizer, schedule: LRScheduler, loss: Tensor, network: nn.Module
    ) -> Tensor:
        """Make one update of ``network`` and return its gradient norm before clipping."""
        optimizer.zero_grad()  # what the other network's loss might have left, if a subclass lets it
        self.manual_backward(self.guard.armed(loss))
        norm = clip_gradients(network.parameters(), self.clip)
        self.guard.watch("fake" if network is self.fake else "generator", norm, optimizer)
        optimizer.step()
        optimizer.zero_grad()  # memory for the next forward
        schedule.step()
        return norm

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """Return optimizers and schedules of the fake model and the generator, in this order."""
        fake = self.fake_optimizer(self.fake.parameters())
        generator = self.generator_optimizer(self.generator.parameters())
        schedules: Any = [self.fake_schedule(fake), self.generator_schedule(generator)]
        return [fake, generator], schedules

    # ------------------------------------------------------------------------------------------------ evaluation

    def samplers(self) -> dict[str, Sampler]:
        """Return the generator with its raw weights and with every average."""
        generators = {"raw": self.generator, **self.ema.named()}
        return {name: self._sampler(generator) for name, generator in generators.items()}

    def _sampler(self, generator: nn.Module) -> Sampler:
        def sample(batch: Batch) -> Tensor:
            later = [self.noise(batch, step) for step in range(1, self.sampling_steps)]
            renoise = torch.stack(later, 1) if later else None
            samples: Tensor = generator(batch.z, batch.y, self.source(batch), renoise)
            return samples

        return sample
