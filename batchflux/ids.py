"""How long an id may be, and what a redo is called."""

from __future__ import annotations

MAX_ID = 128  # characters
MAX_ID_BYTES = 220  # of an id that we make: a file system takes 255 for a name, and a suffix and a mark come behind it


def redo_id(root: str, ordinal: int) -> str:
    """Return the id of a redo: the first job's with `-redo1` and so on, cut where it would be too long for an id."""
    suffix = f"-redo{ordinal}"
    cut = root[: MAX_ID - len(suffix)]
    while len(cut.encode(errors="replace")) > MAX_ID_BYTES:
        cut = cut[:-1]
    return cut.rstrip() + suffix
