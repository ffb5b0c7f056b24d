"""Pictures of an output folder of batchflux, by its results.csv."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class FolderError(Exception):
    """A folder that cannot be read, in a sentence for the person at the screen."""


def table(text: str) -> Path:
    """Return the results.csv that a path means: its own, or that of the folder; FolderError."""
    given = Path(text.strip()).expanduser()
    found = given if given.suffix.lower() == ".csv" else given / "results.csv"
    if not found.is_file():
        raise FolderError(f"There is no {found}: name an output folder of batchflux, or its results.csv.")
    return found


def rows(found: Path) -> Iterator[tuple[Mapping[str, str], Path | None]]:
    """Yield each row and where its picture is, None where it has none; FolderError."""
    try:
        with found.open(encoding="utf-8-sig", newline="") as lines:
            for row in csv.DictReader(lines):
                yield row, _picture(found.parent, row.get("file_name") or "")
    except (OSError, ValueError, csv.Error) as error:
        raise FolderError(f"{found} cannot be read: {error}") from None


def _picture(base: Path, name: str) -> Path | None:
    """Return a row's picture, which lies in the folder as far as the table is ours."""
    path = base / name
    inside = bool(name) and path.resolve().is_relative_to(base.resolve())
    return path if inside and path.is_file() else None
