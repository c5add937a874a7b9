"""Distillation: teacher, fake model and generator in one min-max game (RealUID, arXiv 2509.22459)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from realuid_lightning.checkpoints import RECORD
from realuid_lightning.data import Batch, Draws, MatchingDataModule
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.guidance import drawn_scale, guided, null_faults
from realuid_lightning.lightning_internals import trainer_of
from realuid_lightning.modules.base import MatchingModule
from realuid_lightning.modules.checks import disagreements, distillation_faults, part_faults, turn_faults
from realuid_lightning.modules.generation import Sampler, later_noise
from realuid_lightning.modules.roles import Role, alike, begin_at, cast_roles, objective_of
from realuid_lightning.networks import LoRA, bare, frozen_weights, own_weights, shares_weights, unconditional
from realuid_lightning.networks.ema import EMA
from realuid_lightning.objectives import GAN, Divergence, Game, Objective
from realuid_lightning.optimizers import RecipeAdam, Warmup, clip_gradients, optimizer_faults
from realuid_lightning.paths import MatchingPath, PathSample
from realuid_lightning.recorded import Recorded
from realuid_lightning.sharding import share_buffers


class RealUIDModule(MatchingModule):
    """Distils a frozen teacher into a one-step generator, with real data in the loss when alpha or beta is not 1.

    An ``objective`` says what both players minimise; ``alpha``, ``beta``, ``gamma``, ``divergence`` and ``gan`` are
    shorthands for ``RealUID(alpha, beta, gamma, divergence)``, or ``Adversarial`` of that and ``gan``. A new objective
    is an ``Objective``, or overrides ``fake_loss`` or ``generator_loss``; a new framework is a ``MatchingPath``.

    One training step is one cycle of ``fake_steps`` updates of the fake model ``f`` and one update of the generator
    ``G``, from one batch of ``fake_steps + 1`` micro-batches. So steps, log axis and checkpoints all count generator
    updates.

    Args:
        network: Architecture of the teacher, and of fake model and generator unless they have their own.
        teacher_ckpt: Teacher's weights: a checkpoint of ``TeacherModule``, an official ``.pt``, or a state dict. None
            says that ``network`` already holds them.
        alpha: Weight of generated samples in the fake model's squares, in (0, 1].
        beta: Weight of generated samples in the fake model's targets; alpha = beta = 1 needs no real data (UID, FGM).
        gamma: Third coefficient of general RealUID; None stands for alpha, which is RealUID.
        divergence: What the generator minimises; ``SquaredDistance``, which is RealUID, when None.
        gan: Adds a discriminator on the fake model's middle block; none when None.
        objective: The whole method, in place of the five arguments before.
        teacher_ema: Average of the teacher's checkpoint to take, such as 0.9999; the raw weights when None.
        path: The framework that the teacher was trained on; flow matching when None.
        fake_steps: Fake updates per generator update, at least 1.
        fake_network: Architecture of the fake model; the teacher's when None; ``LoRA`` for adapters on the weights of
            the teacher, at which it then begins.
        fake_init: Start of the fake model: the teacher's weights, or those that its network was built with.
        fake_frozen: Shell-style patterns of names of the fake model's weights that stay as they start.
        generator_network: Architecture of the generator, likewise.
        generator_init: Start of the generator: the teacher's weights, or those that its network was built with.
        generator_ckpt: Start of the generator (fine-tuning): a checkpoint of this class, or an official ``.pt``;
            ``generator_init`` says when None.
        generator_ema: Average of that checkpoint to take; the raw weights when None.
        generator_frozen: Shell-style patterns of names of the generator's weights that stay as they start.
        generator_optimizer: Makes the generator's optimizer.
        generator_schedule: Makes its schedule, stepped once a generator update; None keeps the rate.
        fake_optimizer: Makes the fake model's optimizer.
        fake_schedule: Makes its schedule, stepped once a fake update; None keeps the rate.
        clip: Greatest gradient norm of each network, above 0; None clips nothing.
        accumulate: Parts that the batch of an update is split into, one after the other, to spare memory; draws and
            gradients are those of the whole. At least 1.
        guidance: Scale of the teacher's classifier-free guidance, which the generator learns for good: a number, or the
            ends of a range from which every sample of a batch draws its own. The teacher is then called for two samples
            in place of one, and must know no condition (``label_dropout``). None guides nothing, and saves that.
        guide_fake: Guide the fake model as the teacher, in its own training too (long and short guidance, SiD-LSG,
            arXiv 2406.01561); else the teacher alone.
        sampling_steps: Network calls that a sample takes, and that the generator trains for; at least 1. Evaluation may
            ask a generator for fewer, a divisor of what it trained for.
        ema: Decays of the generator's averages, counted in generator updates, each in [0, 1).
        evaluate: As in ``MatchingModule``, like all that follow.
        predict_with: As there.
        eval_batch_size: As there.
        max_skips: As there.
        compile: As there.
        channels_last: As there.
        fresh_optimizers: As there.

    Raises:
        UserError: If arguments are out of range or do not go together, listing all of them.

    Example:
        >>> from realuid_lightning.networks import MLP
        >>> teacher = MLP([2], width=32)
        >>> module = RealUIDModule(teacher, teacher_ckpt=None, alpha=0.98, beta=0.96)
        >>> module.generator(torch.randn(5, 2)).shape
        torch.Size([5, 2])
    """

    role: ClassVar[Literal["generator"]] = "generator"
    averaged: ClassVar[str | None] = "generator"
    fake: nn.Module

    def __init__(
        self,
        network: nn.Module,
        teacher_ckpt: str | None,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float | None = None,
        divergence: Divergence | None = None,
        gan: GAN | None = None,
        objective: Objective | None = None,
        teacher_ema: float | None = None,
        path: MatchingPath | None = None,
        fake_steps: int = 5,
        fake_network: nn.Module | LoRA | None = None,
        fake_init: Literal["teacher", "random"] = "teacher",
        fake_frozen: Sequence[str] = (),
        generator_network: nn.Module | LoRA | None = None,
        generator_init: Literal["teacher", "random"] = "teacher",
        generator_ckpt: str | None = None,
        generator_ema: float | None = None,
        generator_frozen: Sequence[str] = (),
        generator_optimizer: OptimizerCallable = lambda parameters: RecipeAdam(parameters, lr=3e-5),
        generator_schedule: LRSchedulerCallable | None = lambda optimizer: Warmup(optimizer, steps=500),
        fake_optimizer: OptimizerCallable = lambda parameters: RecipeAdam(parameters, lr=3e-5),
        fake_schedule: LRSchedulerCallable | None = lambda optimizer: Warmup(optimizer, steps=500),
        clip: float | None = 1.0,
        accumulate: int = 1,
        guidance: float | tuple[float, float] | None = None,
        guide_fake: bool = False,
        sampling_steps: int = 1,
        ema: list[float] = [0.999],  # noqa: B006 - the default is shown by --help; never mutated
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
        self.automatic_optimization = False
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.teacher_ckpt, self.teacher_ema = teacher_ckpt, teacher_ema
        self.generator_ckpt, self.generator_ema = generator_ckpt, generator_ema
        self.fake_init, self.generator_init = fake_init, generator_init
        self.generator_optimizer, self.generator_schedule = generator_optimizer, generator_schedule or Warmup
        self.fake_optimizer, self.fake_schedule = fake_optimizer, fake_schedule or Warmup
        self.fake_steps, self.sampling_steps, self.accumulate, self.clip = fake_steps, sampling_steps, accumulate, clip
        self.guidance, self.guide_fake = guidance, guide_fake
        faults = self._faults
        faults.finite(clip=clip, teacher_ema=teacher_ema, generator_ema=generator_ema)
        faults.extend(distillation_faults(self))
        chosen = faults.attempt(lambda: objective_of(objective, alpha, beta, gamma, divergence, gan))
        fake = Role("fake", fake_network, fake_init, fake_frozen)
        start = generator_init if generator_ckpt is None else "file"
        generator = Role("generator", generator_network, start, generator_frozen)
        # Where coefficients are refused, all else is checked with those of UID.
        checked = chosen or objective or objective_of(None, 1.0, 1.0, None, divergence, gan)
        given = teacher_ckpt is not None
        faults.unless(
            not (compile and checked.differentiates),
            f"compile: true does not go with {type(checked).__name__}, which differentiates the fake model twice: set "
            "it to false",
        )
        roles = faults.attempt(
            lambda: cast_roles(network, (fake, generator), checked, self.path, sampling_steps, given)
        )
        if guidance is not None:
            faults.extend(f"guidance: {fault}" for fault in null_faults(network))
            fake_needs = null_faults(fake_network) if guide_fake and isinstance(fake_network, nn.Module) else ()
            faults.extend(f"guide_fake: {fault}" for fault in fake_needs)
        if roles is not None:
            self.teacher, self.fake, self.generator = roles
            fake_names, generator_names = ((f"{each}_optimizer", f"{each}_schedule") for each in ("fake", "generator"))
            faults.extend(optimizer_faults(self.fake, fake_optimizer, self.fake_schedule, fake_names))
            faults.extend(
                optimizer_faults(self.generator, generator_optimizer, self.generator_schedule, generator_names)
            )
        faults.raise_any()
        assert chosen is not None
        self.objective = chosen
        self.ema = EMA(self.generator, self.ema_decays, shared=self.teacher.parameters())

    @property
    def architecture(self) -> nn.Module:
        """The teacher's network."""
        return self.teacher.network

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The fake model and the generator."""
        return {"fake": self.fake, "generator": self.generator}

    @property
    def partly_trained(self) -> frozenset[str]:
        """The fake model, where the objective does not train all of it at every step."""
        return frozenset({"fake"}) if self.objective.trains_partly else frozenset()

    @property
    def micro_batches(self) -> int:
        """Micro-batches that one training step consumes: one an update."""
        return self.fake_steps + 1

    # ---------------------------------------------------------------------------------------------------- losses

    def fake_loss(self, batch: Draws) -> Tensor:
        """Return what the fake model minimises; no gradient reaches the generator.

        Args:
            batch: One micro-batch, with every draw made.
        """
        with torch.no_grad():
            x1 = self.generated(batch)
        game = self.game(batch, x1)
        self.objective.prepare_fake(game)
        return self.objective.fake(game)

    def generator_loss(self, batch: Draws) -> Tensor:
        """Return what the generator minimises; gradients flow through its samples, ``xt`` and the target.

        In training the fake model's weights are frozen around this call and its backward pass. An override stands in
        for the objective; ``super().generator_loss(batch)`` keeps it.

        Args:
            batch: One micro-batch, with every draw made.
        """
        game = self.game(batch, self.generated(batch))
        self.objective.prepare_generator(game)
        return self.objective.generator(game)

    def game(self, batch: Draws, x1: Tensor) -> Game:
        """Return what an objective plays on: the batch and the generator's samples ``x1`` of it, ``(B, *D)``."""
        return Game(self.path, self.teacher, self.fake, batch, x1, self.global_step)

    def generated(self, batch: Draws) -> Tensor:
        """Return the generator's samples, ``(B, *D)``."""
        return self.generator.rollout(batch.z, batch.y, self.source(batch), batch.renoise)

    def sample(self, batch: Draws, x1: Tensor, t: Tensor | None = None) -> PathSample:
        """Return the point of the path towards ``x1`` at the batch's times, or at ``t``; with the batch's noise."""
        return self.path.sample(batch.t if t is None else t, batch.x0, x1, batch.eps)

    def predict(self, network: nn.Module, sample: PathSample, batch: Draws) -> Tensor:
        """Return a network's prediction of the target at a point of the path, ``(B, *D)``; guided as the batch says."""
        scale = batch.guidance if network is self.teacher else batch.fake_guidance if network is self.fake else None
        led = guided(network, scale, batch.null)
        return self.path.predict(led, sample.t, sample.xt, batch.y, self.source(batch))

    # ------------------------------------------------------------------------------------------------- training

    def draw(self, batch: Batch, rng: torch.Generator, sample_t: Callable[[Tensor], Tensor] | None = None) -> Draws:
        """Make every draw, with those of several steps, of objectives with times of their own, and of guidance."""
        draws = super().draw(batch, rng, sample_t)
        if self.sampling_steps > 1:
            shape = (draws.size, self.sampling_steps - 1, *draws.z.shape[1:])
            draws = draws._replace(renoise=torch.randn(shape, generator=rng, device=self.device, dtype=draws.z.dtype))
        if self.objective.looks_elsewhere:
            u = torch.rand(draws.t.shape, generator=rng, device=self.device, dtype=draws.t.dtype)
            draws = draws._replace(u=u)
        if self.guidance is not None:
            scale = drawn_scale(self.guidance, draws.t, rng)
            null = unconditional(self.architecture, draws.y)
            draws = draws._replace(guidance=scale, fake_guidance=scale if self.guide_fake else None, null=null)
        return draws

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Make one cycle: ``fake_steps`` fake updates, each from its own micro-batch, then one generator update."""
        rng = self.rng(batch_idx)
        fake_optimizer, generator_optimizer = cast(list[LightningOptimizer], self.optimizers())
        fake_schedule, generator_schedule = cast(list[LRScheduler], self.lr_schedulers())
        *fake_batches, generator_batch = batch.chunk(self.micro_batches)
        for fake_batch in fake_batches:
            draws = self.draw(fake_batch, rng)
            # The bare optimizer: Lightning would count its steps as training steps.
            fake_loss, fake_norm = self._turn(fake_optimizer.optimizer, fake_schedule, self.fake_loss, draws, self.fake)
        draws = self.draw(generator_batch, rng, self.path.generator_t)
        with frozen_weights(self.fake):
            generator_loss, generator_norm = self._turn(
                generator_optimizer, generator_schedule, self.generator_loss, draws, self.generator
            )
        share_buffers(self.trained.values())
        self.ema.update(self.generator)
        self.log_dict({"train/generator_loss": generator_loss, "train/fake_loss": fake_loss})
        self.log_dict({"grad_norm/generator": generator_norm, "grad_norm/fake": fake_norm})

    def _turn(
        self,
        optimizer: Optimizer | LightningOptimizer,
        schedule: LRScheduler,
        loss: Callable[[Draws], Tensor],
        draws: Draws,
        network: nn.Module,
    ) -> tuple[Tensor, Tensor]:
        """Make one update of ``network``, part by part of its batch; return its loss and gradient norm."""
        optimizer.zero_grad()  # what the other network's loss might have left, if a subclass lets it
        total: Tensor | float = 0.0
        *earlier, last = draws.interleaved(self.accumulate)
        for part in earlier:
            with self._gradients_kept():
                value = loss(part) / self.accumulate
                self.manual_backward(self.guard.armed(value))
            total = total + value.detach()
        value = loss(last) if not earlier else loss(last) / self.accumulate
        norm = self._update(optimizer, schedule, value, network)
        return total + value.detach(), norm

    def _update(
        self, optimizer: Optimizer | LightningOptimizer, schedule: LRScheduler, loss: Tensor, network: nn.Module
    ) -> Tensor:
        """Add a loss's gradients, make one update of ``network``, and return its gradient norm before clipping."""
        self.manual_backward(self.guard.armed(loss))
        norm = clip_gradients(network.parameters(), self.clip)
        self.guard.watch("fake" if network is self.fake else "generator", norm, optimizer)
        optimizer.step()
        optimizer.zero_grad()  # memory for the next forward
        schedule.step()
        return norm

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """Return optimizers and schedules of the fake model and the generator, in this order."""
        fake = self.fake_optimizer(own_weights(self.fake, self.teacher))
        generator = self.generator_optimizer(own_weights(self.generator, self.teacher))
        schedules: Any = [self.fake_schedule(fake), self.generator_schedule(generator)]
        return [fake, generator], schedules

    # ----------------------------------------------------------------------------------------------------- start

    def setup(self, stage: str) -> None:
        """Check the set-up, before any step is made."""
        super().setup(stage)
        if stage == "fit":
            faults = Faults(type(self).__name__)
            faults.extend(turn_faults(self.trainer, self.objective.differentiates))
            faults.raise_any()

    def _check_data(self, data: MatchingDataModule, faults: Faults) -> None:
        super()._check_data(data, faults)
        for role, network in {"fake_network": bare(self.fake), "generator_network": self.generator.network}.items():
            if not (shares_weights(network, self.teacher) or alike(network, self.teacher.network)):
                faults.extend(f"{role}: {fault}" for fault in disagreements(network, self.path, data))
        if self.trainer.state.fn == "fit":
            faults.extend(part_faults(self, data))

    def _begin(self) -> None:
        """Load the teacher, and start the fake model and the generator."""
        if self.teacher_ckpt is not None:
            self._load(self.teacher.network, self.teacher_ckpt, self.teacher_ema, "teacher")
        if self.fake_init == "teacher":
            begin_at(self.teacher.network, bare(self.fake))
        if self.generator_ckpt is not None:
            self._load(self.generator.network, self.generator_ckpt, self.generator_ema, "generator")
        elif self.generator_init == "teacher":
            begin_at(self.teacher.network, self.generator.network)
        self.ema.reset(self.generator)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the checkpoint, and that its generator makes as many steps."""
        super().on_load_checkpoint(checkpoint)
        trained = checkpoint[RECORD].get("sampling_steps", 1)
        trainer = trainer_of(self)
        training = trainer is not None and trainer.state.fn == "fit"
        if trained % self.sampling_steps or (training and trained != self.sampling_steps):
            raise UserError(
                f"ckpt_path: the generator was trained for {trained} sampling_steps, got {self.sampling_steps}: "
                "training goes on with the same number, and evaluation with one that divides it"
            )

    def _record(self) -> dict[str, Any]:
        made = self.generator.network
        network = made.recorded() if isinstance(made, Recorded) else None
        return {**super()._record(), "network": network, "sampling_steps": self.sampling_steps}

    # ------------------------------------------------------------------------------------------------ evaluation

    @property
    def begins_at(self) -> str | None:
        """The file of the generator that is fine-tuned."""
        return self.generator_ckpt

    def samplers(self) -> dict[str, Sampler]:
        """Return the generator with its raw weights and with every average."""
        generators = {"raw": self.generator, **self.ema.named()}
        return {name: self._sampler(generator) for name, generator in generators.items()}

    def _sampler(self, generator: nn.Module) -> Sampler:
        def sample(batch: Batch) -> Tensor:
            renoise = later_noise(partial(self.noise, batch), self.sampling_steps)
            samples: Tensor = generator(batch.z, batch.y, self.source(batch), renoise)
            return samples

        return sample
