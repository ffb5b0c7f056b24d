"""Puts pictures in their place on threads, so that verifying and fsync never hold the event loop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from batchflux.errors import JobError, StorageError
from batchflux.output.image_store import Expected, ImageStore
from batchflux.output.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Collection

    from batchflux.models import Fetched, Inline, Job, Stored, Verify
    from batchflux.output.ballast import Ballast


def expected_of(job: Job) -> Expected:
    """Return what the job's picture was promised to be; what was not sent was not promised."""
    return Expected(
        kind=None if "output_format" in job.dropped else job.output_format,
        ratio=None if "aspect_ratio" in job.dropped else job.aspect_ratio,
        references=frozenset(image.sha256 for image in job.images if image.sha256 is not None),
    )


class DiskShelf:
    """An ImageStore behind a few threads; `root` is the output folder, `ballast` its reserve for a full disk."""

    def __init__(self, root: Path, verify: Verify, ballast: Ballast | None = None) -> None:
        self._root = root
        self._verify = verify
        self._ballast = ballast
        self._images = ImageStore(root)
        self._threads = Threads(max(2, os.cpu_count() or 2), "batchflux-shelf")

    async def spool(self, job: Job, picture: Inline) -> str:
        """Keep the bytes that a job's answer brought durably; return the name of their file in the folder."""
        return await self._threads.run(lambda: self._spool(job, picture.data))

    async def store(self, job: Job, source: Fetched | str) -> Stored:
        """Verify a downloaded or spooled picture and put it in its place.

        Raises:
            JobError: it is not the picture that was promised.
            StorageError: the folder cannot take it.
        """
        return await self._threads.run(lambda: self._store(job, source))

    def sweep(self, recorded: Collection[str]) -> None:
        """Remove what a crash left behind, but for the `recorded` names of spooled pictures that are still needed."""
        self._images.sweep(recorded)

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.close()

    def sync(self) -> None:
        """Make the names of all stored pictures last; called in any thread, before they are recorded as done."""
        self._images.sync()

    def _spool(self, job: Job, data: bytes) -> str:
        try:
            name = self._images.spool(data, job.key)
        except StorageError as error:
            if self._ballast is None or not self._ballast.helps(error) or not self._ballast.release():
                raise
            return self._images.spool(data, job.key)
        if self._ballast is not None:
            self._ballast.came(len(data))
        return name

    def _store(self, job: Job, source: Fetched | str) -> Stored:
        if isinstance(source, str):
            place: Path | None = self._root / source
        else:
            place = None if source.path is None else Path(source.path)
        data = source.data if not isinstance(source, str) else None
        try:
            stored = self._images.store(
                data if data is not None else place or Path(),
                file_name=job.file_name,
                expect=expected_of(job),
                verify=self._verify,
            )
        except JobError:
            _remove(place)
            raise
        # After any other failure (a full disk) the bytes stay: they were paid for, and the next run takes them up.
        _remove(place)
        return stored


def _remove(place: Path | None) -> None:
    if place is not None:
        place.unlink(missing_ok=True)
