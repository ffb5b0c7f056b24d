"""A server whose pictures take some seconds: in one call, or as tasks that are polled (BFL's way, behind a relay).

Run as `python .bench/poll_server.py`; standard library only. `/stats` tells how many connections and polls there were.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from pathlib import Path

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Server:
    """Answers one port."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._url, self._seconds = f"http://127.0.0.1:{arguments.port}", arguments.seconds
        self._picture = arguments.picture.read_bytes()
        self._due: dict[str, float] = {}
        self._seen = {"connections": 0, "polls": 0, "tasks": 0}

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._seen["connections"] += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                await reader.readexactly(int(length[1]) if length else 0)
                writer.write(await self._answer(head.split(b" ", 2)[1].decode()))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):  # the last: the server ends
            writer.close()

    async def _answer(self, path: str) -> bytes:
        link, now = f"{self._url}/picture.png", asyncio.get_running_loop().time()
        if path.startswith("/picture"):
            return _reply("image/png", self._picture)
        if path.startswith("/flux/v1/get_result"):
            self._seen["polls"] += 1
            task = path.rpartition("=")[2]
            ready = now >= self._due[task]
            more = {"status": "Ready", "result": {"sample": link}} if ready else {"status": "Pending", "result": None}
            return _json({"id": task, **more, "progress": None, "details": None, "preview": None})
        if path == "/stats":
            return _json(self._seen)
        if path.startswith("/v1/images"):
            await asyncio.sleep(self._seconds)
            return _json({"data": [{"url": link}], "created": 1})
        self._seen["tasks"] += 1
        name = str(self._seen["tasks"])
        self._due[name] = now + self._seconds
        return _json({"id": name})


def _json(value: object) -> bytes:
    return _reply("application/json", json.dumps(value).encode())


def _reply(kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = await asyncio.start_server(Server(arguments).converse, "127.0.0.1", arguments.port, backlog=1024)
    await stopped.wait()
    server.close()


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description="An API that takes its time.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
