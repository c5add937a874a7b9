"""Where on the path a distillation still differs from its teacher: curves by time, beside every validation."""

import math
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from realuid_lightning.data import Batch, Draws
from realuid_lightning.errors import Faults
from realuid_lightning.evaluation.figures import record
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import frozen_weights
from realuid_lightning.seeding import global_seed, keyed_generator

TIMES = 0x71BE5
GOLDEN = (math.sqrt(5) - 1) / 2
CURVES = ("gap", "fake_residual", "real_residual", "gradient")


class TimeCurves(Callback):
    """Asks teacher and fake model, at each validation of a training, how they do in every part of the path.

    The generator's samples, and as many real ones, are those of the last training batch; each is led to a time in each
    of ``bins`` equal parts of the path's time range. Training waits as long as for a few steps, and draws what it would
    have drawn. Logged as ``time/CURVE/MIDDLE`` (``time/gap/0.95``), and added to ``times.jsonl`` in the run folder:

    - ``gap``: ``|f* - f|^2 / |f*|^2``, by which generated samples still differ from the teacher's, where the fake model
      is right. What is as fine as ``s`` shows where the noise level is no greater: on the flow path, from ``1 - s`` on.
    - ``fake_residual``: ``|f - c|^2`` a generated sample. Beside that of earlier validations: whether the fake model
      follows.
    - ``real_residual``: ``|f* - c|^2`` a real sample, of the teacher; only where training is given real samples.
    - ``gradient``: norm of the generator's loss' gradient by a sample ``x1``, on average: which times move it.

    Args:
        bins: Number of parts, at least 1.
        count: Greatest number of samples of each process; at most as many as a pass of training has.

    Raises:
        UserError: If an argument is below 1; all faults at once.
    """

    def __init__(self, bins: int = 10, count: int = 256) -> None:
        faults = Faults("TimeCurves")
        faults.unless(bins >= 1, f"bins must be at least 1, got {bins}")
        faults.unless(count >= 1, f"count must be at least 1, got {count}")
        faults.raise_any()
        self.bins, self.count = bins, count
        self._batch: Batch | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep hold of the batch: validation comes next, if it comes."""
        del trainer, pl_module, outputs, batch_idx
        self._batch = batch

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the batch."""
        del trainer, pl_module
        self._batch = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, log and store the curves; without a training batch, as in ``validate``, there are none."""
        if self._batch is None or trainer.sanity_checking or not isinstance(pl_module, RealUIDModule):
            return
        with torch.inference_mode(False), torch.enable_grad(), trainer.precision_plugin.forward_context():
            sums = torch.stack([self._sums(pl_module, draws) for draws in self._draws(pl_module, self._batch)])
        gap, norm, fake, real, gradient, count = trainer.strategy.reduce(sums, reduce_op="sum").unbind(1)
        values = (gap / norm.clamp(min=1e-24), fake / count, real / count, gradient / count)
        curves = {name: curve.tolist() for name, curve in zip(CURVES, values, strict=True) if curve.isfinite().any()}
        start, end = pl_module.path.t_range
        middles = [start + (end - start) * (part + 0.5) / self.bins for part in range(self.bins)]
        for name, curve in curves.items():
            named = {f"time/{name}/{t:.4g}": value for t, value in zip(middles, curve, strict=True)}
            pl_module.log_dict(named, sync_dist=True)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            record(trainer, "times.jsonl", {"step": pl_module.steps_made, "bins": middles, **curves})

    def _draws(self, module: RealUIDModule, batch: Batch) -> list[Draws]:
        """Return the same draws at a time of every part of the path."""
        last = batch.chunk(module.micro_batches)[-1]
        fitting = -(-last.size // module.accumulate)  # as many as a pass of training holds
        last = last.rows(slice(min(self.count, fitting)))
        rng = keyed_generator(global_seed(), TIMES, module.global_step, module.global_rank, device=module.device)
        draws = module.draw(last, rng)
        # Evenly within each part (Weyl's sequence), over all processes as over one.
        place = module.global_rank * draws.size + torch.arange(draws.size, device=module.device)
        share = (place * GOLDEN % 1).to(draws.t)
        start, end = module.path.t_range
        return [draws._replace(t=start + (end - start) * (part + share) / self.bins) for part in range(self.bins)]

    def _sums(self, module: RealUIDModule, draws: Draws) -> Tensor:
        """Return sums over this process' samples, which processes may add; NaN for those of real samples without any.

        Squared gap and squared prediction of the teacher, residuals, gradient norms, and the number of samples.
        """
        with torch.no_grad():
            x1 = module.generated(draws)
        x1.requires_grad_()
        with frozen_weights(module.fake):
            game = module.game(draws, x1)
            module.objective.prepare_generator(game)
            (gradient,) = torch.autograd.grad(module.objective.generator(game), x1)
        with torch.no_grad():
            point = game.generated
            teacher, fake = game.teacher(point), game.fake(point)
            real = torch.full((), torch.nan, device=x1.device)
            if draws.x1 is not None:
                real = _squares(game.teacher(game.real) - game.real.target)
            gaps, residuals = _squares(teacher - fake), _squares(fake - point.target)
            norms = draws.size * gradient.float().flatten(1).norm(dim=1).sum()
        count = torch.full((), draws.size, device=x1.device)
        return torch.stack([each.double() for each in (gaps, _squares(teacher), residuals, real, norms, count)])


def _squares(tensor: Tensor) -> Tensor:
    return tensor.float().square().sum()
