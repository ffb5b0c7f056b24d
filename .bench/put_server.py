"""A server that takes what is put, keeps nothing, and says so as S3 does; it prints its port."""

from __future__ import annotations

import asyncio
import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PIECE = 1 << 20
_ANSWER = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n\r\n'


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            length = _LENGTH.search(await reader.readuntil(b"\r\n\r\n"))
            left = int(length[1]) if length else 0
            while left:
                left -= len(await reader.read(min(left, _PIECE)))
            writer.write(_ANSWER)
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_converse, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201  who started us reads it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
