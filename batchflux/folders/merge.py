"""Joins two output folders into a third: all pictures, all that was paid and all that was said of it; nothing is sent.

A job that both have (one key) is one job. The further along of the two stands: done, then with a picture that is kept,
then with a task or link that may give one, then with what is left of one (a link that failed, a picture that was
refused), then failed, unknown, pending; of two alike the first folder's. What the other cost counts as well. All is
made in a folder of another name beside the target, which gets the target's name at the very end: so a kill leaves
nothing that looks like an output folder, and the same command begins anew.

Files are hard links where the file system has them, else copies. The second folder's attempts get new numbers behind
the first's, and so do files and texts that are called after them. The third folder has the first's mirror: what the
second has in another one alone is fetched from there.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import UsageError
from batchflux.folders.pictures import pictures_of
from batchflux.ledger.batches import BATCHES
from batchflux.ledger.books.calls import join_calls
from batchflux.ledger.connection import explaining, opened, reading, wal_is_safe
from batchflux.ledger.health import check_ledger
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.means import NOTE as READER_NOTE
from batchflux.ledger.reviews import join_reviews
from batchflux.ledger.tables import KEYS, LAST, get_meta, set_meta
from batchflux.manifest.identity import folded, mark
from batchflux.output import durable
from batchflux.output.base import (
    ANSWERS,
    IMAGES,
    LEDGER,
    LOCK,
    MANIFEST,
    REJECTED,
    REPLACED,
    SPOOL,
    TEMPORARY,
    UPLOADS,
    next_names,
)
from batchflux.output.folder import FolderLock, ledger_of
from batchflux.output.folder_store import FolderStore
from batchflux.output.image_store import kept_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PARTS = (IMAGES, UPLOADS, REJECTED, ANSWERS, REPLACED, SPOOL)
_NUMBERED = re.compile(rf"\b((?:{REJECTED}|{ANSWERS})/[\w.\-]+-)(\d+)(?=\.\w+)")
_DIGITS = 8  # of a key, behind a name that is taken
_READERS, _AHEAD = 8, 32  # threads that read out of a mirror; pictures that are in memory for it
_RANK = (
    "CASE WHEN {job}.status = 'done' THEN 0 ELSE COALESCE((SELECT CASE"
    " WHEN last.spool IS NOT NULL AND {job}.status != 'failed' THEN 1"
    " WHEN last.state = 'submitted' OR last.state = 'unknown' AND handle IS NOT NULL"
    " OR last.link IS NOT NULL AND {job}.status != 'failed' THEN 2"
    " WHEN last.link IS NOT NULL OR {job}.file_name LIKE 'rejected/%' THEN 3 END"
    " FROM {at}.attempts AS last LEFT JOIN {at}.submissions AS sent ON sent.number = last.submission WHERE last.number"
    " = (SELECT MAX(number) FROM {at}.attempts WHERE job = {job}.number AND billed IS NOT 'no')),"
    " INSTR('failed unknown pending', {job}.status) + 3) END"
)
_PAIRS = (
    "SELECT their.number, lower(hex(their.key)), their.id, their.planned, their.file_name, their.sha256, our.number,"  # noqa: S608  constants
    f" our.sha256, COALESCE({_RANK.format(job='their', at='other')} < {_RANK.format(job='our', at='main')}, 1)"
    " FROM other.jobs AS their LEFT JOIN main.jobs AS our ON our.key = their.key"
    " ORDER BY their.position, their.number"
)
_STANDING = (
    "status, width, height, bytes, sha256, error_code, started_at, finished_at, api_seconds, download_seconds, remarks,"
    " differs, seed_used, revised_prompt"
)
_ADD = (
    "INSERT INTO jobs (key, id, position, listed, planned, tags, spec, file_name, error, "  # noqa: S608  constants
    f"{_STANDING}) SELECT key, ?, position + ?, listed, ?, tags, spec, ?, of_second(error), {_STANDING}"
    " FROM other.jobs WHERE number = ? RETURNING number"
)
_REPLACE = (
    f"UPDATE jobs SET (file_name, error, {_STANDING}) = (SELECT ?, of_second(error), {_STANDING} FROM other.jobs"  # noqa: S608  constants
    " WHERE number = ?) WHERE number = ?"
)
_ATTEMPT = "model, state, price, cost, billed, counts, ended_at, code, link, spool"
_ADD_ATTEMPTS = (
    f"INSERT INTO attempts (number, job, submission, {_ATTEMPT}, error, answer) SELECT their.number + ?, joined.job,"  # noqa: S608  constants
    f" submission + ?, {_ATTEMPT}, of_second(error), of_second(answer) FROM other.attempts AS their"
    " JOIN joined ON joined.theirs = their.job"
)
_ADD_SUBMISSIONS = (
    "INSERT INTO submissions (number, provider, key_name, handle, sent_at)"
    " SELECT number + ?, provider, key_name, handle, sent_at FROM other.submissions"
)
_BATCH = "name, kind, state, handle, closed_at, again"
_ADD_BATCHES = f"INSERT INTO batches (submission, {_BATCH}) SELECT submission + ?, {_BATCH} FROM other.batches"  # noqa: S608  constants
_SPENT_ANYHOW = (  # attempts of which nothing is waited for, as the job stands by another's
    "UPDATE attempts SET billed = CASE WHEN billed IS NULL THEN 'maybe' ELSE billed END, link = NULL, spool = NULL,"
    " state = CASE WHEN billed IS NULL THEN 'unknown' ELSE state END WHERE job = ? AND (number > ?) = ?"
)
_BUMP = (
    "UPDATE attempts SET number = (SELECT MAX(number) + 1 FROM attempts)"  # noqa: S608  constants
    " WHERE number = (SELECT MAX(number) FROM attempts WHERE job = ?1 AND number <= ?2 AND billed IS NOT 'no')"
    f" AND number < {LAST.format(job='?1')} RETURNING number"
)


_SPENT = "SELECT EXISTS (SELECT 1 FROM {at}.attempts WHERE COALESCE(cost, price) > 0 AND billed IS NOT 'no')"


class Pair(NamedTuple):
    """A job of the second folder, and the first's of the same key, where it has one; `wins`: the second's stands."""

    theirs: int
    key: str
    id: str
    planned: str
    file_name: str | None
    sha256: str | None
    ours: int | None
    our_sha256: str | None
    wins: int


@dataclass(slots=True, kw_only=True)
class Merged:
    """What a merge came to: `jobs` in all, `shared` by both folders.

    `renamed` has old and new ids of jobs whose id or file name another one had, `aside` where a second picture of a job
    lies that both had made.
    """

    jobs: int = 0
    shared: int = 0
    renamed: list[tuple[str, str]] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)


def merge(first: Path, second: Path, target: Path, finish: Callable[[Path, sqlite3.Connection], None]) -> Merged:
    """Join two output folders into `target`; `finish` writes what shows the ledger, given the folder and it.

    Raises UsageError: one is no output folder, the target is not empty, or they have spent in different currencies;
    FolderBusy: a run holds one; StorageError: the target cannot be written. The target is as it was then.
    """
    with ExitStack() as stack:
        if first.resolve() == second.resolve():
            raise UsageError(f"{first} and {second} are one folder: name two.")
        for folder in (first, second):
            ledger_of(folder)
            _locked(folder, stack)
            check_ledger(folder / LEDGER)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{target} is there already: name a new folder with -o.")
        work = target.absolute().parent / f".{target.name}.merging"
        _locked(work, stack)
        with durable.storing(target):
            for left in work.iterdir():  # of a merge that was killed
                if left.name != LOCK:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            (work / IMAGES).mkdir()
            (work / SPOOL).mkdir(mode=durable.PRIVATE)
            merged = _join(first, second, work, finish)
            work.rename(target)
            durable.sync_folder(target.absolute().parent)
    return merged


def _locked(folder: Path, stack: ExitStack) -> None:
    lock = FolderLock(folder)
    lock.acquire()
    stack.callback(lock.release)


def _join(first: Path, second: Path, work: Path, finish: Callable[[Path, sqlite3.Connection], None]) -> Merged:
    ledger, other = _copied(first, work / LEDGER), _copied(second, work / SPOOL / LEDGER)
    with closing(opened(ledger)) as connection, explaining(ledger):
        connection.execute("ATTACH ? AS other", (str(other),))
        connection.execute("BEGIN IMMEDIATE")
        joint = _Joint(connection, first, second)
        joint.join()
        connection.execute("COMMIT")
        connection.execute("DETACH other")
        for left in work.glob(f"{SPOOL}/{LEDGER}*"):
            left.unlink()
        joint.bring(work)
        finish(work, connection)
        if not wal_is_safe():
            connection.execute("PRAGMA journal_mode=DELETE")
    return joint.merged


def _copied(folder: Path, path: Path) -> Path:
    """Copy a folder's ledger as its next run would find it: of today's format, and with no request out."""
    with explaining(folder / LEDGER), closing(opened(folder / LEDGER)) as source:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(path)) as copy:
            source.backup(copy)
    Ledger(path, kept=kept_files(folder)).close()
    return path


class _Joint:
    """The first folder's ledger, that the second's is attached to as `other`, on its way to be both."""

    def __init__(self, connection: sqlite3.Connection, first: Path, second: Path) -> None:
        self.merged = Merged()
        self._connection, self._first, self._second = connection, first, second
        self._attempts: int = connection.execute("SELECT COALESCE(MAX(number), 0) FROM main.attempts").fetchone()[0]
        self._bumped: dict[int, int] = {}  # the first folder's attempts that get a number behind the second's
        self._names: dict[str, str | None] = {}  # the second's pictures that get another name; None: none of its own
        self._placed: set[str] = set()  # pictures of the second's jobs, by their new names
        self._ids = {mark(folded(name)) for (name,) in connection.execute("SELECT id FROM jobs")}
        named = connection.execute("SELECT planned, file_name FROM jobs")
        self._files = {mark(folded(name)) for row in named for name in row if name is not None}
        connection.create_function("of_first", 1, lambda text: _renumbered(text, self._of_first))
        connection.create_function("of_second", 1, lambda text: _renumbered(text, self._of_second))

    def join(self) -> None:
        """Join the tables, within the caller's transaction; UsageError when two currencies were spent."""
        execute = self._connection.execute
        currency = self._currency()
        behind = execute("SELECT COALESCE(MAX(position), -1) + 1 FROM jobs").fetchone()[0]
        shared: list[tuple[int, bool]] = []
        execute("CREATE TEMP TABLE joined (theirs INTEGER PRIMARY KEY, job INTEGER NOT NULL)")
        for pair in map(Pair._make, execute(_PAIRS)):
            if pair.ours is None:
                number = self._add(pair, behind)
            else:
                number = self._choose(pair, pair.ours)
                shared.append((number, bool(pair.wins)))
            execute("INSERT INTO joined VALUES (?, ?)", (pair.theirs, number))
        submissions = execute("SELECT COALESCE(MAX(number), 0) FROM main.submissions").fetchone()[0]
        execute(_ADD_SUBMISSIONS, (submissions,))
        if execute("SELECT 1 FROM other.sqlite_master WHERE name = 'batches'").fetchone():
            execute(BATCHES)
            execute(_ADD_BATCHES, (submissions,))
        execute(_ADD_ATTEMPTS, (self._attempts, submissions))
        for number, theirs in shared:
            self._let_stand(number, theirs=theirs)
        if self._bumped:
            execute("UPDATE jobs SET file_name = of_first(file_name), error = of_first(error)")
            execute("UPDATE attempts SET answer = of_first(answer), error = of_first(error)")
        execute("INSERT INTO receipts SELECT submission + ?, name FROM other.receipts", (submissions,))
        execute("INSERT INTO balances SELECT * FROM other.balances")
        execute("INSERT OR IGNORE INTO aliases SELECT * FROM other.aliases")
        execute("INSERT OR IGNORE INTO further SELECT * FROM other.further")
        execute("INSERT OR IGNORE INTO uploads SELECT * FROM other.uploads")
        join_reviews(self._connection)
        join_calls(self._connection)
        self._note(currency)
        self.merged.shared = len(shared)

    def bring(self, work: Path) -> None:
        """Put the files of both folders into a third: as links where that can be."""
        with durable.storing(work):
            if (manifest := self._first / MANIFEST).is_file():
                shutil.copyfile(manifest, work / MANIFEST)
            for name in _files_of(self._first):
                _link(self._first / name, work / _renumbered(name, self._of_first))
            for name in _files_of(self._second):
                target = self._names.get(name, _renumbered(name, self._of_second))
                if target is not None:
                    self._bring_beside(self._second / name, work, target)
            self._bring_mirrored(work)
            for folder in {path.parent for path in work.rglob("*")}:
                durable.sync_folder(folder)

    def _bring_beside(self, source: Path, work: Path, name: str) -> None:
        """Put a file of the second folder where one of the first may lie; that of no job gets another name."""
        target, theirs = work / name, name in self._placed
        if target.exists() and filecmp.cmp(source, target, shallow=False):
            return
        if theirs:
            _make_room(target)
        elif target.exists() or mark(folded(name)) in self._files:  # of a job whose picture may be in the mirror alone
            target = _free(target)
        _link(source, target)

    def _bring_mirrored(self, work: Path) -> None:
        """See that what the second folder has in its mirror can be had: where it is, or as a file."""
        with reading(self._second / LEDGER) as connection:
            pictures = pictures_of(self._second, connection)
            shared = pictures.mirror is not None and pictures.mirror == get_meta(self._connection, "mirror")
            rows = connection.execute("SELECT file_name, sha256, mirrored FROM known WHERE mirrored IS NOT NULL")
            apart = (row for row in rows if not (shared and self._travels(*row)) and self._is_wanted(row[0]))
            with ThreadPoolExecutor(_READERS, "batchflux-merge") as threads:
                while batch := list(islice(apart, _AHEAD)):
                    read = threads.map(lambda row: pictures.read(*row), batch)
                    for (name, *_), data in zip(batch, read, strict=True):
                        target = str(self._names.get(name, name))
                        _make_room(work / target)
                        FolderStore(work).put(target, data)

    def _is_wanted(self, name: str) -> bool:
        """Whether a picture of the second folder has a place in the new one, and no file."""
        return self._names.get(name, name) is not None and not (self._second / name).is_file()

    def _travels(self, _name: str, sha256: str, mirrored: str) -> bool:
        """Note what an object of the mirror that both have holds; False where the first's ledger says otherwise."""
        self._connection.execute("INSERT OR IGNORE INTO mirrored VALUES (?, ?, 0)", (mirrored, sha256))
        found = self._connection.execute("SELECT sha256 FROM mirrored WHERE name = ?", (mirrored,)).fetchone()
        return bool(found[0] == sha256)

    def _add(self, pair: Pair, behind: int) -> int:
        """Add a job that only the second folder has, behind the first's."""
        name, planned = pair.id, pair.planned
        if mark(folded(name)) in self._ids or mark(folded(planned)) in self._files:
            name, planned = f"{name}-{pair.key[:_DIGITS]}", _marked(planned, pair.key)
            self.merged.renamed.append((pair.id, name))
        self._ids.add(mark(folded(name)))
        self._files.add(mark(folded(planned)))
        values = (name, behind, planned, self._place(pair, planned), pair.theirs)
        return int(self._connection.execute(_ADD, values).fetchone()[0])

    def _choose(self, pair: Pair, ours: int) -> int:
        """Let a job that both have stand as the one does that is further along."""
        if pair.wins:
            file_name = self._place(pair, pair.planned)
            self._connection.execute(_REPLACE, (file_name, pair.theirs, ours))
        elif pair.file_name is not None and not _NUMBERED.match(pair.file_name):
            self._names[pair.file_name] = None
            if pair.sha256 != pair.our_sha256:
                aside = _marked(f"{REPLACED}/{PurePosixPath(pair.file_name).name}", pair.sha256 or pair.key)
                self._names[pair.file_name] = aside
                self.merged.aside.append(aside)
        return ours

    def _place(self, pair: Pair, planned: str) -> str | None:
        """Return under which name a job's picture lies in the new folder; None where it has none."""
        if pair.file_name is None or _NUMBERED.match(pair.file_name):
            return None if pair.file_name is None else str(_renumbered(pair.file_name, self._of_second))
        name = pair.file_name
        if mark(folded(name)) in self._files and name != planned:
            name = self._names[pair.file_name] = _marked(name, pair.key)
        self._files.add(mark(folded(name)))
        self._placed.add(name)
        return name

    def _let_stand(self, job: int, *, theirs: bool) -> None:
        """Let the attempts of the one that stands be the last, and nothing be waited for from the other's."""
        self._connection.execute(_SPENT_ANYHOW, (job, self._attempts, not theirs))
        if not theirs:
            last = "SELECT MAX(number) FROM attempts WHERE job = ? AND number <= ? AND billed IS NOT 'no'"
            before = self._connection.execute(last, (job, self._attempts)).fetchone()[0]
            moved = self._connection.execute(_BUMP, (job, self._attempts)).fetchone()
            if moved is not None:
                self._bumped[before] = moved[0]

    def _note(self, currency: str) -> None:
        ours, theirs = self._connection, _meta_of_other(self._connection)
        if get_meta(ours, "keys") != KEYS or theirs.get("keys") != KEYS:
            ours.execute("DELETE FROM meta WHERE name = 'keys'")
        notes = {"clean": "1", "waiting": "", "deadline": "", "currency": currency}
        readers = [note for note in (get_meta(ours, READER_NOTE), theirs.get(READER_NOTE)) if note is not None]
        if readers:
            notes[READER_NOTE] = min(readers, key=int)
        if "0" in {get_meta(ours, "simulated"), theirs.get("simulated")}:
            notes["simulated"] = "0"
        ours.execute("DELETE FROM meta WHERE name = 'began'")  # no run of this folder was
        listed = ours.execute("SELECT COUNT(*) FROM jobs WHERE listed").fetchone()[0]
        for name, value in (notes | {"total": str(listed)}).items():
            set_meta(ours, name, value)
        self.merged.jobs = ours.execute("SELECT COUNT(*) FROM jobs").fetchone()[0]

    def _currency(self) -> str:
        """Return the currency in which either has spent; UsageError when they are two."""
        ours, theirs = (
            (get_meta(self._connection, "currency") or ""),
            _meta_of_other(self._connection).get("currency", ""),
        )
        spent, more = (self._connection.execute(_SPENT.format(at=at)).fetchone()[0] for at in ("main", "other"))
        if spent and more and ours != theirs:
            told = f"{self._first} in {ours}, {self._second} in {theirs}"
            raise UsageError(f"The folders have spent in different currencies ({told}), which cannot be added.")
        return ours if spent or not more else theirs

    def _of_first(self, attempt: int) -> int:
        return self._bumped.get(attempt, attempt)

    def _of_second(self, attempt: int) -> int:
        return attempt + self._attempts


def _meta_of_other(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT name, value FROM other.meta"))


def _renumbered(text: Any, number: Callable[[int], int]) -> Any:
    """Return a text in which files that are called after an attempt are called after its new number."""
    return text if text is None else _NUMBERED.sub(lambda found: f"{found[1]}{number(int(found[2]))}", text)


def _marked(name: str, digits: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{digits[:_DIGITS]}{path.suffix}"))


def _files_of(folder: Path) -> Iterator[str]:
    """Yield the names of all files of a folder that were paid for, or wait to be named."""
    for part in _PARTS:
        for path in sorted((folder / part).rglob("*")):
            if path.is_file() and not path.name.startswith(TEMPORARY):
                yield path.relative_to(folder).as_posix()


def _free(target: Path) -> Path:
    """Return a file beside one, of a name that none has."""
    return next(free for free in map(target.with_name, next_names(target.name)) if not free.exists())


def _make_room(target: Path) -> None:
    """Give a file that lies where another is to be another name."""
    if target.exists():
        target.rename(_free(target))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=source.parent.stat().st_mode & 0o777, parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links, or too many of one file
        shutil.copy2(source, target)
        durable.sync_file(target)
