"""What a resumed run takes from its checkpoint, what from its config, and that it tells where the two differ.

Weights, moments, averages and counts of updates are the checkpoint's. Everything that an option sets (the objective,
learning rates, betas, schedules, decays of averages, the seed) is the config's.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from realuid_lightning.checkpoints.records import describe
from realuid_lightning.data import MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.networks.ema import average_key
from realuid_lightning.objectives import Divergence, Objective
from realuid_lightning.paths import MatchingPath
from realuid_lightning.seeding import global_seed

# Settings of an optimizer that come with further moments, so they cannot be switched on for moments without.
_REMEMBERED = ("amsgrad", "centered")

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")


# ---------------------------------------------------------------------------------------------------------- draws


def stream_of(module: LightningModule) -> dict[str, int]:
    """Return what decides the draws of a run and which samples come when, by its name; 0 is unknown."""
    trainer: Trainer = module.trainer
    data, processes = getattr(trainer, "datamodule", None), trainer.world_size
    return {
        "processes": processes,
        "samples an update": data.batch_size * processes if isinstance(data, MatchingDataModule) else 0,
        "seed": global_seed(),
        "fake_steps": getattr(module, "fake_steps", 0),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
    }


def stream_changes(before: dict[str, int], now: dict[str, int]) -> list[str]:
    """Return what differs between two ``stream_of``; the first lacks what older versions did not write."""
    return [f"{before[name]} -> {now[name]} {name}" for name in now if before.get(name, now[name]) != now[name]]


def end_at_update(checkpoint: dict[str, Any], accumulated: int) -> None:
    """Let a checkpoint of a place amid an accumulation be that of the last update.

    The gradients gathered since are not in it, so the resumed run has to gather them again, from the same batches.

    Args:
        checkpoint: What is about to be written, or restored: older versions wrote it as it was, and accumulations may
            be of other lengths now. It is changed in place.
        accumulated: Batches whose gradients make one update.
    """
    progress = checkpoint["loops"]["fit_loop"].get("epoch_loop.batch_progress")
    if progress is None:  # Lightning begins an epoch then
        return
    gathered = progress["current"]["ready"] % accumulated
    if gathered == 0 or progress["is_last_batch"]:  # an epoch's last batch ends an update too
        return
    for counts in (progress["current"], progress["total"]):
        done = counts["ready"] - gathered
        counts.update(ready=done, started=done, processed=done, completed=done)


# ------------------------------------------------------------------------------------------------ what is minimised

_AIM = ("objective", "guidance", "guide_fake", "label_dropout")


def aim_of(module: LightningModule) -> dict[str, str]:
    """Return what a module minimises, and how it is guided, in words: objectives with all of their settings."""
    return {name: _words(getattr(module, name)) for name in _AIM if hasattr(module, name)}


def aim_changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return what differs between two ``aim_of``; the first lacks what older versions did not write."""
    return [f"{name} {before[name]} -> {now[name]}" for name in now if before.get(name, now[name]) != now[name]]


def law_changes(before: Mapping[str, Any], path: MatchingPath) -> list[str]:
    """Return what differs in how a path, recorded ``before``, draws and weighs the times of training."""
    recorded, now = before["init_args"], path.recorded()["init_args"]
    pairs = {name: (recorded.get(name), now.get(name)) for name in sorted(path.training)}
    return [f"path.{name} {describe(old)} -> {describe(new)}" for name, (old, new) in pairs.items() if old != new]


def _words(value: Any) -> str:
    if isinstance(value, Objective | Divergence):
        settings = ", ".join(f"{name.lstrip('_')} {_words(each)}" for name, each in vars(value).items())
        return f"{type(value).__name__} ({settings})" if settings else type(value).__name__
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_words, value))}]"
    if isinstance(value, int | float):
        return str(value) if isinstance(value, bool) else f"{value:.12g}"  # 1 and 1.0 are alike
    return str(value) if value is None or isinstance(value, str) else type(value).__name__


# ------------------------------------------------------------------------------------------------------- averages


def fit_averages(state: dict[str, Tensor], before: list[float], now: list[float], averaged: str | None) -> list[str]:
    """Let the averages in a state dict be those that a module keeps, and return what was changed.

    Args:
        state: The state dict of a checkpoint; changed in place.
        before: Decays in it.
        now: Decays that the module keeps. A new average begins at the raw weights.
        averaged: Name of the network that averages follow; None adds none.
    """
    old, new = ({_prefix(decay): float(decay) for decay in decays} for decays in (before, now))
    dropped = [prefix for prefix in old if prefix not in new]
    added = [prefix for prefix in new if prefix not in old] if averaged is not None else []
    for key in [key for key in state if key.startswith(tuple(dropped))]:
        del state[key]
    raw = {key: value for key, value in state.items() if key.startswith(f"{averaged}.")}
    for prefix in added:
        state |= {prefix + key.removeprefix(f"{averaged}."): value.clone() for key, value in raw.items()}
    return [
        *(f"average {old[prefix]} dropped" for prefix in dropped),
        *(f"average {new[prefix]} added, which begins at the raw weights" for prefix in added),
    ]


def _prefix(decay: float) -> str:
    return f"ema.copies.{average_key(decay)}.network."


# ----------------------------------------------------------------------------------------- optimizers and schedules


def families(optimizers: Iterable[Optimizer]) -> list[str]:
    """Return the kind of moments that each optimizer keeps: the name of the first class of its line (``Adam``)."""
    lines = ([kind for kind in type(each).__mro__ if issubclass(kind, Optimizer)] for each in optimizers)
    return [line[max(0, len(line) - 2)].__name__ for line in lines]


