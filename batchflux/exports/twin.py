"""Adds to a large file so that what stands under its name is whole at every moment: by turns with a twin.

A write is not whole after a kill when it goes over a page's edge (see results.py), and a large file cannot be copied
for each. So there are two that begin alike. What is new is written to the one without the name, along with what it
lacks; then they change names, and what had the name is the twin. Names change in one rename, which a kill does not cut.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Twin:
    """The twin of the file at `path`, which must end as it is meant to; there is none until the first `add`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._twin = path.with_name(f".{path.name}.twin")
        self._before = path.with_name(f".{path.name}.before")
        self._alike: int | None = None  # bytes at the beginning of both
        self._impossible = False

    def add(self, data: bytes) -> bool:
        """Add `data` to the file; False where the folder does not allow it: nothing has changed then."""
        if self._impossible:
            return False
        try:
            self._write(data)
            os.link(self._path, self._before)
            self._twin.replace(self._path)
        except OSError:  # a full disk, no hard links, a folder in which nothing can be made
            self.drop()
            self._impossible = True
            return False
        try:
            self._before.replace(self._twin)
        except OSError:
            self.drop()
        return True

    def drop(self) -> None:
        """Remove the twin, and what a kill may have left of one."""
        self._alike = None
        for path in (self._twin, self._before):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        if self._alike is None:
            self.drop()  # what a kill left may be the file itself under another name
            shutil.copyfile(self._path, self._twin)
            self._alike = self._twin.stat().st_size
        with self._path.open("rb") as file, self._twin.open("r+b") as twin:
            file.seek(self._alike)
            lacking = file.read()
            twin.seek(self._alike)
            twin.write(lacking + data)
            twin.truncate()
        self._alike += len(lacking)
