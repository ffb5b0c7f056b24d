"""Servers beside a run: what they log of their clients, and that they let go of all of them."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from batchflux.transport.serving import accept, hang_up, listen_at, logger_of, serve_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def gone(request: web.Request) -> web.StreamResponse:
    """Answer as the client goes, which shows as soon as anything is written."""
    assert request.transport is not None
    request.transport.close()
    answer = web.StreamResponse()
    await answer.prepare(request)
    await answer.write(b"for nobody")
    return answer


async def ours(_: web.Request) -> web.StreamResponse:
    raise RuntimeError("ours")


@pytest.mark.parametrize(("handler", "said"), [(gone, False), (ours, True)])
async def test_a_client_that_has_gone_is_no_fault_of_ours(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], *, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = web.Application()
    app.router.add_get("/", handler)
    place = listen_at("127.0.0.1", 0)
    port, logger = place.port, logger_of("batchflux.test.serving")
    runner, listening = await serve_at(app, place.socket, logger, most=8, head=60.0, patience=1.0)
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://127.0.0.1:{port}/") as answer:
                assert answer.status == 500
        except aiohttp.ClientConnectionError:
            assert not said
    await hang_up(listening)
    await runner.cleanup()
    assert bool(caplog.text) is said


@pytest.mark.parametrize("before", [True, False])
async def test_who_connects_as_a_server_stops_is_let_go(*, before: bool) -> None:
    """Whichever turn of the loop: what is accepted and not yet a connection would stay open, and be collected so."""
    for turns in range(8):
        runner = web.AppRunner(web.Application(), shutdown_timeout=0.1)
        await runner.setup()
        listening = await accept(runner, listen_at("127.0.0.1", 0).socket)
        where = listening.sockets[0].getsockname()[:2]
        client = socket.create_connection(where) if before else None
        stopping = None if before else asyncio.create_task(hang_up(listening))
        for _ in range(turns):
            await asyncio.sleep(0)
        with suppress(ConnectionError):
            client = client or socket.create_connection(where)
        await (stopping or hang_up(listening))
        await runner.cleanup()
        await asyncio.sleep(0)
        if client is not None:
            client.settimeout(60)
            assert await asyncio.to_thread(ended, client)
            client.close()
    gc.collect()


def ended(client: socket.socket) -> bool:
    """Wait for the other side; return whether it ended it."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True
