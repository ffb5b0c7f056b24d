"""A server on loopback that says exactly what a test scripts, byte for byte, and a transport to ask it with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.transport import Transport, TransportOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


class ScriptedServer:
    """Plays one script a connection; the last script serves all further ones.

    A script is a list of steps: bytes are sent, `read` takes one whole request, `reset` cuts hard, `pause` waits a
    little, `hang` keeps the connection open and silent until the client leaves, `stall` does so without reading; at
    the end of its script a connection is closed.
    """

    def __init__(self, scripts: list[list[bytes | str]]) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.gone = asyncio.Event()
        self.asked = asyncio.Event()
        self._scripts = scripts
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._play, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        try:
            for step in script:
                await self._step(step, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.gone.set()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)

    async def _step(self, step: bytes | str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif step == "read":
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length:")),
                0,
            )
            self.requests.append((head, await reader.readexactly(length)))
            self.asked.set()
        elif step == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif step == "hang":
            await reader.read()
            self.gone.set()
        elif step == "pause":
            await asyncio.sleep(0.05)
        elif step == "stall":
            await asyncio.Event().wait()
        else:
            raise ValueError(step)


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