def fit_optimizers(
    checkpoint: dict[str, Any],
    names: list[str],
    optimizers: list[Optimizer],
    schedules: list[LRScheduler],
    fresh: bool,
) -> list[str]:
    """Let the optimizers' states in a checkpoint have the settings of a run's own, and return what was changed.

    Args:
        checkpoint: What is about to be restored; changed in place.
        names: What the optimizers are called in messages.
        optimizers: The run's own, as built.
        schedules: Their schedules, as built; they are brought to the updates of the checkpoint.
        fresh: Whether an optimizer of another class begins without moments, instead of being refused.

    Raises:
        UserError: If an optimizer has another class, or holds other weights, than the one in the checkpoint.
    """
    states, counts = (checkpoint.get(name, []) for name in ("optimizer_states", "lr_schedulers"))
    if not len(states) == len(optimizers) or not len(counts) == len(schedules):
        raise UserError(
            f"ckpt_path: expected the states of {len(optimizers)} optimizers and {len(schedules)} schedules, got "
            f"{len(states)} and {len(counts)}; resume a whole checkpoint, with the kind of module that wrote it"
        )
    changes = []
    for i, schedule in enumerate(schedules):
        if isinstance(schedule, ReduceLROnPlateau):  # its rates are learnt from metrics, which are gone
            for group, rate in zip(schedule.optimizer.param_groups, counts[i].get("_last_lr", []), strict=False):
                group["lr"] = rate
        else:
            _advance(schedule, _updates(counts[i]))
            counts[i] = schedule.state_dict()
    written = dict(enumerate(checkpoint.get("optimizers", [])))  # which older versions did not write
    for i, (name, optimizer, family) in enumerate(zip(names, optimizers, families(optimizers), strict=True)):
        problem = _misfit(name, states[i], optimizer, written.get(i), family)
        if problem is not None and not fresh:
            raise UserError(
                f"ckpt_path: {problem}; set the optimizer of the run that wrote it, or fresh_optimizers: true to begin "
                "its moments anew"
            )
        if problem is not None:
            states[i] = optimizer.state_dict()
            changes.append(f"fresh moments of the {name} optimizer")
        else:
            changes += [f"{name} {change}" for change in _configured(states[i], optimizer)]
    return changes


def _advance(schedule: LRScheduler, updates: int) -> None:
    """Bring a schedule to a number of updates, the rates of its optimizer included."""
    if isinstance(schedule, LambdaLR) and updates > 0:  # a function of the number; others are known step by step
        schedule.load_state_dict({**schedule.state_dict(), "last_epoch": updates - 1, "_step_count": updates})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # the optimizer's were made before
        try:
            for _ in range(_updates(vars(schedule)), updates):
                schedule.step()
        except ValueError as error:
            raise UserError(
                f"ckpt_path: {type(schedule).__name__} has no rate for update {updates}: {error}"
            ) from error


def _updates(schedule: dict[str, Any]) -> int:
    """Return how many updates a schedule, or its state, counts; a ``ChainedScheduler`` leaves that to its parts."""
    if "last_epoch" in schedule:
        return int(schedule["last_epoch"])
    first = schedule["_schedulers"][0]
    return _updates(first if isinstance(first, dict) else vars(first))


def _misfit(name: str, state: dict[str, Any], optimizer: Optimizer, written: str | None, family: str) -> str | None:
    """Return why an optimizer cannot go on with the moments of a state, or None."""
    saved, own = state.get("param_groups", []), optimizer.param_groups
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in own]:
        sizes = [" + ".join(str(len(group["params"])) for group in groups) or "none" for groups in (own, saved)]
        return f"expected the state of a {name} optimizer of {sizes[0]} weights, got {sizes[1]}"
    unknown = written is None and any(set(theirs) - set(ours) for theirs, ours in zip(saved, own, strict=True))
    if unknown or written not in (None, family):
        return f"expected the state of the {name} optimizer's class, {family}, got that of {written or 'another'}"
    for key in _REMEMBERED:
        if any(ours.get(key) and not theirs.get(key, True) for theirs, ours in zip(saved, own, strict=True)):
            return f"expected the moments that {key} of the {name} optimizer needs, got those of a run without"
    return None


def _configured(state: dict[str, Any], optimizer: Optimizer) -> Iterator[str]:
    """Give a state the settings of an optimizer, and yield those that are others now."""
    told: set[str] = set()
    for theirs, ours in zip(state.get("param_groups", []), optimizer.param_groups, strict=False):
        settings = {key: value for key, value in ours.items() if key not in ("params", "param_names")}
        changed = [key for key in settings if key in theirs and not _same(theirs[key], settings[key])]
        if "initial_lr" in changed:  # the rate that an option sets; the other one follows from it
            changed = [key for key in changed if key != "lr"]
        told.update(
            f"{'learning rate' if key in ('lr', 'initial_lr') else key} {_plain(theirs[key])} -> {_plain(ours[key])}"
            + (" at this update" if key == "lr" else "")
            for key in changed
        )
        theirs.update(settings)
    yield from sorted(told)


def _same(one: Any, other: Any) -> bool:
    return bool(_plain(one) == _plain(other))


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    return list(value) if isinstance(value, tuple) else value


def match_memory_format(optimizer: Optimizer) -> None:
    """Give an optimizer's states the memory format of their weights, which fused kernels take for granted.

    Raises:
        UserError: If moments have another shape than their weights: those kernels would read beyond them.
    """
    for weight, states in optimizer.state.items():
        for name, value in states.items():
            if isinstance(value, Tensor) and name in _MOMENTS and value.shape != weight.shape:
                raise UserError(
                    f"ckpt_path: {name} of an optimizer has shape {tuple(value.shape)}, but its weight has "
                    f"{tuple(weight.shape)}; get the file anew from its origin"
                )
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                states[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
