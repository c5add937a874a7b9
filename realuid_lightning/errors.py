"""Faults that a user can mend, told all at once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_gathered: ContextVar[list[str] | None] = ContextVar("gathered", default=None)


class UserError(ValueError):
    """A mistake in a config, a file or the environment, with the way to mend it in its message.

    The command line prints the message alone and leaves with exit code 2; in Python it is a ``ValueError``.
    """


class Faults:
    """Gathers every fault of one component, so that the user mends them in one go.

    Example:
        >>> faults = Faults("RealUIDModule")
        >>> faults.unless(0 < 0.5 <= 1, "alpha must be in (0, 1], got 0.5")
        >>> faults.raise_any()

    Args:
        owner: The component that is checked; it heads the message.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.found: list[str] = []
        self._of_parts: list[str] = []

    def unless(self, sound: bool, message: str) -> None:
        """Note ``message`` unless ``sound`` holds."""
        if not sound:
            self.found.append(message)

    def extend(self, messages: Iterable[str]) -> None:
        """Note every message."""
        self.found.extend(messages)

    def attempt(self, build: Callable[[], T]) -> T | None:
        """Build a part; where that is refused, note what is wrong with it and return None.

        Args:
            build: Makes the part, or raises ``UserError``, whose lines already name the part.
        """
        try:
            return build()
        except UserError as error:
            self._of_parts.extend(str(error).splitlines())
            return None

    def finite(self, **numbers: float | Sequence[float] | None) -> None:
        """Note the numbers, and the lists of them, that are not finite; None stands for no number."""
        for name, value in numbers.items():
            given = value if isinstance(value, Sequence) else [] if value is None else [value]
            self.unless(all(map(math.isfinite, given)), f"{name} must be finite, got {value}")

    def raise_any(self) -> None:
        """Raise one ``UserError`` that lists all faults noted so far; do nothing without any."""
        messages = [f"{self.owner}: {message}" for message in self.found] + self._of_parts
        gathered = _gathered.get()
        if gathered is not None:
            gathered.extend(messages)
        elif messages:
            raise UserError("\n".join(messages))


@contextmanager
def gathering_faults() -> Iterator[None]:
    """Let several components be built before their faults are told, all of them in one error.

    Inside, ``Faults.raise_any`` notes instead of raising; whatever goes wrong on the way is told by what was noted. An
    inner block leaves the telling to the outer one.

    Raises:
        UserError: With every fault noted inside, when the block ends.
    """
    if _gathered.get() is not None:
        yield
        return
    faults: list[str] = []
    token = _gathered.set(faults)
    try:
        yield
    except UserError as error:  # raised on the spot
        faults.append(str(error))
    except Exception:
        if not faults:
            raise
    finally:
        _gathered.reset(token)
    if faults:
        raise UserError("\n".join(dict.fromkeys("\n".join(faults).splitlines())))
