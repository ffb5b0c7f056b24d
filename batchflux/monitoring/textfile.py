"""The file that node_exporter's textfile collector reads: written anew every EVERY seconds of a run, and at its end.

It is in place whole or not at all. What is read for it is read beside the run; where that takes long, less often.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchflux.errors import BatchfluxError, UsageError
from batchflux.monitoring.metrics import Live, metrics_of
from batchflux.monitoring.words import explained
from batchflux.transport.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

EVERY = 15.0  # seconds
SHARE = 20  # the next one is written no sooner than so many times what the last one took
_MODE = 0o644  # the collector is another user


class MetricsFile:
    """Metrics of the run of a folder, kept at `path`; `event` is told when it cannot be written.

    `live` says what the run knows of itself, `ended` how it ended, and when (epoch seconds).
    """

    def __init__(self, path: Path, folder: Path, event: Callable[..., Any]) -> None:
        self.path, self.event = path, event
        self.live: Callable[[], Live] = Live
        self.ended: tuple[int, float] | None = None
        self._folder = folder
        self._failing = False
        self._writing = threading.Lock()  # a write goes on in its thread when its task is cancelled

    def check(self) -> None:
        """See that it can be written; UsageError."""
        try:
            if self.path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            _put(self._beside, "")
            self._beside.unlink()
        except OSError as error:
            what = f"--metrics {self.path} cannot be written ({error.strerror})"
            raise UsageError(f"{what}: make its folder, or name another file.") from error

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Write it at once, every EVERY seconds while this is entered, and as it stands when this is left."""
        await self.write()
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        except Exception as error:
            self.ended = self.ended or (explained(error)[0], time.time())
            raise
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            await self.write()

    async def write(self) -> None:
        """Write it; what cannot be is logged once, and tried again the next time."""
        said = self.live()
        if self.ended is not None:
            said = replace(said, exit_code=self.ended[0], ended_at=self.ended[1])
        try:
            await in_thread(lambda: self._write(said))
        except (OSError, BatchfluxError) as error:
            if not self._failing:
                why = error.strerror if isinstance(error, OSError) else str(error)
                self.event("metrics_failed", message=f"{self.path} cannot be written ({why}); the run goes on.")
            self._failing = True
        else:
            self._failing = False

    async def _keep(self) -> None:
        took = 0.0
        while True:
            await asyncio.sleep(max(EVERY, SHARE * took))
            began = time.monotonic()
            await self.write()
            took = time.monotonic() - began

    def _write(self, live: Live) -> None:
        with self._writing:
            _put(self._beside, metrics_of(self._folder, live))
            self._beside.replace(self.path)

    @property
    def _beside(self) -> Path:
        return self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")  # the collector reads *.prom alone


def _put(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, _MODE)  # whatever the umask
        file.write(text)
