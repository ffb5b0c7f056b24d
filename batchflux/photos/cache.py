"""What is remembered of photos, so that a second look reads none: in `.cache/` of the output folder.

A file is known by its path, size, times and inode (as git's index knows it), what it is by the digest of its bytes.
It only saves time: where it cannot be read or written, photos are looked at again. A plan without an output folder
remembers in `$XDG_CACHE_HOME/batchflux`, by default `~/.cache/batchflux`, and a run looks there too.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL

from batchflux.output.base import CACHE, LEDGER
from batchflux.photos.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.photos.facts import Kind

NAME = "photos.db"
KEPT_SECONDS = 60 * 86_400
_RULES = f"2 {PIL.__version__}"  # what another decoder said of a photo is asked again
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, state TEXT, sha256 TEXT, kind TEXT, at REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (sha256 TEXT PRIMARY KEY, rules TEXT, facts TEXT, at REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS copies (sha256 TEXT, how TEXT, name TEXT, digest TEXT, kind TEXT, at REAL,
                                   PRIMARY KEY (sha256, how)) WITHOUT ROWID;
"""
_TABLES = ("files", "facts", "copies")
_AT_ONCE = 1000  # notes that wait


def cache_home() -> Path | None:
    """Return the user's cache folder for batchflux; None without a home."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(told) if Path(told).is_absolute() else Path.home() / ".cache") / "batchflux"
    except RuntimeError:
        return None


class Cache:
    """Remembers for one output folder; safe in threads. `folder` is where copies of photos are kept."""

    def __init__(self, output: Path) -> None:
        self.folder = output / CACHE
        own, home = self.folder, cache_home()
        self._places = [place / NAME for place in ([own] if (output / LEDGER).exists() else []) + [home] if place]
        self._lock = threading.Lock()
        self._open: dict[Path, sqlite3.Connection | None] = {}
        self._noted: list[tuple[str, tuple[str | float | None, ...]]] = []

    def digest(self, path: str, found: os.stat_result) -> tuple[str, Kind | None] | None:
        """Return the digest of a file's bytes and what kind they are, as remembered of a file that has not changed."""
        row = self._row("files", "path = ? AND state = ?", _text(path), _state(found))
        return None if row is None else (row[2], row[3])

    def note_digest(self, path: str, found: os.stat_result, sha256: str, kind: str | None) -> None:
        """Remember a file's digest."""
        self._note("files", _text(path), _state(found), sha256, kind)

    def facts(self, sha256: str) -> Facts | None:
        """Return what is known of a photo."""
        row = self._row("facts", "sha256 = ? AND rules = ?", sha256, _RULES)
        return None if row is None else Facts(*json.loads(row[2]))

    def note_facts(self, sha256: str, facts: Facts) -> None:
        """Remember what a photo is."""
        self._note("facts", sha256, _RULES, json.dumps(facts))

    def copy(self, sha256: str, how: str) -> tuple[str, str, str] | None:
        """Return name, digest and kind of the copy that was made of a photo in this way."""
        row = self._row("copies", "sha256 = ? AND how = ?", sha256, how)
        return None if row is None else (row[2], row[3], row[4])

    def note_copy(self, sha256: str, how: str, name: str, digest: str, kind: str) -> None:
        """Remember a copy that was made."""
        self._note("copies", sha256, how, name, digest, kind)

    def save(self) -> None:
        """Make what was noted last."""
        with self._lock:
            self._write()

    def close(self) -> None:
        """Make what was noted last, forget what is old, and let go of the files."""
        with self._lock:
            self._write()
            for connection in filter(None, self._open.values()):
                with contextlib.suppress(sqlite3.Error):
                    for table in _TABLES:
                        connection.execute(f"DELETE FROM {table} WHERE at < ?", (time.time() - KEPT_SECONDS,))  # noqa: S608  ours
                connection.close()
            self._open.clear()

    def _row(self, table: str, which: str, *values: str) -> tuple[Any, ...] | None:
        with self._lock:
            for at, connection in enumerate(self._connections()):
                with contextlib.suppress(sqlite3.Error):
                    found: tuple[Any, ...] | None = connection.execute(
                        f"SELECT * FROM {table} WHERE {which}",  # noqa: S608  ours
                        values,
                    ).fetchone()
                    if found is not None:
                        if at:  # the output folder is to know it by itself
                            self._noted.append((table, found))
                        return found
        return None

    def _note(self, table: str, *values: str | None) -> None:
        with self._lock:
            self._noted.append((table, (*values, time.time())))
            if len(self._noted) >= _AT_ONCE:
                self._write()

    def _write(self) -> None:
        """Write what was noted to the nearest place, in one short transaction: another process may want to."""
        connection = next(self._connections(), None) if self._noted else None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error), connection:
                connection.execute("BEGIN IMMEDIATE")
                for table, row in self._noted:
                    marks = ", ".join("?" * len(row))
                    connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)  # noqa: S608  ours
        self._noted.clear()

    def _connections(self) -> Iterator[sqlite3.Connection]:
        for place in self._places:
            if place not in self._open:
                self._open[place] = _opened(place)
            if (connection := self._open[place]) is not None:
                yield connection


def _opened(place: Path) -> sqlite3.Connection | None:
    """Open what is remembered in a place, which is made; None where that cannot be. What is damaged is begun anew."""
    for _ in range(2):
        connection = None
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = sqlite3.connect(place, timeout=1.0, check_same_thread=False, isolation_level=None)
            connection.executescript(_SCHEMA)
        except sqlite3.OperationalError:
            break  # read-only, or locked for long
        except sqlite3.DatabaseError:
            with contextlib.suppress(OSError):
                place.unlink()
        except OSError:
            return None
        else:
            return connection
        if connection is not None:
            connection.close()
    if connection is not None:
        connection.close()
    return None


def _state(found: os.stat_result) -> str:
    """Return what tells a file's states apart: also one whose time of change was put back."""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_dev} {found.st_ino}"


def _text(path: str) -> str:
    """Return a path as SQLite can hold it: its bytes need not be UTF-8."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
