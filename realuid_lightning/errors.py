"""Faults that a user can mend, told all at once."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


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
        if messages:
            raise UserError("\n".join(dict.fromkeys(messages)))


def printable(text: str) -> str:
    r"""Return a line of a text that may be a stranger's, with ``?`` for what would steer a terminal or is no text.

    Example:
        >>> printable("a name\x1b[2J")
        'a name?[2J'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)
