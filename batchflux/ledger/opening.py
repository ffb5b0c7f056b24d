"""How the ledger's file is opened, and which file it is; and what a failure of it means to the user.

SQLite 3.7.0 to 3.51.2 can corrupt a WAL database that has two or more connections ("WAL-reset bug", fixed in
3.51.3 and in the 3.50.7 and 3.44.6 branches; https://sqlite.org/wal.html). `status` is a second connection, so on
those versions the rollback journal is used. It is kept (PERSIST) and not deleted at each commit: what makes a commit
is then a synced write to it, and no change to the folder that would have to be synced too.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchflux.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSY_SECONDS = 30.0
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def wal_is_safe(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite may use WAL with several connections."""
    fixed_in_branch = {(3, 50): 7, (3, 44): 6}
    patch = fixed_in_branch.get((version[0], version[1]))
    return version >= (3, 51, 3) or (patch is not None and version[2] >= patch)


def connect(path: Path, *, durable: bool = True) -> sqlite3.Connection:
    """Open the database file, made 0600 when it is new.

    Raises:
        StorageError: the file cannot be opened or is not a database.
    """
    try:
        if not path.is_file():
            # Never a file that may be in use: to close it would drop all locks that this process has on it
            # (https://sqlite.org/howtocorrupt.html, "Posix advisory locks canceled by a separate thread").
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise explained(path, error) from error
    return _ready(path, connection, durable=durable)


def beside(path: Path) -> sqlite3.Connection:
    """Open a database that is there, beside the run that writes it, in this process or another; it makes no file.

    Raises:
        StorageError: the file is not there, cannot be opened or is not a database.
    """
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
    except sqlite3.Error as error:
        raise explained(path, error) from error
    return _ready(path, connection, durable=True)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database beside the process that writes it, to look something up.

    Raises:
        StorageError: the file cannot be opened, or turns out to be damaged while it is read.
    """
    connection = beside(path)
    try:
        yield connection
    except sqlite3.Error as error:
        raise explained(path, error) from error
    finally:
        connection.close()


def _ready(path: Path, connection: sqlite3.Connection, *, durable: bool) -> sqlite3.Connection:
    try:
        _set_up(connection, durable=durable)
    except sqlite3.Error as error:
        connection.close()
        raise explained(path, error) from error
    return connection


def _set_up(connection: sqlite3.Connection, *, durable: bool) -> None:
    if not durable:
        connection.execute("PRAGMA synchronous=OFF")
    elif wal_is_safe():
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    else:
        connection.execute("PRAGMA journal_mode=PERSIST")
        connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-16384")
    connection.execute("PRAGMA secure_delete=ON")  # a link whose picture is there leaves no signature in a free page


def identity(path: Path) -> tuple[int, int] | None:
    """Say which file a path leads to, None when to none."""
    try:
        found = os.stat(path)  # noqa: PTH116  once a commit: half the time of Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino


def explained(path: Path, error: Exception) -> StorageError:
    """Say in one sentence what is wrong with the file, and what to do."""
    # The low byte is the primary code, the rest says more (https://sqlite.org/rescode.html).
    code = getattr(error, "sqlite_errorcode", 0) if isinstance(error, sqlite3.Error) else 0
    if code & 0xFF in _DAMAGED:
        return StorageError(
            f"{path} is damaged or no ledger of batchflux ({error}): restore it from a copy, or choose another folder "
            "with --out."
        )
    broken = code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_WRITE
    remedy = "check the disk" if broken else "free space or repair the folder's permissions"
    return StorageError(f"The ledger {path} cannot be written ({error}): {remedy}, then run again to continue.")
