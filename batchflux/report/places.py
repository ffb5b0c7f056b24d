"""Where the page finds a picture, its thumbnail and its references: URLs relative to the output folder.

The rule: a derived file is named after what it was derived from, so that it is made once, and again when its source
changed. A thumbnail carries the beginnings of the job's key and of the picture's digest, a reference's copy a digest
of the file's path, size and time of change. A remote reference has no copy: the page links to it and never loads it.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from batchflux.output.base import REFERENCES, THUMBS
from batchflux.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Container

    from batchflux.ledger.ledger import Known

THUMB_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{12})\.jpg")
_LONGEST_LABEL = 120


def thumb_name(known: Known) -> str:
    """Return the name of a picture's thumbnail in `thumbs/`, '' when the job has no picture."""
    if known.file_name is None or known.sha256 is None:
        return ""
    return f"{known.key.hex()[:16]}-{known.sha256[:12]}.jpg"


def inside(folder: Path, name: str) -> Path | None:
    """Return the file that a name relative to the folder means, None when it would leave the folder."""
    parts = PurePosixPath(name)
    return None if parts.is_absolute() or ".." in parts.parts else folder / parts


class Places:
    """Finds the files of one output folder.

    Args:
        folder: the output folder.
        base: the manifest's folder, which local references are relative to; None when the ledger does not tell.
        made: names of thumbnails and copies that are there; None when a server makes them as they are asked for.
    """

    def __init__(self, folder: Path, base: Path | None, made: Container[str] | None = None) -> None:
        self._folder = folder
        self._base = base
        self._made = made
        self._sources: dict[str, Path] = {}
        self._known: dict[str, dict[str, Any]] = {}

    def thumb(self, known: Known) -> str:
        """Return the URL of a job's thumbnail, '' when there is none."""
        name = thumb_name(known)
        return f"{THUMBS}/{name}" if name and self._is_there(name) else ""

    def full(self, known: Known) -> str:
        """Return the URL of a job's picture, '' when its file is not there."""
        path = None if known.file_name is None else inside(self._folder, known.file_name)
        return quote(known.file_name or "") if path is not None and path.is_file() else ""

    def reference(self, source: str) -> dict[str, Any]:
        """Return how the page shows a reference: `label`, and `src` of its copy or the `url` to link to."""
        found = self._known.get(source)
        if found is None:
            found = self._known[source] = self._reference(source)
        return found

    def copy_name(self, source: str) -> str:
        """Return the name of a local reference's copy in `thumbs/references/`, '' when it has no file."""
        if self._base is None or is_url(source):
            return ""
        try:
            path = Path(os.path.normpath(self._base / source))
            found = path.stat()
        except (OSError, ValueError):
            return ""
        mark = f"{path}\0{found.st_size}\0{found.st_mtime_ns}"
        name = f"{hashlib.sha256(mark.encode(errors='surrogateescape')).hexdigest()[:24]}.jpg"
        self._sources[name] = path
        return name

    def source_of(self, name: str) -> Path | None:
        """Return the file that a reference's copy of this name is made from, None when no row asked for it."""
        return self._sources.get(name)

    def _reference(self, source: str) -> dict[str, Any]:
        if is_url(source):
            link = redacted(source)
            return {"label": _short(link), "src": None, "url": link}
        name = self.copy_name(source)
        src = f"{REFERENCES}/{name}" if name and self._is_there(name) else None
        return {"label": _short(source), "src": src, "url": None}

    def _is_there(self, name: str) -> bool:
        return self._made is None or name in self._made


def is_url(source: str) -> bool:
    """Whether a reference is a remote one."""
    return source.lower().startswith(("http://", "https://"))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
