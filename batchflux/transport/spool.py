"""Where the bytes of a download wait: in memory while few, then in a temporary file.

Temporary names start with `.tmp-`: the output folder's sweep removes what a crash leaves behind. A write that runs
in a thread cannot be cancelled, so a cancelled download waits for it before the file is closed and removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from typing import TYPE_CHECKING, TypeVar

import aiofiles
import aiofiles.os

from batchflux.errors import StorageError
from batchflux.output.base import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aiofiles.threadpool.binary import AsyncBufferedIOBase

T = TypeVar("T")


class Spool:
    """Takes the bytes of one download; holds at most `over` of them in memory."""

    __slots__ = ("_chunks", "_file", "_folder", "_held", "_over", "_path", "size")

    def __init__(self, folder: str, over: int) -> None:
        self.size = 0
        self._folder = folder
        self._over = over
        self._chunks: list[bytes] = []
        self._held = 0
        self._path: str | None = None
        self._file: AsyncBufferedIOBase | None = None

    async def add(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            StorageError: the temporary file cannot be written.
        """
        self._chunks.append(data)
        self._held += len(data)
        self.size += len(data)
        if self._held > self._over:
            await self._flush()

    async def done(self) -> tuple[bytes | None, str | None]:
        """Return the bytes, or the path of the closed file that holds them; the file is now the caller's.

        Raises:
            StorageError: the temporary file cannot be written.
        """
        if self._file is None:
            return b"".join(self._chunks), None
        await self._flush()
        await self._guarded(self._file.close())
        path, self._file, self._path = self._path, None, None
        return None, path

    async def discard(self) -> None:
        """Close and remove the temporary file, if there is one that `done` has not handed over."""
        if self._path is None:
            return
        try:
            if self._file is not None:
                await _settled(self._file.close())
        finally:
            with contextlib.suppress(OSError):  # what cannot be removed now is the sweep's
                await _settled(aiofiles.os.unlink(self._path))

    async def _flush(self) -> None:
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        if self._file is None:
            self._path = os.path.join(self._folder, f"{TEMPORARY}{uuid.uuid4().hex}")  # noqa: PTH118  a str, as Fetched.path
            await self._guarded(self._open(self._path))
        if self._file is not None:
            await self._guarded(self._file.write(data))

    async def _open(self, path: str) -> None:
        self._file = await aiofiles.open(path, "xb")

    async def _guarded(self, awaitable: Awaitable[T]) -> T:
        try:
            return await _settled(awaitable)
        except OSError as error:
            message = (
                f"cannot keep a download in {self._folder}: {error.strerror}; "
                "make room or make the folder writable, then run again"
            )
            raise StorageError(message) from None


async def _settled(awaitable: Awaitable[T]) -> T:
    """Await file work; when cancelled, leave only once its thread is through with the file."""
    task = asyncio.ensure_future(awaitable)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: the cancellation is what the caller hears of
        raise
