"""How long a run is: its steps and validations, as the trainer's options limit them."""

from lightning import Trainer


def training_steps(trainer: Trainer) -> int | None:
    """Return the training steps of a run, at most; None if it has no known end."""
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    batches = _batches_per_epoch(trainer)
    if batches is not None and trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(trainer.max_epochs * _steps(batches, trainer))
    return min(limits, default=None)


def validation_count(trainer: Trainer) -> int | None:
    """Return how often a run validates, at most; None if it has no known end."""
    if not trainer.limit_val_batches:
        return 0
    steps, interval, epochs = training_steps(trainer), trainer.val_check_interval, trainer.check_val_every_n_epoch
    every = interval if isinstance(interval, int) else None  # otherwise at the end of an epoch
    batches = _batches_per_epoch(trainer)
    if batches is None and (every is None or (epochs or 1) > 1):
        return 0  # the first epoch has no end
    if steps is None:
        return None
    if epochs is None or batches is None:
        return 0 if every is None else steps * trainer.accumulate_grad_batches // every
    whole, rest = divmod(steps, _steps(batches, trainer))
    if every is None:
        return whole // epochs
    left = rest * trainer.accumulate_grad_batches // every if (whole + 1) % epochs == 0 else 0
    return whole // epochs * (batches // every) + left


def _batches_per_epoch(trainer: Trainer) -> int | None:
    """Return the batches of an epoch; None without ``limit_train_batches``, for the stream has no end of its own."""
    limit = trainer.limit_train_batches
    return limit if isinstance(limit, int) and limit > 0 else None


def _steps(batches: int, trainer: Trainer) -> int:
    """Return the training steps of an epoch: its last batch ends a step."""
    return -(-batches // trainer.accumulate_grad_batches)
