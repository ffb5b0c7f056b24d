"""One SQLite connection, owned by one thread, with group commit; and how the ledger's file is opened.

The thread takes all operations (functions of the connection) that wait, runs them in one transaction, commits it
durably and only then answers their callers: so an answer means that the write survives kill -9 and a power cut, and a
hundred callers share one fsync. When one of them fails, the transaction is rolled back, and each is run again in one of
its own: so it fails alone, and those that do not pay for it. When the commit fails, all of them do, and none is run
again: a disk that could not sync its last write may hold the transaction.

SQLite 3.7.0 to 3.51.2 can corrupt a WAL database that has two or more connections ("WAL-reset bug", fixed in
3.51.3 and in the 3.50.7 and 3.44.6 branches; https://sqlite.org/wal.html). `status` is a second connection, so on
those versions the rollback journal is used. It is kept (PERSIST) and not deleted at each commit: what makes a commit
is then a synced write to it, and no change to the folder that would have to be synced too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from batchflux.errors import StorageError
from batchflux.failpoints import reach
from batchflux.ledger.tables import prepare_reading
from batchflux.output.durable import remedy_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]
Waiting = tuple[Operation, asyncio.Future[Any]]

BATCH = 1000
BUSY_SECONDS = 30.0
BREATH = 0.01  # seconds after a commit, in which the next gathers, and who judges beside gets a turn
CROWD = 8  # operations of one commit from which on gathering spares more than it delays
TURN = 0.1  # seconds of commits close upon each other after which there is a breath in any case
# SQLITE_ERROR: the schema is not what the program's own statements speak of.
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
_NO_TEXT = "Could not decode to UTF-8"  # the sqlite3 module's own words, which have no code
_HELD = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NO_LOCKS = frozenset(
    {
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_IOERR_LOCK,
        sqlite3.SQLITE_IOERR_RDLOCK,
        sqlite3.SQLITE_IOERR_UNLOCK,
        sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    }
)


def wal_is_safe(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite may use WAL with several connections."""
    patch = {(3, 50): 7, (3, 44): 6}.get((version[0], version[1]))
    return version >= (3, 51, 3) or (patch is not None and version[2] >= patch)


def connect(path: Path, *, durable: bool = True) -> sqlite3.Connection:
    """Open the database file, made 0600 when it is new; StorageError when it cannot be opened or is no database."""
    if not path.is_file():
        # Never a file that may be in use: to close it would drop all locks that this process has on it
        # (https://sqlite.org/howtocorrupt.html, "Posix advisory locks canceled by a separate thread").
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise explained(path, error) from error
    return opened(path, durable=durable)


