"""Received pictures on their way into the asset store: kept, verified, named after their bytes, stored.

In `.spool/` of the output folder `<key>-<sha256>` holds the picture that came with the answer to the job of that key,
paid for, until it is stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from batchflux.errors import Code, JobError, StorageError
from batchflux.failpoints import reach
from batchflux.models import Stored
from batchflux.output import durable
from batchflux.output.base import ALL_SUFFIXES, IMAGES, SPOOL, SUFFIXES, TEMPORARY, variants
from batchflux.output.folder_store import FolderStore
from batchflux.output.resources import LowWaterMark
from batchflux.output.verify import Expected, check

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from batchflux.models import Fetched, Inline, Job, Verify
    from batchflux.output.base import AssetStore

T = TypeVar("T")
_KEPT = re.compile("[0-9a-f]{64}-[0-9a-f]{64}")


class ImageStore:
    """Takes a run's pictures, on a few threads, so that verifying and syncing never hold the event loop.

    `root` is the output folder, which must exist, and without `assets` takes the finished pictures too; `mark` learns
    their sizes. Raises StorageError when the folders for pictures cannot be made.
    """

    def __init__(
        self, root: Path, verify: Verify, assets: AssetStore | None = None, mark: LowWaterMark | None = None
    ) -> None:
        self._root = root.absolute()
        self._spool_folder = self._root / SPOOL
        self._verify = verify
        self._assets = assets or FolderStore(root)
        self._mark = mark or LowWaterMark(root)
        self._threads = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "batchflux-images")
        with durable.storing(self._root):
            durable.make_folders(self._root, self._root / IMAGES)
            durable.make_folders(self._root, self._spool_folder, durable.PRIVATE)

    async def spool(self, job: Job, picture: Inline) -> str:
        """Keep the picture of an answer, crash or not; return its name in the spool, for `store`. StorageError."""
        return await self._in_thread(lambda: self._spool(job.key, picture.data))

    async def store(self, job: Job, source: Fetched | str) -> Stored:
        """Verify a downloaded or spooled picture and put it in its place, durably; its suffix follows its bytes.

        Raises JobError: `bad_image` or `echoed_input` when it is not what was asked for, `download` when the source is
        gone (dead when it was an answer's own bytes), `invalid_request` when there can be no such file: the source is
        removed. StorageError: the source cannot be read or the store cannot take it; a spooled source is left.
        """
        return await self._in_thread(lambda: self._store(job, source))

    def sweep(self, recorded: Collection[str]) -> int:
        """Remove what a crash left, but no `recorded` name from `spool`; return the number of files. StorageError."""
        images = self._root / IMAGES
        with durable.storing(self._spool_folder):
            left = [path for path in self._spool_folder.iterdir() if f"{SPOOL}/{path.name}" not in recorded]
            if images.stat().st_dev != self._spool_folder.stat().st_dev:  # see durable.move
                left += images.rglob(f"{TEMPORARY}*")
            for path in left:
                path.unlink(missing_ok=True)
        return len(left)

    def check_writable(self) -> None:
        """See that pictures can be kept before any is paid for; StorageError when they cannot."""
        probe = self._spool_folder / f"{TEMPORARY}probe"
        with durable.storing(self._spool_folder):
            probe.touch()
            probe.unlink()

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread; it is done also when its caller is cancelled: the picture is paid for."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, work))

    def _spool(self, key: str, data: bytes) -> str:
        reach("spool.begun")
        place = self._spool_folder / f"{key}-{hashlib.sha256(data).hexdigest()}"
        with durable.storing(place):
            durable.move(durable.write_temporary(self._root, data), place)
            durable.sync_folder(self._spool_folder)
        reach("spool.kept")
        self._mark.came(len(data))
        return f"{SPOOL}/{place.name}"

    def _store(self, job: Job, source: Fetched | str) -> Stored:
        if not isinstance(source, str) and source.path is None:
            return self._put(job, source.data or b"", None)
        place = self._root / (source if isinstance(source, str) else str(source.path))
        try:
            data = place.read_bytes()
        except FileNotFoundError:
            return self._stored_before(job, place)
        except OSError as error:
            raise durable.unreadable(place, error) from error
        try:
            return self._put(job, data, place)
        except (JobError, StorageError) as error:
            # After a full disk a spooled picture stays: it was paid for, and the next run takes it up.
            if isinstance(error, JobError) or place.name.startswith(TEMPORARY):
                place.unlink(missing_ok=True)
            raise

    def _put(self, job: Job, data: bytes, place: Path | None) -> Stored:
        stored = self._verified(job, _checked(job.file_name), data)
        self._assets.put(stored.file_name, place or data)
        self._mark.came(len(data))
        return stored

    def _verified(self, job: Job, name: str, data: bytes) -> Stored:
        shape, digest = check(data, expected_of(job), self._verify)
        path = PurePosixPath(name)
        if path.suffix.lower() in ALL_SUFFIXES and path.suffix.lower() not in SUFFIXES[shape.kind]:
            name = str(path.with_suffix(SUFFIXES[shape.kind][0]))
        return Stored(file_name=name, width=shape.width, height=shape.height, bytes=len(data), sha256=digest)

    def _stored_before(self, job: Job, place: Path) -> Stored:
        """Find the picture of a spooled file that is gone: a kill can fall between its move and the ledger's entry."""
        if place.name.startswith(TEMPORARY):
            raise JobError(Code.DOWNLOAD, f"the downloaded file {place} is gone, so it has to be fetched again")
        wanted = place.name.rpartition("-")[2]
        for name in variants(_checked(job.file_name)):
            data = self._assets.get(name)
            if data is not None and hashlib.sha256(data).hexdigest() == wanted:
                return self._verified(job, name, data)
        raise JobError(Code.DOWNLOAD, f"the picture kept in {place} is gone, so it has to be made again", dead=True)


def expected_of(job: Job) -> Expected:
    """Return what the job's picture was promised to be; what was not sent was not promised."""
    return Expected(
        kind=None if "output_format" in job.dropped else job.output_format,
        ratio=None if "aspect_ratio" in job.dropped else job.aspect_ratio,
        references=frozenset(image.sha256 for image in job.images if image.sha256 is not None),
    )


def kept_pictures(root: Path) -> dict[bytes, str]:
    """Return the pictures that wait in the spool, their names by the key of their job; StorageError."""
    with durable.storing(root / SPOOL):
        names = [path.name for path in (root / SPOOL).glob("*-*")]
    return {bytes.fromhex(name[:64]): f"{SPOOL}/{name}" for name in names if _KEPT.fullmatch(name)}


def _checked(file_name: str) -> str:
    """Return a planned name in its plain form; JobError `invalid_request` when it lies outside `images/`."""
    parts = PurePosixPath(file_name).parts
    if len(parts) < 2 or parts[0] != IMAGES or ".." in parts or "\0" in file_name:  # noqa: PLR2004  images/x
        raise JobError(Code.INVALID_REQUEST, f"{file_name!a} lies outside {IMAGES}/; change output.file_name")
    return "/".join(parts)
