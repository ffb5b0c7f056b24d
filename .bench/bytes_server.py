"""A server of heavy answers: takes bodies of any size, and gives one picture in one of the ways that relays do.

The first part of a path says how: `/link` in JSON and in a stream, `/json` as `b64_json`, `/stream` as a data URL in
one frame, `/frames` as a data URL in frames of 16 KB. It answers at once, or after `--seconds`. Run as
`python .bench/bytes_server.py`; standard library only.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import signal
from pathlib import Path

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_FRAME = 16_384  # characters
_PIECE = 1 << 20


def answers(picture: bytes, link: str) -> dict[str, bytes]:
    """Return the answers by the paths that ask for them."""
    text = base64.b64encode(picture).decode()
    shown = f"![image](data:image/png;base64,{text})"
    pieces = [shown[at : at + _FRAME] for at in range(0, len(shown), _FRAME)]
    return {
        "/link/v1/images": _reply("application/json", json.dumps({"data": [{"url": link}]}).encode()),
        "/link/v1/chat": _stream([f"![image]({link})"]),
        "/json/v1/images": _reply("application/json", json.dumps({"data": [{"b64_json": text}]}).encode()),
        "/stream/v1/chat": _stream([shown]),
        "/frames/v1/chat": _stream(pieces),
        "/picture.png": _reply("image/png", picture),
    }


def _stream(pieces: list[str]) -> bytes:
    frames = [json.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]}) for piece in pieces]
    return _reply("text/event-stream", "".join(f"data: {frame}\n\n" for frame in [*frames, "[DONE]"]).encode())


def _reply(kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    known = answers(arguments.picture.read_bytes(), f"http://127.0.0.1:{arguments.port}/picture.png")

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                left = int(length[1]) if length else 0
                while left:
                    left -= len(await reader.read(min(left, _PIECE)))
                path = head.split(b" ", 2)[1].decode()
                await asyncio.sleep(arguments.seconds)
                writer.write(next(answer for start, answer in known.items() if path.startswith(start)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = await asyncio.start_server(converse, "127.0.0.1", arguments.port, limit=_PIECE, backlog=1024)
    await stopped.wait()
    server.close()


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description="An API with heavy answers.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=0.0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
