"""``realuid report``: what runs have measured, as tables and as a page."""

import sys
from collections.abc import Sequence
from pathlib import Path

from realuid_lightning.cli.console import wide_console
from realuid_lightning.cli.parsing import Clear, at_home
from realuid_lightning.errors import UserError
from realuid_lightning.reporting import comparisons, read_runs, standings, write_page
from realuid_lightning.reporting.tables import print_comparison


def report(words: Sequence[str]) -> None:
    """Print the figures of every run at or below the given folders, and write a page about these runs.

    Raises:
        UserError: If a folder holds no run that has measured anything, or the page is to be where a folder is.
    """
    parser = Clear(prog="realuid report", description="Show what runs have measured: tables here, and an HTML page.")
    parser.add_argument("folders", type=str, nargs="*", default=["runs"], help="folders of runs, at any depth")
    parser.add_argument("--html", type=str, default=None, help="the page; report.html in the first folder if left out")
    options = at_home(parser.parse_args(list(words)))
    page = Path(options.html or Path(options.folders[0]) / "report.html")
    if page.is_dir():
        raise UserError(f"report: --html must name a file, but {page} is a folder")
    runs = read_runs(options.folders)
    for run in runs:
        if run.broken:
            print(f"report: {run.folder}: {run.broken} broken line{'s' * (run.broken > 1)} left out", file=sys.stderr)
    compared = comparisons(runs)
    if not compared:
        raise UserError("report: no complete line of figures was found")
    console = wide_console()
    for comparison in compared:
        print_comparison(console, comparison)
    write_page(runs, page)
    print(f"{page}: written")
    for sentence in standings(runs, compared):
        print(sentence)
