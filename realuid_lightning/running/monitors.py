"""The metrics that callbacks choose by."""

from lightning import LightningModule, Trainer

from realuid_lightning.errors import Faults
from realuid_lightning.evaluation import MetricsCallback
from realuid_lightning.metrics import Better
from realuid_lightning.modules import MatchingModule

FIDELITY: dict[str, Better] = {"psnr": "max", "ssim": "max"}
"""What a validation measures of every sampler where the truth is known."""

TRAINING = ("train/", "grad_norm/", "guard/", "diagnostics/")
"""How the names of what training logs begin."""


def check_monitors(trainer: Trainer, pl_module: LightningModule) -> None:
    """Refuse a callback whose ``monitor`` nothing will log, or that would keep the worst by it, before training.

    What classes of the user's own log is not known before they do: among them, only names of evaluations are checked.

    Raises:
        UserError: With the names that there are.
    """
    if not isinstance(pl_module, MatchingModule):
        return
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    better = {name: sense for part in callbacks for name, sense in _figures(part).items()} | FIDELITY
    closed = all(
        type(part).__module__.split(".")[0] in ("lightning", "realuid_lightning") for part in (pl_module, *callbacks)
    )
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or monitor.startswith(TRAINING):
            continue
        faults, kind = Faults(type(callback).__name__), monitor.partition("/")[0]
        names = [f"{kind if kind in better else next(iter(better))}/{name}" for name in pl_module.evaluated()]
        if monitor not in names:
            faults.unless(not closed and kind not in better, f"monitor names {monitor!r}; there are {', '.join(names)}")
        elif getattr(callback, "mode", better[kind]) != better[kind]:
            faults.unless(
                False, f"mode must be {better[kind]} for {monitor}, got {callback.mode}: it would keep the worst"
            )
        faults.raise_any()


def _figures(callback: object) -> dict[str, Better]:
    """Return the figures that a callback logs of every sampler, with the sense of each."""
    metrics = callback.metrics if isinstance(callback, MetricsCallback) else []
    return {name: sense for metric in metrics for name, sense in metric.better.items()}
