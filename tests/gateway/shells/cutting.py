"""A wire between a client and a port on loopback that can be cut: hard, and not before the far side has the request."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.serving import accepting, copied
from tests.waiting import until

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
        ways = [asyncio.create_task(copied(reader, far_writer)), asyncio.create_task(copied(far_reader, writer))]
        if cut is not None:
            ways.append(asyncio.create_task(until(cut)))
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


@contextmanager
def wired(to: int) -> Iterator[Wire]:
    """Serve a wire to this port, in a thread of its own, for as long as it is entered."""
    wire = Wire(to)
    with accepting(wire.serve) as wire.port:
        yield wire
