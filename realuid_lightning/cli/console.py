"""Where tables are printed."""

import os
import sys

from rich.console import Console


def wide_console() -> Console:
    """Return a console that cuts no line in a file or a pipe; a terminal decides for itself."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
