"""An aiohttp application on loopback, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Started = tuple[str, Callable[[], object]]


@contextmanager
def serving(app: web.Application, port: int = 0, **how: Any) -> Iterator[str]:
    """Give the server's URL for as long as it is entered, at `port` or any; `how` goes to aiohttp's AppRunner."""
    started: Future[Started] = Future()
    thread = threading.Thread(target=asyncio.run, args=(_serve(app, port, how, started),))
    thread.start()
    try:
        url, end = started.result()
        try:
            yield url
        finally:
            end()
    finally:
        thread.join()


async def _serve(app: web.Application, port: int, how: dict[str, Any], started: Future[Started]) -> None:
    """Serve until what `started` tells beside the URL is called; it may be called at once, from another thread."""
    stopping, runner = asyncio.Event(), web.AppRunner(app, shutdown_timeout=0.1, **how)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set_result((url, partial(asyncio.get_running_loop().call_soon_threadsafe, stopping.set)))
        await stopping.wait()
    except Exception as error:  # noqa: BLE001  it is raised again, in the thread that called
        started.set_exception(error)
    finally:
        await runner.cleanup()
