"""A proxy on loopback: HTTP (CONNECT and absolute form), over TLS if asked, or SOCKS5; all names lead to loopback."""

from __future__ import annotations

import asyncio
import base64
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from yarl import URL

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

USER, PASSWORD = "clerk", "s3cret-of-the-proxy"


@dataclass
class Proxy:
    """What it was asked for, as `CONNECT host:port` or `GET http://...`; and how it behaves.

    `answers` are heads that it gives, one a request, in place of passing it on; `wants` demands USER and PASSWORD. With
    `to` it is no proxy, but hands all on to that port.
    """

    asked: list[str] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    wants: bool = False
    socks: bool = False
    to: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.to:
                await self._pipe(reader, writer, self.to, b"")
            else:
                await (self._socks(reader, writer) if self.socks else self._http(reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        known = base64.b64encode(f"{USER}:{PASSWORD}".encode())
        self.asked.append(f"{method} {target}")
        if self.wants and b"Proxy-Authorization: Basic " + known not in head:
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        elif self.answers:
            writer.write(self.answers.pop(0))
        elif method == "CONNECT":
            port = int(target.rpartition(":")[2])
            await self._pipe(reader, writer, port, b"HTTP/1.1 200 Connected\r\n\r\n")
            return
        else:
            url = URL(target)
            lines = [line for line in head.split(b"\r\n")[1:-2] if not line.lower().startswith(b"proxy-")]
            lines = [line for line in lines if not line.lower().startswith(b"connection:")]
            begun = f"{method} {url.raw_path_qs} HTTP/1.1".encode()
            forwarded = b"\r\n".join([begun, *lines, b"Connection: close", b"", b""])
            await self._pipe(reader, writer, url.port or 80, b"", forwarded)
            return
        await writer.drain()

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = (await reader.readexactly(2))[1]
        await reader.readexactly(count)
        writer.write(b"\x05\x02" if self.wants else b"\x05\x00")
        if self.wants:
            user = (await reader.readexactly((await reader.readexactly(2))[1])).decode()
            password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            writer.write(b"\x01\x00" if (user, password) == (USER, PASSWORD) else b"\x01\x01")
        kind = (await reader.readexactly(4))[3]
        host = await reader.readexactly(4 if kind == 1 else (await reader.readexactly(1))[0])
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append(f"SOCKS {host.decode() if kind == 3 else '.'.join(map(str, host))}:{port}")
        code = b"\x05" if self.answers else b"\x00"
        reply = b"\x05" + code + b"\x00\x01\x7f\x00\x00\x01\x00\x00"
        if self.answers:
            self.answers.pop(0)
            writer.write(reply)
            return
        await self._pipe(reader, writer, port, reply)

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, first: bytes, sent: bytes = b""
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        far_writer.write(sent)
        ways = [asyncio.create_task(_copy(reader, far_writer)), asyncio.create_task(_copy(far_reader, writer))]
        _, left = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if ways[1] in left:  # the client has nothing more to say; the answer may be under way
            await asyncio.wait(left, timeout=5)
        for task in ways:
            task.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        far_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@contextmanager
def proxying(tls: ssl.SSLContext | None = None, **how: Any) -> Iterator[Proxy]:
    """Serve a proxy in a thread of its own for as long as it is entered."""
    proxy, loop, ready = Proxy(**how), asyncio.new_event_loop(), threading.Event()

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
        proxy.port = server.sockets[0].getsockname()[1]
        return server

    async def stop(server: asyncio.Server) -> None:
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

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
        yield proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
