"""The lines of a text file, one value each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.errors import ReadError, quoted
from batchflux.tables.encodings import text_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_LINES_BYTES = 64 << 20  # of the file, which is read whole
MAX_LINES = 1_000_000


def lines_of(source: str, path_of: Callable[[str], Path]) -> list[str]:
    """Return the lines of a text file that are not blank; a ValueError says why it cannot be read, or is no such."""
    shown = f"the file {quoted(source)}"
    try:
        path = path_of(source)
        if path.exists() and not path.is_file():
            raise ValueError(f"{quoted(source)} is not a file")
        if path.stat().st_size > MAX_LINES_BYTES:
            raise ValueError(f"{shown} has more than {MAX_LINES_BYTES} bytes; use a table with from")
        file, _ = text_file(path, zipped=False, encoding=None)
        values = [line.strip() for line in file.lines() if line.strip()]
    except ReadError as error:
        if error.line is None:
            raise ValueError(f"{shown} {error.message}") from None
        reason, *_ = error.message.partition(";")
        raise ValueError(f"{shown} cannot be read, line {error.line}: {reason}; save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{shown} cannot be read: {error.strerror}") from None
    if not values:
        raise ValueError(f"{shown} has no line that is not blank")
    if len(values) > MAX_LINES:
        raise ValueError(f"{shown} has more than {MAX_LINES} lines; use a table with from")
    return values
