"""RealUID distillation: teacher, fake model and one-step generator in one min-max game (arXiv 2509.22459)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from realuid_lightning.data import Batch
from realuid_lightning.errors import Faults, UserError, gathering_faults
from realuid_lightning.losses import (
    GAN,
    Divergence,
    GeneratorStep,
    SquaredDistance,
    adversarial_generator_loss,
    discriminator_loss,
    fake_loss,
    general_fake_loss,
    general_generator_loss,
    needs_real,
)
from realuid_lightning.modules.distillation import DistillationModule
from realuid_lightning.networks import HeadedNetwork
from realuid_lightning.paths import PathSample


class RealUIDModule(DistillationModule):
    """Distils a frozen teacher into a one-step generator, with real data in the loss when alpha or beta is not 1.

    ``min_G max_f L_R(f*; G) - L_R(f; G)``. The coefficients give UID and FGM (alpha = beta = 1) and RealUID; on a
    ``BridgePath`` the same is IBMD; ``divergence`` replaces the squared distance (SiD, SIM, DMD, the norm itself); and
    ``gan`` adds a discriminator. A new objective overrides ``fake_loss`` or ``generator_loss``; a new framework is a
    ``MatchingPath``.

    Args:
        network: Architecture of teacher, fake model and generator alike.
        teacher_ckpt: Teacher's weights: a checkpoint of ``TeacherModule``, an official ``.pt``, or a state dict. None
            says that ``network`` already holds them.
        alpha: Weight of generated samples in the fake model's squares, in (0, 1].
        beta: Weight of generated samples in the fake model's targets; alpha = beta = 1 needs no real data (UID, FGM).
        gamma: Third coefficient of general RealUID; None stands for alpha, which is RealUID.
        divergence: What the generator minimises; ``SquaredDistance``, which is RealUID, when None.
        gan: Adds a discriminator on the fake model's middle block; none when None.
        distillation: The arguments of ``DistillationModule``.

    Raises:
        UserError: If arguments are out of range or do not go together, listing all of them.
    """

    def __init__(
        self,
        network: nn.Module,
        teacher_ckpt: str | None,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float | None = None,
        divergence: Divergence | None = None,
        gan: GAN | None = None,
        **distillation: Any,
    ) -> None:
        with gathering_faults():
            super().__init__(network, teacher_ckpt, **distillation)
            self.alpha, self.beta = alpha, beta
            self.gamma = None if gamma == alpha else gamma  # which is the same, without the teacher's fake steps
            self.divergence = divergence if divergence is not None else SquaredDistance()
            self.gan = gan
            self._check_objective()
            if gan is not None:
                self.fake = HeadedNetwork(self.fake)

    def _check_objective(self) -> None:
        faults, name = Faults("RealUIDModule"), type(self.divergence).__name__
        faults.finite(alpha=self.alpha, beta=self.beta, gamma=self.gamma)
        faults.unless(0 < self.alpha <= 1, f"alpha must be in (0, 1], got {self.alpha}")
        faults.unless(
            self.gamma is None or isinstance(self.divergence, SquaredDistance),
            f"gamma belongs to the squared distance, but divergence is {name}: leave one of them out",
        )
        everywhere = self.gan is not None and self.gan.t_range == (0.0, 1.0)
        faults.unless(
            not self.divergence.needs_logits or everywhere,
            f"divergence {name} reads density ratios off a discriminator that has learnt them at all times: set "
            "gan to GAN with t_range [0, 1]",
        )
        if self.divergence.needs_signal_to_noise:
            try:
                self.path.signal_to_noise(torch.tensor([self.path.generator_start]))
            except UserError as error:
                faults.unless(False, str(error))
        faults.raise_any()

    @property
    def fake_network(self) -> nn.Module:
        """The teacher-shaped network of the fake model, without the discriminator's head."""
        return self.fake.network if isinstance(self.fake, HeadedNetwork) else self.fake

    @property
    def matches_real(self) -> bool:
        """Whether the fake model is matched to real samples at these coefficients."""
        return needs_real(self.alpha, self.beta, self.alpha if self.gamma is None else self.gamma)

    # ------------------------------------------------------------------------------------------- parts of a loss

    def draw(self, batch: Batch, rng: torch.Generator, sample_t: Callable[[Tensor], Tensor] | None = None) -> Batch:
        """Fill what the loader left open, with the times at which the discriminator looks."""
        batch = super().draw(batch, rng, sample_t)
        if self.gan is None or batch.t_judged is not None:
            return batch
        assert batch.t is not None
        u = torch.rand(batch.t.shape, generator=rng, device=self.device, dtype=batch.t.dtype)
        return batch._replace(t_judged=self.gan.times(u, self.path.t_range))

    def generated(self, batch: Batch) -> Tensor:
        """Return the generator's samples of a filled batch, ``(B, *D)``."""
        assert batch.z is not None
        return self.generator.practise(batch.z, batch.y, self.source(batch), batch.renoise)

    def sample(self, batch: Batch, x1: Tensor, t: Tensor | None = None) -> PathSample:
        """Return the point of the path towards ``x1`` at the batch's times, or at ``t``; with the batch's noise."""
        assert batch.t is not None
        assert batch.x0 is not None
        return self.path.sample(batch.t if t is None else t, batch.x0, x1, batch.eps)

    def predict(self, network: nn.Module, sample: PathSample, batch: Batch) -> Tensor:
        """Return a network's prediction of the target at a point of the path, ``(B, *D)``."""
        return self.path.predict(network, sample.t, sample.xt, batch.y, self.source(batch))

    def _joined(self, batch: Batch, samples: list[PathSample]) -> tuple[PathSample, Batch]:
        """Return several draws of one batch in a row, and a batch with the labels and sources that belong to them."""
        if len(samples) == 1:
            return samples[0], batch
        y, x0 = (
            None if field is None else torch.cat([field] * len(samples)) for field in (batch.y, self.source(batch))
        )
        t, xt, target = (torch.cat(parts) for parts in zip(*samples, strict=True))
        return PathSample(t, xt, target), Batch(y=y, x0=x0)

    # ---------------------------------------------------------------------------------------------------- losses

    def fake_loss(self, batch: Batch) -> Tensor:
        """Return what the fake model minimises on a filled batch; no gradient reaches the generator.

        Args:
            batch: One micro-batch, as ``draw`` fills it.
        """
        with torch.no_grad():
            x1 = self.generated(batch)
            matched = [self.sample(batch, x1)]
        if self.matches_real:
            assert batch.x1 is not None
            matched.append(self.sample(batch, batch.x1))
        if self.gan is None:
            sample, rows = self._joined(batch, matched)
            return self._matching_loss(matched, self.predict(self.fake, sample, rows), batch)
        prediction, logits = self._judged(batch, matched, x1)
        judged = discriminator_loss(*logits.chunk(2))
        return self._matching_loss(matched, prediction, batch) + self.gan.discriminator_weight * judged

    def _judged(self, batch: Batch, matched: list[PathSample], x1: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions at ``matched``, and logits of generated and real samples, by one forward."""
        assert batch.x1 is not None
        ends = [self.sample(batch, end, batch.t_judged) for end in (x1, batch.x1)]
        everything, rows = self._joined(batch, [*matched, *ends])
        t, xt, _ = everything
        time, point = self.path.inputs(t, xt, rows.x0)
        raw, logits = self.fake(time, point, rows.y, judged=2 * batch.size)
        return self.path.output(t[: len(raw)], xt[: len(raw)], raw), logits

    def _matching_loss(self, matched: list[PathSample], prediction: Tensor, batch: Batch) -> Tensor:
        """Return the fake model's part of RealUID, given its predictions on the generated and the real half."""
        generated, real = matched[0], matched[-1]
        weight = self.path.weight(generated.t)
        if not self.matches_real:
            return fake_loss(prediction, generated.target, None, None, alpha=1.0, beta=1.0, weight=weight)
        halves = prediction.chunk(2)
        if self.gamma is None:
            return fake_loss(
                halves[0], generated.target, halves[1], real.target, alpha=self.alpha, beta=self.beta, weight=weight
            )
        with torch.no_grad():
            teacher = self.predict(self.teacher, *self._joined(batch, matched)).chunk(2)
        return general_fake_loss(
            halves[0],
            teacher[0],
            generated.target,
            halves[1],
            teacher[1],
            real.target,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            weight=weight,
        )

    def generator_loss(self, batch: Batch) -> Tensor:
        """Return what the generator minimises on a filled batch; gradients flow through ``xt`` and the target.

        In training the fake model's weights are frozen around this call and its backward pass. An override stands in
        for ``divergence``, ``gamma`` and ``gan`` too; ``super().generator_loss(batch)`` keeps them.

        Args:
            batch: One micro-batch, as ``draw`` fills it.
        """
        x1 = self.generated(batch)
        sample = self.sample(batch, x1)
        with torch.set_grad_enabled(self.divergence.through_networks and torch.is_grad_enabled()):
            teacher = self.predict(self.teacher, sample, batch)
            fake = self.predict(self.fake, sample, batch)
            logits = self._logits(sample, batch) if self.divergence.needs_logits else None
        weight = self.path.weight(sample.t)
        if self.gamma is not None:
            loss = general_generator_loss(
                teacher, fake, sample.target, alpha=self.alpha, beta=self.beta, gamma=self.gamma, weight=weight
            )
        else:

            def denoise(prediction: Tensor) -> Tensor:
                return self.path.denoise(sample.t, sample.xt, prediction, self.source(batch))

            ratio = self.path.signal_to_noise(sample.t) if self.divergence.needs_signal_to_noise else None
            step = GeneratorStep(x1, sample.target, teacher, fake, denoise, weight, logits, ratio)
            loss = self.divergence.loss(step, alpha=self.alpha, beta=self.beta)
        if self.gan is None:
            return loss
        logits = self._logits(self.sample(batch, x1, batch.t_judged), batch)
        return loss + self.gan.generator_weight * adversarial_generator_loss(logits)

    def _logits(self, sample: PathSample, batch: Batch) -> Tensor:
        """Return the discriminator's logits, ``(B,)``."""
        time, point = self.path.inputs(sample.t, sample.xt, self.source(batch))
        logits: Tensor = self.fake(time, point, batch.y, judged=len(point))[1]
        return logits
