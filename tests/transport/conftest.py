"""A server on loopback that says exactly what a test scripts, byte for byte, and a transport to ask it with."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.transport import Transport, TransportOptions
from tests.serving import ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[ScriptedServer]]]:
    """Start a server with one script for each connection."""
    async with AsyncExitStack() as stack:

        async def start(*scripts: list[bytes | str]) -> ScriptedServer:
            server = ScriptedServer(list(scripts))
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        yield start


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Transport]]]:
    """Open a transport."""
    async with AsyncExitStack() as stack:

        async def start(base_url: str, **options: Any) -> Transport:
            settings: dict[str, Any] = {
                "timeout": 20,
                "connections": 4,
                "max_bytes": 4 << 20,
                "spool_dir": str(tmp_path),
                **options,
            }
            return await stack.enter_async_context(Transport(TransportOptions(base_url=base_url, **settings)))

        yield start
