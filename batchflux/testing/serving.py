"""Servers on loopback, in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from batchflux.transport.serving import accept, hang_up, listen_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")

PATIENCE = 60.0  # seconds that a server may take to begin, and to end


@contextmanager
def threaded(server: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """Give what a server gives, which lives on a loop in a thread of its own for as long as this is entered.

    Tasks that it leaves behind are cancelled. What it raises as it begins is raised here, once its thread has ended.
    """
    begun: Future[tuple[T, Callable[[], object]]] = Future()

    async def live() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with server() as made:
                begun.set_result((made, lambda: loop.call_soon_threadsafe(over.set)))
                await over.wait()
        except Exception as error:
            if begun.done():
                raise
            begun.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    try:
        made, end = begun.result(PATIENCE)
        try:
            yield made
        finally:
            end()
    finally:
        thread.join(PATIENCE)


@contextmanager
def serving(app: web.Application, port: int = 0, **how: Any) -> Iterator[str]:
    """Give the URL of a served application for as long as it is entered, at `port` or any.

    `how` goes to aiohttp's AppRunner.
    """

    @asynccontextmanager
    async def server() -> AsyncIterator[str]:
        runner = web.AppRunner(app, shutdown_timeout=0.1, **how)
        await runner.setup()
        try:
            listening = await accept(runner, listen_at("127.0.0.1", port).socket)
            try:
                yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            finally:
                await hang_up(listening)
        finally:
            await runner.cleanup()

    with threaded(server) as url:
        yield url
