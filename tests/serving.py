"""Servers on loopback that a test scripts, by connections or byte for byte."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from batchflux.testing.serving import threaded

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


async def request_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read one whole request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    return head, await reader.readexactly(int(length[1]) if length else 0)


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on all that comes."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@contextmanager
def accepting(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Have each connection served in a thread of its own for as long as this is entered; give the port.

    What is still served at the end is cancelled, and its connection cut off.
    """

    @asynccontextmanager
    async def server() -> AsyncIterator[int]:
        served: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            served[task] = writer
            try:
                await serve(reader, writer)
            finally:
                del served[task]

        listening = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls)
        try:
            yield listening.sockets[0].getsockname()[1]
        finally:
            listening.close()
            left = dict(served)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for writer in left.values():
                writer.transport.abort()
            await asyncio.gather(*(writer.wait_closed() for writer in left.values()), return_exceptions=True)

    with threaded(server) as port:
        yield port


class ScriptedServer:
    """Plays one script a connection; the last script serves all further ones.

    A script is a list of steps: bytes are sent, `read` takes one whole request, `head` no more than its head, `reset`
    cuts hard, `pause` waits a little, `hang` keeps the connection open and silent until the client leaves, `stall` does
    so without reading; at the end of its script a connection is closed.
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
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)

    async def _step(self, step: bytes | str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif step == "read":
            self.requests.append(await request_of(reader))
            self.asked.set()
        elif step == "head":
            await reader.readuntil(b"\r\n\r\n")
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
