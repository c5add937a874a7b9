"""Diffusion: a denoiser as target, variance exploding (EDM) or variance preserving by the schedule."""

import math

import torch
from torch import Tensor

from realuid_lightning.errors import Faults
from realuid_lightning.paths.affine import AffinePath, noise_from_denoised, velocity_from_denoised
from realuid_lightning.paths.sample import Samples, Times, expand
from realuid_lightning.paths.schedules import KarrasSchedule, Schedule


class DiffusionPath(AffinePath):
    """``xt = a x1 + b x0`` with target ``c = x1``, in EDM's preconditioning (arXiv 2206.00364, table 1).

    Everything is told in the noise level ``sigma = b / a`` of ``xt / a``, so that one class serves every schedule: the
    variance-exploding one of EDM (``KarrasSchedule``, equal steps of ``t`` are Karras' steps of ``sigma``), the
    variance-preserving one (``VPSchedule``), and yours. The network is given ``log(sigma) / 4`` for its time.

    Args:
        schedule: The coefficients ``a`` and ``b``, with a method ``time``; ``KarrasSchedule`` when None.
        sigma_data: Standard deviation of the data, above 0.
        log_sigma_mean: Mean of ``log sigma`` in training of teacher and fake model.
        log_sigma_std: Its standard deviation, above 0.
        generator_sigma: Noise level at which the one-step generator calls its network, ``G(z) = D(2.5 z, 2.5)`` (SiD,
            arXiv 2404.04057).
        generator_share: The generator's steps draw ``sigma`` between the least level and this share of the way to the
            greatest one, in Karras' scale, uniformly; in (0, 1].

    Raises:
        UserError: If arguments are out of range, listing all of them.
    """

    tuning = frozenset({"log_sigma_mean", "log_sigma_std", "generator_sigma", "generator_share"})

    def __init__(
        self,
        schedule: Schedule | None = None,
        sigma_data: float = 0.5,
        log_sigma_mean: float = -1.2,
        log_sigma_std: float = 1.2,
        generator_sigma: float = 2.5,
        generator_share: float = 0.8,
    ) -> None:
        super().__init__(schedule if schedule is not None else KarrasSchedule())
        ends = torch.tensor(self.t_range, dtype=torch.float64)
        self.schedule.time(ends)  # refuses a schedule that cannot tell
        self.sigma_max, self.sigma_min = self.sigma(ends).tolist()
        self._explodes = not self.schedule(ends).da.any()  # the data keep their scale, noise is added
        faults = Faults("DiffusionPath")
        faults.finite(sigma_data=sigma_data, log_sigma_mean=log_sigma_mean, log_sigma_std=log_sigma_std)
        faults.unless(sigma_data > 0, f"sigma_data must be above 0, got {sigma_data}")
        faults.unless(log_sigma_std > 0, f"log_sigma_std must be above 0, got {log_sigma_std}")
        faults.unless(
            self.sigma_min < generator_sigma <= self.sigma_max * (1 + 1e-9),  # the schedule rounds
            f"generator_sigma must be a noise level of the schedule, {self.sigma_min:.3g} to {self.sigma_max:.3g}, "
            f"got {generator_sigma}",
        )
        faults.unless(0 < generator_share <= 1, f"generator_share must be in (0, 1], got {generator_share}")
        faults.raise_any()
        self.sigma_data = sigma_data
        self.log_sigma_mean, self.log_sigma_std = log_sigma_mean, log_sigma_std
        self.generator_sigma, self.generator_share = generator_sigma, generator_share

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level ``b / a`` at ``t`` (any shape)."""
        a, b, _, _ = self.schedule(t)
        return b / a

    # ------------------------------------------------------------------------------------------------- training

    def _point(self, t: Tensor, x0: Tensor, x1: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        del eps
        return self.mean(t, x0, x1), x1

    def sample_t(self, u: Times) -> Times:
        """Return the times of log-normal noise levels, cut at both ends of ``t_range``."""
        log_sigma = self.log_sigma_mean + self.log_sigma_std * torch.special.ndtri(u)
        return self._time(log_sigma.clamp(math.log(self.sigma_min), math.log(self.sigma_max)).exp())

    def generator_t(self, u: Times) -> Times:
        """Return the times of noise levels that are uniform in Karras' scale (SiD, arXiv 2404.04057, section 4)."""
        low, high = self.sigma_min ** (1 / 7), self.sigma_max ** (1 / 7)
        return self._time((low + self.generator_share * u * (high - low)) ** 7)

    def weight(self, t: Times) -> Times:
        """Return EDM's weight ``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2``."""
        sigma = self.sigma(t)
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def _time(self, sigma: Tensor) -> Tensor:
        return self.schedule.time(sigma).clamp(*self.t_range)

    # ------------------------------------------------------------------------------------------------ prediction

    def inputs(
        self, t: Times, xt: Samples, x0: Samples | None = None, z: Samples | None = None
    ) -> tuple[Times, Samples]:
        """Return ``log(sigma) / 4`` and the point, scaled to unit variance."""
        del x0, z
        a, b, _, _ = self.schedule(t)
        scale = 1 / (a * ((b / a) ** 2 + self.sigma_data**2).sqrt())
        return (b / a).log() / 4, expand(scale, xt) * xt

    def output(self, t: Times, xt: Samples, raw: Samples) -> Samples:
        """Return the denoised sample ``D = c_skip xt / a + c_out raw``."""
        a, b, _, _ = self.schedule(expand(t, xt))
        sigma, total = b / a, (b / a) ** 2 + self.sigma_data**2
        return self.sigma_data**2 / (total * a) * xt + sigma * self.sigma_data / total.sqrt() * raw

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
        """Time of the level ``generator_sigma``."""
        return float(self._time(torch.tensor(self.generator_sigma, dtype=torch.float64)))
