"""One SQLite connection, owned by one thread, with group commit.

Every operation is a function of the connection. The thread takes all operations that wait, runs them in one
transaction, commits it durably and only then answers their callers: so a caller that has its answer knows that
its write survives kill -9 and a power cut, and a hundred callers share one fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from batchflux.errors import StorageError
from batchflux.failpoints import reach
from batchflux.ledger.briefly import Briefly
from batchflux.ledger.opening import beside, connect, explained, identity, reading, wal_is_safe

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BATCH", "Database", "beside", "connect", "reading", "wal_is_safe"]

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]
Batch = list[tuple[Operation, asyncio.Future[Any]]]

BATCH = 1000
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})  # the latter: a quota


class Database:
    """Runs operations on the connection; see the module's head for what an answer promises.

    Args:
        path: the database file.
        before_commit: called in the writing thread, before each commit; what it raises rolls back.
        after_commit: called in the writing thread, after each commit, before callers are answered.
        after_rollback: called there after each rollback: what the operations noted beside the database is void.
        durable: False skips fsync; for virtual-time tests only.
        threaded: False runs each operation at once in the calling thread; for virtual-time tests only.

    `relief` may be set to what makes room on a full disk; when it says that it did, the operations are run again.
    """

    def __init__(
        self,
        path: Path,
        *,
        before_commit: Callable[[], None] | None = None,
        after_commit: Callable[[], None] | None = None,
        after_rollback: Callable[[], None] | None = None,
        durable: bool = True,
        threaded: bool = True,
    ) -> None:
        self.path = path
        self._durable = durable
        self._connection = connect(path, durable=durable)
        self._identity = identity(path)
        self.relief: Callable[[], bool] = lambda: False
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._after_rollback = after_rollback
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._batch: Batch = []
        self._out = 0
        self._briefly = Briefly()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._threaded = threaded

    def submit(self, operation: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Run `operation`; the future is done once it is committed.

        What is submitted in one turn of the loop is one batch: committed in place while commits are brief (see
        briefly.py), otherwise in the writing thread, together with what else waits there.

        The future raises StorageError when the write, the commit or what follows it fails.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._threaded:
            future.set_result(self.now(operation))
            return future
        if not self._batch:
            loop.call_soon(self._flush)
        self._batch.append((operation, future))
        return future

    def _flush(self) -> None:
        """Commit what this turn of the loop submitted, here or in the thread."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        if self._out == 0 and self._briefly.in_place():
            began = time.perf_counter()
            _deliver(batch, *self._outcome(batch))
            self._briefly.took(time.perf_counter() - began)
            return
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._work, name="batchflux-ledger", daemon=True)
            self._thread.start()
        self._out += 1
        self._queue.put(batch)

    def now(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run `operation` in the calling thread (the loop's), after all that was submitted."""
        self._finish()
        return self._transact([operation])[0]  # type: ignore[no-any-return]  # one operation, its own type

    def close(self) -> None:
        """Finish what was submitted, then close the file."""
        self._finish()
        if self._durable and not wal_is_safe():
            with contextlib.suppress(sqlite3.Error):  # a reader holds the file: the journal stays, empty, beside it
                self._connection.execute("PRAGMA journal_mode=DELETE")
        self._connection.close()

    def _finish(self) -> None:
        """Finish what was submitted: also by tasks that were cancelled since, and wait for it no more."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if self._batch:
            batch, self._batch = self._batch, []
            _deliver(batch, *self._outcome(batch))

    def _work(self) -> None:
        """Serve the queue until its end: all batches that wait are one transaction."""
        last = False
        while not last:
            first = self._queue.get()
            if first is None:
                return
            batch, turns = list(first), 1
            while len(batch) < BATCH and not self._queue.empty():
                more = self._queue.get()
                if more is None:
                    last = True
                    break
                batch += more
                turns += 1
            results, failure = self._outcome(batch)
            if self._loop is not None:
                # The loop is gone when a second signal has ended the run; nobody waits for the answer then.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._came_back, batch, results, failure, turns)

    def _came_back(self, batch: Batch, results: list[Any] | None, failure: BaseException | None, turns: int) -> None:
        self._out -= turns
        _deliver(batch, results, failure)

    def _outcome(self, batch: Batch) -> tuple[list[Any] | None, BaseException | None]:
        try:
            return self._transact([operation for operation, _ in batch]), None
        except Exception as error:  # noqa: BLE001  handed to every caller of the batch
            return None, error

    def _transact(self, operations: list[Operation]) -> list[Any]:
        if identity(self.path) != self._identity:
            raise StorageError(
                f"The output folder {self.path.parent} was removed or replaced while it was in use: put it back, then "
                "run again to continue; without its ledger everything would be made and paid for anew."
            )
        try:
            return self._commit(operations)
        except sqlite3.Error as error:
            if error.sqlite_errorcode not in _NO_ROOM or not self.relief():
                raise explained(self.path, error) from error
        try:
            return self._commit(operations)
        except sqlite3.Error as error:
            raise explained(self.path, error) from error

    def _commit(self, operations: list[Operation]) -> list[Any]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [operation(connection) for operation in operations]
            if self._before_commit is not None:
                self._before_commit()
            reach("commit.begun")
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        reach("commit.made")
        if self._after_commit is not None:
            self._after_commit()
        return results

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        if self._after_rollback is not None:
            self._after_rollback()


def _deliver(batch: Batch, results: list[Any] | None, failure: BaseException | None) -> None:
    for index, (_, future) in enumerate(batch):
        if future.done():
            continue
        if failure is not None:
            future.set_exception(failure)
        elif results is not None:
            future.set_result(results[index])
