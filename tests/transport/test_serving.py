"""What the servers beside a run log of their clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from batchflux.transport.serving import listen_at, logger_of, serve_at

if TYPE_CHECKING:
    from collections.abc import Callable


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
    handler: Callable[[web.Request], web.StreamResponse], *, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = web.Application()
    app.router.add_get("/", handler)
    listener = listen_at("127.0.0.1", 0, ("", ""))
    port = listener.getsockname()[1]
    runner, _ = await serve_at(app, listener, logger_of("batchflux.test.serving"), most=8, head=60.0, patience=1.0)
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://127.0.0.1:{port}/") as answer:
                assert answer.status == 500
        except aiohttp.ClientConnectionError:
            assert not said
    await runner.cleanup()
    assert bool(caplog.text) is said
