"""One SQLite connection, owned by one thread, with group commit.

Every operation is a function of the connection. The thread takes all operations that wait, runs them in one
transaction, commits it durably and only then answers their callers: so a caller that has its answer knows that
its write survives kill -9 and a power cut, and a hundred callers share one fsync.

SQLite 3.7.0 to 3.51.2 can corrupt a WAL database that has two or more connections ("WAL-reset bug", fixed in
3.51.3 and in the 3.50.7 and 3.44.6 branches; https://sqlite.org/wal.html). `status` is a second connection, so on
those versions the rollback journal is used, with synchronous=EXTRA (the directory is synced too); else WAL and FULL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from batchflux.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

BATCH = 1000
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
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise _explain(path, error) from error
    try:
        _set_up(connection, durable=durable)
    except sqlite3.Error as error:
        connection.close()
        raise _explain(path, error) from error
    return connection


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database beside the process that writes it, to look something up.

    Raises:
        StorageError: the file cannot be opened, or turns out to be damaged while it is read.
    """
    connection = connect(path)
    try:
        yield connection
    except sqlite3.Error as error:
        raise _explain(path, error) from error
    finally:
        connection.close()


def _set_up(connection: sqlite3.Connection, *, durable: bool) -> None:
    if not durable:
        connection.execute("PRAGMA synchronous=OFF")
    elif wal_is_safe():
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    else:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA synchronous=EXTRA")
    connection.execute("PRAGMA cache_size=-16384")


class Database:
    """Runs operations on the connection; see the module's head for what an answer promises.

    Args:
        path: the database file.
        after_commit: called in the writing thread, after each commit, before callers are answered.
        after_rollback: called there after each rollback: what the operations noted beside the database is void.
        durable: False skips fsync; for virtual-time tests only.
        threaded: False runs each operation at once in the calling thread; for virtual-time tests only.
    """

    def __init__(
        self,
        path: Path,
        *,
        after_commit: Callable[[], None] | None = None,
        after_rollback: Callable[[], None] | None = None,
        durable: bool = True,
        threaded: bool = True,
    ) -> None:
        self.path = path
        self._connection = connect(path, durable=durable)
        self._after_commit = after_commit
        self._after_rollback = after_rollback
        self._queue: queue.SimpleQueue[tuple[Operation, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._threaded = threaded

    def submit(self, operation: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Run `operation` in the writing thread; the future is done once it is committed.

        The future raises StorageError when the write, the commit or what follows it fails.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._threaded:
            future.set_result(self.now(operation))
            return future
        if self._thread is None:
            self._loop = loop
            self._thread = threading.Thread(target=self._work, name="batchflux-ledger", daemon=True)
            self._thread.start()
        self._queue.put((operation, future))
        return future

    def now(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run `operation` in the calling thread. Only while no submitted operation can be under way."""
        return self._transact([operation])[0]  # type: ignore[no-any-return]  # one operation, its own type

    def close(self) -> None:
        """Finish what was submitted, then close the file."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._connection.close()

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            batch = [first]
            last = False
            while len(batch) < BATCH:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    last = True
                    break
                batch.append(item)
            self._answer(batch)
            if last:
                return

    def _answer(self, batch: list[tuple[Operation, asyncio.Future[Any]]]) -> None:
        results: list[Any] | None = None
        failure: BaseException | None = None
        try:
            results = self._transact([operation for operation, _ in batch])
        except Exception as error:  # noqa: BLE001  handed to every caller of the batch
            failure = error
        futures = [future for _, future in batch]
        loop = self._loop
        if loop is None:
            raise RuntimeError("the ledger's thread has no loop")
        # The loop is gone when a second signal has ended the run; nobody waits for the answer then.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_deliver, futures, results, failure)

    def _transact(self, operations: list[Operation]) -> list[Any]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [operation(connection) for operation in operations]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise _explain(self.path, error) from error
        except BaseException:
            self._roll_back()
            raise
        if self._after_commit is not None:
            self._after_commit()
        return results

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        if self._after_rollback is not None:
            self._after_rollback()


def _deliver(futures: list[asyncio.Future[Any]], results: list[Any] | None, failure: BaseException | None) -> None:
    for index, future in enumerate(futures):
        if future.done():
            continue
        if failure is not None:
            future.set_exception(failure)
        elif results is not None:
            future.set_result(results[index])


def _explain(path: Path, error: Exception) -> StorageError:
    # The low byte is the primary code, the rest says more (https://sqlite.org/rescode.html).
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
        return StorageError(
            f"{path} is damaged or no ledger of batchflux ({error}): restore it from a copy, or choose another folder "
            "with --out."
        )
    return StorageError(
        f"The ledger {path} cannot be written ({error}): free space or repair the folder's permissions, "
        "then run again to continue."
    )
