"""Pages whose tables are made of what was measured."""

from pathlib import Path

from realuid_lightning.atomic import replacing
from realuid_lightning.errors import UserError


def replace(page: Path, mark: str, text: str) -> None:
    """Replace what stands on a page between two marks.

    Raises:
        UserError: If it has no such marks.
    """
    begin, end = f"<!-- {mark}: made by make results -->", f"<!-- {mark}: end -->"
    old = page.read_text() if page.is_file() else ""
    before, found, rest = old.partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise UserError(f"{page} must have the lines {begin!r} and {end!r}, between which its table goes")
    with replacing(page) as file:
        file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
    print(f"{page}: {mark} written")
