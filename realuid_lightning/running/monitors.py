"""The metrics that callbacks choose by."""

from lightning import LightningModule, Trainer

from realuid_lightning.errors import Faults
from realuid_lightning.modules import MatchingModule

EVALUATION = ("fid", "psnr", "ssim")
"""What a validation measures of every sampler."""

TRAINING = ("train/", "grad_norm/", "guard/", "diagnostics/")
"""How the names of what training logs begin."""


def check_monitors(trainer: Trainer, pl_module: LightningModule) -> None:
    """Refuse a callback whose ``monitor`` nothing will log, before training.

    What classes of the user's own log is not known before they do: among them, only names of evaluations are checked.

    Raises:
        UserError: With the names that there are.
    """
    if not isinstance(pl_module, MatchingModule):
        return
    names = [f"{kind}/{name}" for kind in EVALUATION for name in pl_module.evaluated()]
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    closed = all(
        type(part).__module__.split(".")[0] in ("lightning", "realuid_lightning") for part in (pl_module, *callbacks)
    )
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in names and not monitor.startswith(TRAINING):
            faults, kind = Faults(type(callback).__name__), monitor.partition("/")[0]
            likely = [name for name in names if name.startswith(f"{kind if kind in EVALUATION else 'fid'}/")]
            faults.unless(
                not closed and kind not in EVALUATION, f"monitor names {monitor!r}; there are {', '.join(likely)}"
            )
            faults.raise_any()
