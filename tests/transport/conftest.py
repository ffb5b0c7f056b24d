"""A server on loopback that says exactly what a test scripts, byte for byte, and a transport to ask it with."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from batchflux.transport import Transport, TransportOptions
from tests.serving import ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

T = TypeVar("T")


@dataclass
class Clock:
    """The time of the test's loop, which stands still: what is to come before a time is up comes, however slowly."""

    at: float

    async def over(self, task: asyncio.Task[T], step: float = 0.1) -> T:
        """Let time pass until a task is over, in steps of so many seconds."""
        while not task.done():
            self.at += step
            await asyncio.sleep(0)
        return await task


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the time of the loop."""
    loop = asyncio.get_running_loop()
    made = Clock(loop.time())
    monkeypatch.setattr(loop, "time", lambda: made.at)
    return made


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
