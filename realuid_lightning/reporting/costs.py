"""What a run has cost, and on what it ran, in words."""

import shlex
from collections.abc import Sequence
from typing import Any


def cost(fits: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return what ``FitRecord`` has noted of a run, all its fits together, by what it is.

    Args:
        fits: Entries of ``fits.json``, in their order; whatever they lack, or is no number, is left out.
    """
    if not fits:
        return {}
    steps = sum(max(_number(fit, "to_step") - _number(fit, "from_step"), 0.0) for fit in fits)
    training, validation = (sum(_number(fit, f"{what}_seconds") for fit in fits) for what in ("training", "validation"))
    memory = max(_number(fit, "peak_memory") for fit in fits)
    rows = {
        "begun": _each(fits, "started").replace("T", " ").replace("+00:00", " UTC"),
        "steps": f"{steps:.0f}" if steps else "",
        "time of a step": _duration(training / steps) if steps and training else "",
        "training": _duration(training),
        "validation": _duration(validation),
        "devices": _each(fits, "devices"),
        "processes": _each(fits, "processes"),
        "precision": _each(fits, "precision"),
        "peak memory of a device": f"{memory / 2**30:.2f} GiB" if memory else "",
        "command": _each(fits, "command"),
    }
    versions = fits[-1].get("versions")
    named = versions.items() if isinstance(versions, dict) else ()
    return {name: text for name, text in {**rows, **{str(name): str(text) for name, text in named}}.items() if text}


def _number(fit: dict[str, Any], name: str) -> float:
    value = fit.get(name)
    sound = isinstance(value, int | float) and 0 <= value < 1e15
    return float(value) if sound else 0.0  # type: ignore[arg-type]


def _each(fits: Sequence[dict[str, Any]], name: str) -> str:
    """Return what the fits say, each of it once."""
    said = [fit[name] for fit in fits if fit.get(name) is not None]
    texts = (shlex.join(map(str, each)) if isinstance(each, list) else str(each) for each in said)
    return ", ".join(dict.fromkeys(texts))


def _duration(seconds: float) -> str:
    """Return a time span in the unit that suits it."""
    if seconds <= 0:
        return ""
    for size, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"
