"""Building what a config names, and one line for whatever a constructor refuses."""

import sysconfig
import traceback
from pathlib import Path
from typing import Any, TypeVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from realuid_lightning.errors import Faults, UserError

T = TypeVar("T")

PACKAGE = Path(__file__).parents[1]
LIBRARIES = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]


def build(class_type: type[T], *args: Any, **kwargs: Any) -> T:
    """Call a constructor as a config says.

    Raises:
        UserError: With what the constructor has raised, whatever it was.
    """
    kwargs.pop("applied_instantiation_links", None)
    if issubclass(class_type, Optimizer | LRScheduler):
        return class_type(*args, **kwargs)  # the module that asks for it knows the option that is at fault
    try:
        return class_type(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        faults = Faults(class_type.__name__)
        faults.unless(False, in_one_line(error))
        faults.raise_any()  # notes it where faults are gathered: what is raised here may be told as something else
        raise UserError(f"{class_type.__name__}: {in_one_line(error)}") from error


def in_one_line(error: Exception) -> str:
    """Return what an error says, its kind unless that says no more, and where in the user's code it arose."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:300]}..."
    kind, place = type(error).__name__, origin(error)
    text = text if isinstance(error, ValueError | ImportError) and text else f"{kind}: {text}" if text else kind
    return f"{text} ({place})" if place else text


def origin(error: BaseException | None) -> str:
    """Return ``FILE, line N`` of the user's own code in which an error arose, or what lies behind it; or nothing."""
    while error is not None:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            file = Path(frame.filename)
            known = any(file.is_relative_to(folder) for folder in (PACKAGE, *LIBRARIES))
            if file.is_absolute() and file.is_file() and not known:
                return f"{file.name}, line {frame.lineno}"
        error = error.__cause__ or error.__context__
    return ""
