"""A wire between a client and a port on loopback that can be cut: hard, and not before the far side has the request."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Wire:
    """`cuts` says of the next connections, one by one, when each is cut: as soon as it returns true."""

    to: int
    port: int = 0
    cuts: list[Callable[[], bool]] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        cut = self.cuts.pop(0) if self.cuts else None
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:  # nobody listens there now
            writer.transport.abort()
            return
        ways = [asyncio.create_task(_copy(reader, far_writer)), asyncio.create_task(_copy(far_reader, writer))]
        if cut is not None:
            ways.append(asyncio.create_task(_until(cut)))
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if cut is not None:
                _reset(writer)
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    own: socket.socket = writer.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  another thread decides
        await asyncio.sleep(0.005)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@contextmanager
def wired(to: int) -> Iterator[Wire]:
    """Serve a wire to this port, in a thread of its own, for as long as it is entered."""
    wire, loop, ready = Wire(to), asyncio.new_event_loop(), threading.Event()

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
        wire.port = server.sockets[0].getsockname()[1]
        return server

    async def stop(server: asyncio.Server) -> None:
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0.01)  # until what was cut off is closed

    def serve() -> None:
        server = loop.run_until_complete(start())
        loop.call_soon(ready.set)  # not before it runs for ever: who is through at once stops that
        loop.run_forever()
        loop.run_until_complete(stop(server))
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(60)
    try:
        yield wire
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
