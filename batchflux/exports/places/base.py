"""The port to where an export is written: a folder, or a bucket below a prefix.

Names of files are relative, with `/` between folders. A pattern is such a name with `*` and `?`, neither of which
stands for a `/`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

MARKER = ".batchflux-export"  # says which format the place holds
STORE = ".references"  # what the links of references led to
THREADS = 4  # that read and sync files


class Pictures(Protocol):
    """Files of single pictures, and texts beside them. What is there, and would come out the same, is left unread.

    What nobody put into their folders is removed from these, where an earlier export left it, and what a user put there
    is kept elsewhere, or stays. Several threads may put.
    """

    def has(self, name: str, made_at: float, mark: str, size: int | None = None) -> bool:
        """Whether a file is there: of this time (epoch seconds) or mark, and `size` (None: of any); StorageError.

        `mark` changes with its bytes. A file that is there belongs to this export from now on.
        """

    def write(self, name: str, made_at: float, mark: str, read: Callable[[], bytes], size: int = 0) -> None:
        """Write a file of about `size` bytes over what may be there; StorageError.

        `read` is called in any thread, and maybe later.
        """

    def put(self, name: str, made_at: float, mark: str, read: Callable[[], bytes], size: int | None = None) -> None:
        """Write a file, unless it is there, by `has`; StorageError."""
        if not self.has(name, made_at, mark, size):
            self.write(name, made_at, mark, read, size or 0)

    def put_text(self, name: str, made_at: float, text: str) -> None:
        """Write a small text, unless it is there; StorageError."""

    def settle(self, folder: str) -> None:
        """Have all that was put into a folder so far be there, whatever happens now; StorageError."""

    def done(self, folder: str) -> None:
        """Say that nothing more comes into a folder; StorageError."""

    def close(self) -> None:
        """Be done with all folders: all files are there for any reader when this returns; StorageError."""


class Place(Protocol):
    """The place of an export, whose files are there whole or not at all. Methods raise StorageError."""

    @property
    def address(self) -> str:
        """What the user calls it."""

    @property
    def spool(self) -> Path:
        """A folder of this machine for what is under way."""

    @property
    def set_aside(self) -> int:
        """How many files that a user put, or changed, among those of the export were moved out of its way."""

    def path(self, name: str) -> str:
        """Return what programs that read the export call a file: its absolute path, or its name in a bucket's copy."""

    def writing(self, name: str, made_of: str = "") -> AbstractContextManager[BinaryIO]:
        """Open a file that takes the place of `name` once it is whole; one that has the same bytes stays.

        `made_of` is remembered where files cannot be looked into.
        """

    def put(self, name: str, data: bytes) -> None:
        """Write a small file, unless it is there already and the same. May be called in any thread."""

    def pictures(self, *folders: str) -> Pictures:
        """Return what writes files of single pictures into folders that match these patterns, which are its alone."""

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes; None when it is not there."""

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None when it is not there."""

    def made_of(self, name: str, look: Callable[[Path], str | None]) -> str | None:
        """Return what a file was made of: as `look` finds, or as `writing` was told; None when that is not known."""

    def names(self, pattern: str) -> list[str]:
        """Return the names that match a pattern, in order."""

    def rename(self, names: Mapping[str, str]) -> None:
        """Give files, which are there, other names, which are no file's that is renamed."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and folders that are empty then."""


def marker(kind: str) -> bytes:
    """Return what the marker of a place holds that has an export of a kind."""
    return (json.dumps({"format": kind}) + "\n").encode()


def said(data: bytes) -> str:
    """Return the kind of export that a marker says; '' where it says none."""
    try:
        return str(json.loads(data)["format"])
    except (ValueError, KeyError, TypeError):
        return ""
