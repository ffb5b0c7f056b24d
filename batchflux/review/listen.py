"""Where a review listens, under which names it may be asked, and how it starts and stops: on its own or beside a run.

Beside a run it has a thread with a loop and connections of its own, and looks at the folder as another process would:
what fails here is one sentence for the person, and the run goes on.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from batchflux.errors import UsageError
from batchflux.review.guard import Guard
from batchflux.review.server import Server
from batchflux.transport.serving import hang_up, listen_at, logger_of, serve_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiohttp import web

_REST = 1.0  # beside a run: half of the time the interpreter is the run's alone, however large a page is being built
MOST_CONNECTIONS = 256
HEAD_SECONDS = 20.0  # that a connection may take to its first request's end, or rest between two
_PATIENCE = 2.0  # seconds that answers under way have when it stops
_LOGGER = logger_of("batchflux.review")


class ServedReview(NamedTuple):
    """A review that is served. `url` has the token; `opens` says whom it lets in when that is not this machine only."""

    runner: web.AppRunner
    url: str
    opens: str | None
    listening: asyncio.Server

    async def stop(self) -> None:
        """End all streams and answers, and let go of the folder."""
        await hang_up(self.listening)
        await self.runner.cleanup()


async def serve(
    folder: Path, host: str, port: int, tell: Callable[[str], None], *, rest: float = 0.0, token: str | None = None
) -> ServedReview:
    """Serve the review of an output folder, as `Server` does; `port` 0 takes a free one, `token` None a new one.

    Raises UsageError: the address is none of this machine's, or the port is taken.
    """
    place = await asyncio.to_thread(listen_at, host, port)
    guard = Guard(place.hosts, place.port, wildcard=place.wildcard, token=token)
    app = Server(folder, guard, tell, rest).app()
    runner, listening = await serve_at(
        app, place.socket, _LOGGER, most=MOST_CONNECTIONS, head=HEAD_SECONDS, patience=_PATIENCE
    )
    url = f"http://{place.at}/?token={quote(guard.token, safe='')}"
    sees = f"can see all pictures and prompts of {folder} and judge them; what is sent is not encrypted."
    warning = f"Everyone who can reach {place.reach} and knows the token {sees}"
    return ServedReview(runner, url, place.reach and warning, listening)


class WatchServer:
    """Serves the review of `folder` on loopback from `start` until `stop`; `tell` takes sentences for the person."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder, self._tell = folder, tell
        self._ending, self._ready = asyncio.Event(), threading.Event()

    def start(self) -> None:
        """Begin, and tell the address; returns once it is served, or cannot be."""
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="batchflux-watch", daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Tell the pages how the run ended, and end."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        served = None
        try:
            served = await serve(self._folder, "127.0.0.1", 0, self._tell, rest=_REST)
            self._tell(f"Watch and judge the pictures at {served.url}")
        except (UsageError, OSError) as error:
            self._tell(f"The run goes on without a page to watch it: {error}")
        finally:
            self._ready.set()
        await self._ending.wait()
        if served is not None:
            await served.stop()
