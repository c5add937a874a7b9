"""Diffusion: a denoiser as target, variance exploding (EDM) or variance preserving by the schedule."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.paths.affine import AffinePath
from realuid_lightning.paths.conversions import noise_from_denoised, velocity_from_denoised
from realuid_lightning.paths.parameterisations import EDM, Parameterisation
from realuid_lightning.paths.sample import Samples, Times, expand
from realuid_lightning.paths.schedules import KarrasSchedule, Schedule
from realuid_lightning.paths.times import KarrasSigma, LogNormalSigma, TimeLaw

MEAN, STD, SIGMA, SHARE = -1.2, 1.2, 2.5, 0.8  # of EDM and SiD; laws and levels of one's own take their place


class DiffusionPath(AffinePath):
    """``xt = a x1 + b x0`` with target ``c = x1``, in EDM's preconditioning (arXiv 2206.00364, table 1).

    Everything is told in the noise level ``sigma = b / a`` of ``xt / a``, so that one class serves every schedule: the
    variance-exploding one of EDM (``KarrasSchedule``, equal steps of ``t`` are Karras' steps of ``sigma``), the
    variance-preserving one (``VPSchedule``), and yours.

    Args:
        schedule: The coefficients ``a`` and ``b``, with a method ``time``; ``KarrasSchedule`` when None.
        sigma_data: Standard deviation of the data, above 0.
        log_sigma_mean: Mean of ``log sigma`` in training of teacher and fake model.
        log_sigma_std: Its standard deviation, above 0.
        generator_sigma: Noise level at which the one-step generator calls its network, ``G(z) = D(2.5 z, 2.5)`` (SiD,
            arXiv 2404.04057).
        generator_share: The generator's steps draw ``sigma`` between the least level and this share of the way to the
            greatest one, in Karras' scale, uniformly; in (0, 1].
        times: Law of the times of teacher and fake model, in place of ``log_sigma_mean`` and ``log_sigma_std``, which
            stand for ``LogNormalSigma``.
        generator_times: Law of the times of the generator's steps, in place of ``generator_share``, which stands for
            ``KarrasSigma``.
        levels: Times at which a generator calls its network, rising, one for each of its ``sampling_steps``, in place
            of equal steps from that of ``generator_sigma``.
        parameterisation: What the network predicts, and how it is told the time; ``EDM(sigma_data)`` when None.
            ``t_range`` leaves out the times that it cannot tell.

    Raises:
        UserError: If arguments are out of range or do not go together, listing all of them.

    Example:
        >>> from realuid_lightning.paths import DDPMSteps, Noise, VPSchedule
        >>> edm = DiffusionPath()
        >>> ddpm = DiffusionPath(VPSchedule(), parameterisation=Noise(time=DDPMSteps()))
    """

    training = AffinePath.training | {"log_sigma_mean", "log_sigma_std", "generator_share"}
    tuning = AffinePath.tuning | training | {"generator_sigma"}

    def __init__(
        self,
        schedule: Schedule | None = None,
        sigma_data: float = 0.5,
        log_sigma_mean: float = MEAN,
        log_sigma_std: float = STD,
        generator_sigma: float = SIGMA,
        generator_share: float = SHARE,
        times: TimeLaw | None = None,
        generator_times: TimeLaw | None = None,
        levels: Sequence[float] | None = None,
        parameterisation: Parameterisation | None = None,
    ) -> None:
        super().__init__(schedule if schedule is not None else KarrasSchedule())
        faults = Faults("DiffusionPath")
        self._use_parameterisation(parameterisation, faults)
        ends = torch.tensor(self.t_range, dtype=torch.float64)
        self.sigma_max, self.sigma_min = self.sigma(ends).tolist()
        self.schedule.time(ends)  # refuses a schedule that cannot tell
        self._explodes = not self.schedule(ends).da.any()  # the data keep their scale, noise is added
        faults.unless(
            math.isfinite(self.sigma_max),
            f"{type(self.schedule).__name__} begins at infinite noise over data: choose KarrasSchedule, VPSchedule, or "
            "FlowMatchingPath",
        )
        faults.finite(sigma_data=sigma_data, log_sigma_mean=log_sigma_mean, log_sigma_std=log_sigma_std)
        faults.unless(sigma_data > 0, f"sigma_data must be above 0, got {sigma_data}")
        faults.unless(log_sigma_std > 0, f"log_sigma_std must be above 0, got {log_sigma_std}")
        faults.unless(
            self.sigma_min < generator_sigma <= self.sigma_max * (1 + 1e-9),  # the schedule rounds
            f"generator_sigma must be a noise level of the schedule, {self.sigma_min:.3g} to {self.sigma_max:.3g}, "
            f"got {generator_sigma}",
        )
        faults.unless(0 < generator_share <= 1, f"generator_share must be in (0, 1], got {generator_share}")
        faults.unless(
            times is None or (log_sigma_mean, log_sigma_std) == (MEAN, STD),
            "times stands in for log_sigma_mean and log_sigma_std: leave one of them out",
        )
        faults.unless(
            generator_times is None or generator_share == SHARE,
            "generator_times stands in for generator_share: leave one of them out",
        )
        faults.unless(
            levels is None or generator_sigma == SIGMA,
            "levels stands in for generator_sigma: leave one of them out",
        )
        self._use_levels(levels, faults)
        faults.raise_any()
        self.sigma_data = sigma_data
        self.log_sigma_mean, self.log_sigma_std = log_sigma_mean, log_sigma_std
        self.generator_sigma, self.generator_share = generator_sigma, generator_share
        self.times = times or LogNormalSigma(log_sigma_mean, log_sigma_std)
        self.generator_times = generator_times or KarrasSigma(generator_share)
        if parameterisation is None:
            self.parameterisation = self._usual_parameterisation()
        self._refuse_wrong_laws()

    def _usual_parameterisation(self) -> Parameterisation:
        return EDM(self.sigma_data)

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level ``b / a`` at ``t`` (any shape)."""
        return self.schedule.sigma(t)

    # ------------------------------------------------------------------------------------------------- training

    def _point(self, t: Tensor, x0: Tensor, x1: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        del eps
        return self.mean(t, x0, x1), x1

    def weight(self, t: Times) -> Times:
        """Return EDM's weight ``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2``."""
        sigma = self.sigma(t)
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    # ------------------------------------------------------------------------------------------------ prediction

    def output(self, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the denoised sample that the bare network's ``raw`` output stands for."""
        return self.parameterisation.denoised(self.schedule, t, xt, raw)

    # -------------------------------------------------------------------------------------------------- sampling

    def velocity(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Return the velocity of the probability-flow ODE."""
        del x0
        return velocity_from_denoised(self.schedule(expand(t, xt)), xt, prediction)

    def flow_step(self, t: Times, s: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Return the point at ``s`` of the same data end and noise: a straight step in the noise level (DDIM)."""
        del x0
        now, then = self.schedule(expand(t, xt)), self.schedule(expand(s, xt))
        return then.a * prediction + then.b * noise_from_denoised(now, xt, prediction)

    def slope(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Return the derivative of ``xt`` by the time of EDM's algorithm 1 (arXiv 2206.00364, table 1).

        That is ``sigma`` where the variance explodes, and the derivative the noise; else the time of the schedule.
        """
        if not self._explodes:
            return super().slope(t, xt, prediction, x0)
        return noise_from_denoised(self.schedule(expand(t, xt)), xt, prediction)

    def advance(self, t: Times, s: Times, xt: Samples, slope: Samples) -> Samples:
        """Carry ``xt`` from ``t`` to ``s`` by a straight step in that time."""
        if not self._explodes:
            return super().advance(t, s, xt, slope)
        return xt + (self.schedule(expand(s, xt)).b - self.schedule(expand(t, xt)).b) * slope

    def denoise(self, t: Times, xt: Samples, prediction: Samples, x0: Samples | None = None) -> Samples:
        """Return the prediction, which is the denoised sample."""
        del t, xt, x0
        return prediction

    @property
    def generator_start(self) -> float:
        """Time of the first own level, or of the noise level ``generator_sigma``."""
        if self.generator_steps is not None:
            return super().generator_start
        start = self.schedule.time(torch.tensor(self.generator_sigma, dtype=torch.float64))
        return float(start.clamp(*self.t_range))
