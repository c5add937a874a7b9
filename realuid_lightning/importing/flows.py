"""Paths of other projects' flow matching, by the names of their interpolants."""

from realuid_lightning.errors import UserError
from realuid_lightning.importing.kinds import Told
from realuid_lightning.paths import (
    CosineSchedule,
    FlowMatchingPath,
    LinearSchedule,
    Noise,
    Parameterisation,
    Schedule,
    VPSchedule,
)

OPTIONS = frozenset({"path_type", "prediction"})

_SCHEDULES: dict[str, type[Schedule]] = {"linear": LinearSchedule, "gvp": CosineSchedule, "vp": VPSchedule}


def flow_path(told: Told) -> FlowMatchingPath:
    """Return the path of a network that is given ``t`` from 0 at the noise to 1 at the data.

    Args:
        told: ``path_type`` has the names of SiT (arXiv 2401.08740, section 2): ``linear``, ``gvp`` (which torchcfm
            calls variance preserving) and ``vp``; ``prediction`` is ``velocity`` or ``noise``.

    Raises:
        UserError: If one of them is another.
    """
    kind, prediction = (str(told.get(*each)).lower() for each in (("path_type", "linear"), ("prediction", "velocity")))
    if kind not in _SCHEDULES:
        raise UserError(f"path_type must be {', '.join(_SCHEDULES)}, got {kind[:80]}")
    if prediction not in ("velocity", "noise"):
        raise UserError(f"prediction must be velocity or noise, got {prediction[:80]}, which no path here takes")
    parameterisation: Parameterisation | None = Noise() if prediction == "noise" else None
    return FlowMatchingPath(_SCHEDULES[kind](), parameterisation=parameterisation)
