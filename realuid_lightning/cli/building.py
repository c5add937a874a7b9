"""Building what a config names, and one line for whatever a constructor refuses."""

import inspect
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lightning import Callback
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
    return _told(class_type, partial(class_type, *args, **kwargs))


def _call(class_type: type[T], *args: Any, **kwargs: Any) -> T:
    return class_type(*args, **kwargs)


def _told(class_type: type, call: "partial[T]") -> T:
    try:
        return call()
    except UserError:
        raise
    except Exception as error:
        if issubclass(class_type, Optimizer | LRScheduler):
            raise  # the module that asks for it knows the option that is at fault
        nulls = _nulls(class_type, call.keywords) if "NoneType" in str(error) else ""
        raise UserError(f"{class_type.__name__}: {in_one_line(error)}{nulls}") from error


def _nulls(class_type: type, given: dict[str, Any]) -> str:
    """Name the options that are null and have another default: the parser lets null pass for most types."""
    parameters = inspect.signature(class_type).parameters
    names = [name for name, it in parameters.items() if name in given and given[name] is None is not it.default]
    return f"; null is given for {', '.join(names)}: leave it out, or set a value" if names else ""


class Missing(Callback):
    """Stands for what could not be built; a trainer takes it for a callback that does nothing."""


class Builder:
    """Builds the parts of a config, innermost first, and notes what is wrong with each, so that all is told at once.

    What lacks one of its parts is built without it, if it has a default, so that its other arguments are checked; then
    it is thrown away. What it says of the part that it lacks is not told.

    Args:
        make: Calls a constructor; ``make(class_type, *args, **kwargs)``.

    Attributes:
        faults: What is wrong with all parts so far.
    """

    def __init__(self, make: Callable[..., Any] = _call) -> None:
        self.make = make
        self.faults = Faults("config")
        self._raises = False

    def build(self, class_type: type[T], *args: Any, **kwargs: Any) -> T | Missing:
        """Build one part, or note what is wrong with it; jsonargparse calls this.

        Raises:
            UserError: Instead of noting, if a constructor asks for the part, or after ``finish``.
        """
        given = {name: value for name, value in kwargs.items() if not lacks(value)}
        lacking = kwargs.keys() - given.keys()
        call: partial[T] = partial(self.make, class_type, *args, **given)
        if self._raises:
            return _told(class_type, call)
        self._raises = True
        try:
            made = self.faults.attempt(lambda: _checked(call, lacking) if lacking else _told(class_type, call))
        finally:
            self._raises = False
        return Missing() if made is None else made

    def finish(self) -> None:
        """Tell all faults; from here on, each is raised where it arises.

        Raises:
            UserError: With all faults.
        """
        self._raises = True
        self.faults.raise_any()


def _checked(call: Callable[[], Any], lacking: Iterable[str]) -> None:
    """Call a constructor for what it raises of other arguments than those that it lacks."""
    about = re.compile(rf"\b({'|'.join(lacking)})\b")
    try:
        call()
    except UserError as error:
        raise UserError("\n".join(line for line in str(error).splitlines() if not about.search(line))) from error
    except Exception:
        return  # it has no default for one of them, or cannot do with it


def lacks(value: Any) -> bool:
    """Tell whether a value is, or holds, something that could not be built."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, Missing) or any(map(lacks, parts))


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
