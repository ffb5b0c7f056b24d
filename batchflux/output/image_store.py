"""Received pictures on their way into the asset store: kept, verified, named after their bytes, stored.

In `.spool/` of the output folder `<key>-<sha256>` holds the picture that came with the answer to the job of that key,
paid for, until it is stored. What cannot be stored under the job's name is kept all the same: whole pictures in
`rejected/`, answers without one in `answers/`, both named after the job and the number of the attempt.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path, PurePosixPath
from posixpath import basename, splitext
from typing import TYPE_CHECKING, TypeVar

from batchflux.errors import Code, JobError, StorageError
from batchflux.failpoints import reach
from batchflux.models import DIFFERENCES, Stored
from batchflux.output import durable
from batchflux.output.base import (
    ALL_SUFFIXES,
    ANSWERS,
    BATCHES,
    IMAGES,
    NUMBERED,
    REJECTED,
    SPOOL,
    SUFFIXES,
    TEMPORARY,
    attempt_of,
    kept_name,
    next_names,
    place_of,
    variants,
)
from batchflux.output.folder_store import FolderStore
from batchflux.output.resources import LowWaterMark
from batchflux.output.verify import Expected, check

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from batchflux.models import Fetched, Inline, Job, Verify
    from batchflux.output.base import AssetStore, Kind

T = TypeVar("T")
_KEPT = re.compile("[0-9a-f]{64}-[0-9a-f]{64}")
_OF_PICTURES = frozenset(ALL_SUFFIXES)
_STARTS = {".json": (b"{", b"["), ".html": (b"<",), ".sse": (b"data:", b"event:", b"id:", b"retry:", b":")}


class ImageStore:
    """Takes a run's pictures, on a few threads, so that verifying and syncing never hold the event loop.

    `root` is the output folder, which must exist, and without `assets` takes the finished pictures too; `mark` learns
    their sizes; `accept` is output.accept. Raises StorageError when the folders for pictures cannot be made.
    """

    def __init__(
        self,
        root: Path,
        verify: Verify,
        assets: AssetStore | None = None,
        mark: LowWaterMark | None = None,
        accept: Collection[str] = (),
    ) -> None:
        self._root = root.absolute()
        self._spool_folder = self._root / SPOOL
        self._verify = verify
        self._assets = assets or FolderStore(root)
        self._mark = mark or LowWaterMark(root)
        self._accept = accepted(accept)
        self._before = _by_attempt(self._root, REJECTED)
        self._spooled: dict[str, bytes] = {}  # from `spool` to `store`, which follows at once: read and hashed no more
        self._numbered = threading.Lock()  # held while a name is taken that a further picture of an answer may have
        processors = max(2, os.cpu_count() or 2)
        self._judging = threading.Semaphore(processors)  # a decoded picture takes up to 256 MB
        self._threads = ThreadPoolExecutor(2 * processors, "batchflux-images")  # others wait for the disk meanwhile
        with durable.storing(self._root):
            durable.make_folders(self._root, self._root / IMAGES)
            durable.make_folders(self._root, self._spool_folder, durable.PRIVATE)

    async def spool(self, job: Job, picture: Inline) -> str:
        """Keep the picture of an answer, crash or not; return its name in the spool, for `store`. StorageError."""
        return await self._in_thread(lambda: self._spool(job.key, picture))

    async def store(self, job: Job, source: Fetched | str, attempt: int) -> Stored:
        """Verify a downloaded, spooled or rejected picture and put it in its place; its suffix follows its bytes.

        A whole picture that differs from the order in more than is accepted, or whose place is taken, is put into
        `rejected/` (`Stored.refused`). What this returns is durable.

        Raises JobError: `bad_image` when it is no whole picture: what came with an answer is kept in `answers/`;
        `echoed_input`; `download` when the source is gone (dead when it was an answer's own bytes). StorageError: the
        source cannot be read or the store cannot take it; a spooled source is left.
        """
        return await self._in_thread(lambda: self._store(job, source, attempt))

    async def store_beside(self, job: Job, own: Stored | None, number: int, source: Fetched | bytes) -> str | None:
        """Keep a whole picture beside the job's own as the `number`th: `mug_2.png`; return its name, None for a copy.

        No other file is written over: it takes the next number. JobError: it is no whole picture. StorageError.
        """
        return await self._in_thread(lambda: self._store_beside(job, own, number, source))

    async def kept_before(self, job: Job, attempt: int) -> Stored | None:
        """Store the picture of an attempt that an earlier run has put into `rejected/`; None when there is none."""
        name = self._before.get(attempt)
        return None if name is None else await self.store(job, name, attempt)

    async def keep_answer(self, job: Job, attempt: int, body: bytes) -> str:
        """Keep what was answered in `answers/`, private and durably; return its name. StorageError."""
        return await self._in_thread(lambda: self._keep_answer(job, attempt, body))

    def came(self, size: int) -> None:
        """Learn the size of a picture that another process has put there, in bytes."""
        self._mark.came(size)

    def sweep(self, recorded: Collection[str]) -> int:
        """Remove what a crash left, but no `recorded` name from `spool`; return the number of files. StorageError."""
        images = self._root / IMAGES
        with durable.storing(self._spool_folder):
            left = [path for path in self._spool_folder.iterdir() if f"{SPOOL}/{path.name}" not in recorded]
            if images.stat().st_dev != self._spool_folder.stat().st_dev:  # see durable.move
                left += images.rglob(f"{TEMPORARY}*")
            left += (self._root / BATCHES).glob("*.jsonl")
            for path in left:
                path.unlink(missing_ok=True)
        return len(left)

    def batch_file(self, name: str) -> Path:
        """Return where the lines of a batch lie until it has left."""
        return self._root / BATCHES / f"{name}.jsonl"

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread; it is done also when its caller is cancelled: the picture is paid for."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, work))

    def _spool(self, key: str, picture: Inline) -> str:
        reach("spool.begun")
        data = picture.data
        place = self._spool_folder / f"{key}-{picture.sha256 or hashlib.sha256(data).hexdigest()}"
        with durable.storing(place):
            durable.move(durable.write_temporary(self._root, data), place)
            durable.sync_folder(self._spool_folder)
        reach("spool.kept")
        self._mark.came(len(data))
        name = f"{SPOOL}/{place.name}"
        self._spooled[name] = data
        return name

    def _keep_answer(self, job: Job, attempt: int, body: bytes | Path) -> str:
        data = body if isinstance(body, bytes) else body.read_bytes()
        name = kept_name(ANSWERS, job.id, attempt, _suffix_of(data))
        target = self._root / name
        with durable.storing(target):
            durable.make_folders(self._root, target.parent, durable.PRIVATE)
            if isinstance(body, bytes):
                body = durable.write_temporary(self._root, body)
            body.chmod(0o600)
            durable.move(body, target)
            durable.sync_folder(target.parent)
        reach("answer.kept")
        return name

    def _store(self, job: Job, source: Fetched | str, attempt: int) -> Stored:
        if not isinstance(source, str) and source.path is None:
            return self._put(job, source.data or b"", None, attempt)
        place = self._root / (source if isinstance(source, str) else str(source.path))
        known = self._spooled.pop(source, None) if isinstance(source, str) else None
        try:
            data = place.read_bytes() if known is None or not place.is_file() else known
        except FileNotFoundError:
            return self._stored_before(job, place, attempt)
        except OSError as error:
            raise durable.unreadable(place, error) from error
        try:
            return self._put(job, data, place, attempt, _spooled_as(place) if data is known else None)
        except (JobError, StorageError) as error:
            # After a full disk a spooled picture stays: it was paid for, and the next run takes it up.
            if isinstance(source, str) and isinstance(error, JobError) and error.code is Code.BAD_IMAGE:
                raise _kept_as(self._keep_answer(job, attempt, place), error) from error
            if isinstance(error, JobError) or place.name.startswith(TEMPORARY):
                place.unlink(missing_ok=True)
            raise

    def _put(self, job: Job, data: bytes, place: Path | None, attempt: int, sha256: str | None = None) -> Stored:
        stored, kind = self._judged(job, data, sha256)
        self._mark.came(len(data))
        refused = None
        if not self._accept.issuperset(stored.differs):
            refused = Code.DIFFERS, f"{stored.remarks}; {_way_on(stored.differs)}"
        else:
            try:
                name = _placed(_checked(job.file_name), kind)
                with self._numbered if NUMBERED.fullmatch(splitext(basename(name))[0]) else nullcontext():
                    said = [stored.remarks, self._made_way(name, stored.sha256)]
                    self._assets.put(name, place or data)
                return replace(stored, file_name=name, remarks="; ".join(filter(None, said)) or None)
            except JobError as error:
                refused = error.code, f"{error.message}; then the next run puts the picture there, without paying"
        name = kept_name(REJECTED, job.id, attempt, SUFFIXES[kind][0])
        FolderStore(self._root).put(name, place or data)
        reach("rejected.kept")
        return replace(stored, file_name=name, refused=(refused[0], f"{refused[1]}. It is kept as {name}."))

    def _store_beside(self, job: Job, own: Stored | None, number: int, source: Fetched | bytes) -> str | None:
        place = None if isinstance(source, bytes) or source.path is None else Path(source.path)
        try:
            if isinstance(source, bytes):
                data = source
            else:
                with durable.storing(self._root):
                    data = source.data or b"" if place is None else place.read_bytes()
            stored, kind = self._judged(job, data)
            if own is not None and stored.sha256 == own.sha256:
                return None
            path = PurePosixPath(_checked(place_of(job, own)))
            with self._numbered:
                while True:
                    name = str(path.with_name(f"{path.stem}_{number}{SUFFIXES[kind][0]}"))
                    there = self._assets.get(name)
                    if there is None:
                        self._assets.put(name, data)
                        self._mark.came(len(data))
                    if there is None or hashlib.sha256(there).hexdigest() == stored.sha256:
                        return name
                    number += 1
        finally:
            if place is not None:
                place.unlink(missing_ok=True)

    def _judged(self, job: Job, data: bytes, sha256: str | None = None) -> tuple[Stored, Kind]:
        """Return what bytes are, in no place yet; JobError when they are no whole picture."""
        with self._judging:
            shape, digest, differs = check(data, expected_of(job), self._verify, sha256)
        stored = Stored(
            file_name="",
            width=shape.width,
            height=shape.height,
            bytes=len(data),
            sha256=digest,
            differs=tuple(differs),
            remarks="; ".join(differs.values()) or None,
        )
        return stored, shape.kind

    def _made_way(self, name: str, sha256: str) -> str | None:
        """Refuse to write over a file that is no job's; one of the same bytes is ours, placed before a kill.

        A further picture of another job's answer takes the next number; what is returned says so.
        """
        there = self._assets.get(name)
        if there is None or hashlib.sha256(there).hexdigest() == sha256:
            return None
        path = PurePosixPath(name)
        found = NUMBERED.fullmatch(path.stem)
        first = [str(path.with_name(f"{found[1]}{suffix}")) for suffix in ALL_SUFFIXES] if found else []
        if not self._assets.present(first):
            raise JobError(Code.INVALID_REQUEST, f"{name} is another file, of no job: move it away")
        other = next(free for free in next_names(name) if not self._assets.present([free]))
        self._assets.move(name, other)
        return f"another job's further picture lay here and is now {other}"

    def _stored_before(self, job: Job, place: Path, attempt: int) -> Stored:
        """Find the picture of a file that is gone: a kill can fall between its move and the ledger's entry.

        StorageError where all is gone, and may be put back: it would be made and paid for again.
        """
        with durable.storing(place):
            self._root.stat()
        if place.name.startswith(TEMPORARY):
            raise JobError(Code.DOWNLOAD, f"the downloaded file {place} is gone, so it has to be fetched again")
        spooled = place.parent == self._spool_folder
        wanted = _spooled_as(place)
        for name in variants(_checked(job.file_name)):
            data = self._assets.get(name)
            if data is not None and (not spooled or hashlib.sha256(data).hexdigest() == wanted):
                return replace(self._judged(job, data)[0], file_name=name)
        name = self._before.get(attempt, "")
        if spooled and name and (self._root / name).is_file():
            return self._store(job, name, attempt)
        self._raise_if_bad(job, attempt, wanted if spooled else None)
        raise JobError(Code.DOWNLOAD, f"the picture kept in {place} is gone, so it has to be made again", dead=True)

    def _raise_if_bad(self, job: Job, attempt: int, sha256: str | None) -> None:
        """Raise JobError `bad_image` where the bytes of an attempt are kept as an answer, as no picture; see `_store`.

        `sha256` is their hex digest, where it is known.
        """
        for path in sorted((self._root / ANSWERS).glob(f"*-{attempt}.*")):
            data = path.read_bytes()
            if sha256 in {None, hashlib.sha256(data).hexdigest()}:
                try:
                    self._judged(job, data)
                except JobError as error:
                    raise _kept_as(f"{ANSWERS}/{path.name}", error) from error


def _spooled_as(place: Path) -> str:
    """Return the hex digest in the name of a spooled picture."""
    return place.name.rpartition("-")[2]


def _kept_as(name: str, error: JobError) -> JobError:
    """Return what to raise of bytes that are no picture and are kept."""
    return JobError(error.code, f"{error.message}. What came is kept as {name}.", final=error.final)


def accepted(accept: Collection[str]) -> frozenset[str]:
    """Return the DIFFERENCES that output.accept takes."""
    return frozenset(DIFFERENCES if "any" in accept else accept)


def expected_of(job: Job) -> Expected:
    """Return what the job's picture was promised to be; what was not sent was not promised."""
    return Expected(
        kind=None if "output_format" in job.dropped else job.output_format,
        ratio=None if "aspect_ratio" in job.dropped else job.aspect_ratio,
        references=frozenset(digest for image in job.references for digest in image.digests),
    )


def _way_on(differs: Collection[str]) -> str:
    return (
        f"output.accept: [{', '.join(differs)}] takes it, without paying, and --retry-failed --pay-again buys another"
    )


def _placed(name: str, kind: Kind) -> str:
    """Return a planned name with the suffix that a picture's bytes ask for."""
    stem, suffix = splitext(name)
    return stem + SUFFIXES[kind][0] if suffix.lower() in _OF_PICTURES.difference(SUFFIXES[kind]) else name


def _suffix_of(body: bytes) -> str:
    """Return the suffix of an answer, by how it begins."""
    start = body[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    for suffix, starts in _STARTS.items():
        if start.startswith(starts):
            return suffix
    return ".bin" if b"\0" in body[:4096] else ".txt"


def _by_attempt(root: Path, folder: str) -> dict[bytes | int, str]:
    with durable.storing(root / folder):
        names = [f"{folder}/{path.name}" for path in (root / folder).glob("*")]
    return {attempt_of(name): name for name in names}


def kept_files(root: Path) -> dict[bytes | int, str]:
    """Return what attempts had kept: pictures in the spool by their job's key, answers by the attempt; StorageError."""
    return kept_pictures(root) | _by_attempt(root, ANSWERS)


def kept_pictures(root: Path) -> dict[bytes | int, str]:
    """Return the pictures that wait in the spool, their names by the key of their job; StorageError."""
    with durable.storing(root / SPOOL):
        names = [path.name for path in (root / SPOOL).glob("*-*")]
    return {bytes.fromhex(name[:64]): f"{SPOOL}/{name}" for name in names if _KEPT.fullmatch(name)}


def _checked(file_name: str) -> str:
    """Return a planned name in its plain form; JobError `invalid_request` when it lies outside `images/`."""
    parts = [part for part in file_name.split("/") if part not in {"", "."}]
    outside = file_name.startswith("/") or parts[:1] != [IMAGES] or ".." in parts
    if outside or len(parts) < 2 or "\0" in file_name:  # noqa: PLR2004  images/x
        raise JobError(Code.INVALID_REQUEST, f"{file_name!a} lies outside {IMAGES}/; change output.file_name")
    return "/".join(parts)