def beside(path: Path) -> sqlite3.Connection:
    """Open a ledger that is there, of any format, beside the run that writes it; StorageError when it is no ledger."""
    connection = opened(path)
    with contextlib.ExitStack() as stack, explaining(path):
        stack.callback(connection.close)
        connection.execute("PRAGMA temp_store=MEMORY")
        prepare_reading(connection)
        stack.pop_all()
    return connection


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a ledger `beside` the run, to look something up; StorageError also when it turns out to be damaged."""
    with contextlib.closing(beside(path)) as connection, explaining(path):
        yield connection


def begin_beside(connection: sqlite3.Connection) -> None:
    """Begin to write beside a run, as soon as it takes breath between two commits; sqlite3.Error.

    SQLite would look again after up to 100 ms each time, and hardly ever in those moments.
    """
    last = time.monotonic() + BUSY_SECONDS
    connection.execute("PRAGMA busy_timeout=0")
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > last:
                raise
        time.sleep(BREATH / 4)
    connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000:.0f}")


class Database:
    """Runs operations on the connection; see the module's head for what an answer promises.

    `check` may be set to what is called before each transaction: StorageError when the folder is no more this run's.
    `after_commit` is called with the connection in the writing thread, after each commit and before callers are
    answered, `after_rollback` after each rollback: what the operations noted beside the database is void. For
    virtual-time tests only are `durable` False, which skips fsync, and `threaded` False, which runs each operation at
    once in the calling thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        after_commit: Callable[[sqlite3.Connection], None] = lambda _: None,
        after_rollback: Callable[[], None] = lambda: None,
        durable: bool = True,
        threaded: bool = True,
    ) -> None:
        self.path = path
        self._durable = durable
        self._connection = connect(path, durable=durable)
        self._identity = _identity(path)
        self.check: Callable[[], None] = lambda: None
        self._after_commit = after_commit
        self._after_rollback = after_rollback
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._threaded = threaded
        self._committing = False

    def submit(self, operation: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Run `operation` in the writing thread; the future is done once it is committed, or raises StorageError."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self._threaded:
            future.set_result(self.now(operation))
            return future
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="batchflux-ledger", daemon=True)
            self._thread.start()
        self._queue.put((operation, future))
        return future

    def now(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run `operation` in the calling thread, after all that was submitted; for before and after the jobs."""
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

    def _work(self) -> None:
        """Serve the queue until its end: all operations that wait are one transaction."""
        breathed = time.monotonic()
        while (item := self._queue.get()) is not None:
            batch = [item]
            while len(batch) < BATCH and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._queue.put(None)
                    break
                batch.append(following)
            if not self._answer(batch):
                for each in batch:
                    self._answer([each])
            if len(batch) == 1 and self._queue.empty():
                continue  # who comes alone waits for nobody
            if len(batch) >= CROWD or time.monotonic() - breathed > TURN:
                time.sleep(BREATH)
                breathed = time.monotonic()

    def _answer(self, batch: list[Waiting]) -> bool:
        """Run a batch as one transaction and answer its callers; False when several were rolled back for one's sake."""
        results: list[Any] = []
        failure: Exception | None = None
        try:
            results = self._transact([operation for operation, _ in batch])
        except Exception as error:  # noqa: BLE001  handed to the callers of the batch
            if len(batch) > 1 and not self._committing:
                return False
            failure = error
        # The loop is gone when a second signal has ended the run; nobody waits for the answer then.
        with contextlib.suppress(RuntimeError):
            batch[0][1].get_loop().call_soon_threadsafe(_deliver, batch, results, failure)
        return True

    def _transact(self, operations: list[Operation]) -> list[Any]:
        self._committing = False
        self.check()
        self.check_there()
        try:
            with explaining(self.path):
                results = self._transacted(operations)
                reach("commit.made")
                self._after_commit(self._connection)
        except StorageError:
            self.check_there()  # removed meanwhile, it fails as a broken disk does
            raise
        return results

    def _transacted(self, operations: list[Operation]) -> list[Any]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [operation(connection) for operation in operations]
            reach("commit.begun")
            self._committing = True  # one that fails on the disk may have been made all the same
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._after_rollback()
            raise
        return results

    def check_there(self) -> None:
        """Raise StorageError when the file that is open is not the one in its place any more."""
        if _identity(self.path) != self._identity:
            raise StorageError(
                f"The output folder {self.path.parent} was removed or replaced while it was in use: put it back, then "
                "run again to continue; without its ledger everything would be made and paid for anew."
            )


def _deliver(batch: list[Waiting], results: list[Any], failure: Exception | None) -> None:
    for index, (_, future) in enumerate(batch):
        if future.done():
            continue
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(results[index])


def opened(path: Path, *, durable: bool = True) -> sqlite3.Connection:
    """Open the database file that is there; StorageError when it cannot be opened or is no database."""
    with contextlib.ExitStack() as stack, explaining(path):
        uri = f"{path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
        stack.callback(connection.close)
        if durable:
            connection.execute(f"PRAGMA journal_mode={'WAL' if wal_is_safe() else 'PERSIST'}")
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
        for pragma in ("fullfsync", "checkpoint_fullfsync"):  # macOS syncs to the disk's cache only without; else no-op
            connection.execute(f"PRAGMA {pragma}=ON")
        connection.execute("PRAGMA cache_size=-16384")
        connection.execute(
            "PRAGMA secure_delete=ON"
        )  # a link whose picture is there leaves no signature in a free page
        stack.pop_all()
    return connection


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file a path leads to, None when to none."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


@contextlib.contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into a StorageError."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter quotes a damaged schema
        raise explained(path, error) from error


def explained(path: Path, error: Exception) -> StorageError:
    """Say in one sentence what is wrong with the file, and what to do."""
    # The low byte is the primary code, the rest says more (https://sqlite.org/rescode.html).
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF in _DAMAGED or isinstance(error, UnicodeDecodeError) or str(error).startswith(_NO_TEXT):
        return damaged(path, str(error).partition(" column '")[0])
    if code & 0xFF in _HELD:
        what = f"The ledger {path} is held by another program ({error})"
        return StorageError(f"{what}: close what has it open for writing, then run again to continue.")
    if code in _NO_LOCKS:
        what = f"The file system of the ledger {path} has no working locks ({error})"
        return StorageError(f"{what}: move the folder to a local disk, then run again to continue.")
    failed = "opened" if code & 0xFF == sqlite3.SQLITE_CANTOPEN else "written"
    return StorageError(
        f"The ledger {path} cannot be {failed} ({error}): {remedy_for(error)}, then run again to continue."
    )


def remedy_for(error: Exception) -> str:
    """Return what to do about an error by which a ledger could not be written, as an order."""
    if isinstance(error, OSError):
        return remedy_of(error)
    code = getattr(error, "sqlite_errorcode", 0)
    broken = "free space or check the disk" if code == sqlite3.SQLITE_IOERR_WRITE else "check the disk"
    return {
        sqlite3.SQLITE_FULL: "free space",
        sqlite3.SQLITE_CANTOPEN: "see that you may read it, and that its folder is there and can be written to",
        sqlite3.SQLITE_IOERR: broken,
    }.get(code & 0xFF, "make the folder writable")


def damaged(path: Path, what: str) -> StorageError:
    """Return what to raise for a file that cannot be trusted."""
    remedy = "restore it from a copy, or choose another folder with --out"
    return StorageError(f"{path} is damaged or no ledger of batchflux ({what}): {remedy}.")
