"""A small, fast stand-in of the API whose limit is exact: a token bucket per bearer key, refilled continuously.

The bucket of a key holds `capacity` tokens and gains `rate` a second on this process's monotonic clock; a request
takes one as it arrives, or is refused with 429 at once. Accepted ones are answered after `latency`. `GET /stats`
tells what happened, `POST /limit` changes the limit of all keys from that moment on. Rate 0 means no limit, and no
list of times is kept then. Run as `python .bench/bucket_server.py`; standard library only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_KEY = re.compile(rb"\r\nauthorization: *bearer +([^\r]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_ROUNDING = 1e-9  # tokens; what adding up floats may lose
REFUSAL = {
    "error": {"message": "Too many requests", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
}


@dataclass(slots=True, kw_only=True)
class Bucket:
    """The tokens of one key."""

    tokens: float
    at: float
    accepted: int = 0
    refused: int = 0

    def take(self, now: float, rate: float, capacity: float) -> bool:
        """Take a token, if there is one."""
        self.refill(now, rate, capacity)
        if self.tokens < 1.0 - _ROUNDING:
            self.refused += 1
            return False
        self.tokens -= 1.0
        self.accepted += 1
        return True

    def refill(self, now: float, rate: float, capacity: float) -> None:
        """Add what came in since the last time."""
        self.tokens = min(capacity, self.tokens + (now - self.at) * rate)
        self.at = now

    def wait(self, rate: float) -> float:
        """Return the seconds until there is a token."""
        return max(0.0, (1.0 - self.tokens) / rate)


@dataclass(slots=True, kw_only=True)
class State:
    """All that the server knows. Times are of the monotonic clock."""

    rate: float
    capacity: float
    latency: float
    retry_after: bool
    answer: bytes
    picture: bytes
    buckets: dict[bytes, Bucket] = field(default_factory=dict)
    requests: int = 0
    pictures: int = 0
    first_request: float | None = None
    first_accepted: float | None = None
    last_accepted: float | None = None
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def admit(self, key: bytes, now: float) -> Bucket | None:
        """Count a request; return the bucket that refused it, None when it is accepted."""
        self.requests += 1
        if self.first_request is None:
            self.first_request = now
        bucket = self.buckets.get(key)
        if bucket is None:
            bucket = self.buckets[key] = Bucket(tokens=self.capacity, at=now)
        if not self.rate:
            bucket.accepted += 1
        elif bucket.take(now, self.rate, self.capacity):
            self.accepted.append(now)
        else:
            self.refused.append(now)
            return bucket
        if self.first_accepted is None:
            self.first_accepted = now
        self.last_accepted = now
        return None

    def change(self, rate: float, capacity: float) -> float:
        """Change the limit; tokens earned before are kept as far as the new bucket holds them."""
        now = time.monotonic()
        for bucket in self.buckets.values():
            bucket.refill(now, self.rate, self.capacity)
            bucket.tokens = min(bucket.tokens, capacity)
        self.rate, self.capacity = rate, capacity
        return now

    def stats(self, *, times: bool) -> dict[str, Any]:
        """Return everything as JSON can carry it."""
        buckets = self.buckets.values()
        found: dict[str, Any] = {
            "rate": self.rate,
            "capacity": self.capacity,
            "requests": self.requests,
            "pictures": self.pictures,
            "accepted": sum(bucket.accepted for bucket in buckets),
            "refused": sum(bucket.refused for bucket in buckets),
            "first_request": self.first_request,
            "first_accepted": self.first_accepted,
            "last_accepted": self.last_accepted,
            "per_key": {
                key.decode("latin-1"): {"accepted": bucket.accepted, "refused": bucket.refused}
                for key, bucket in self.buckets.items()
            },
        }
        start = self.first_request or 0.0
        found["accepted_in_second"] = Counter(int(at - start) for at in self.accepted)
        found["refused_in_second"] = Counter(int(at - start) for at in self.refused)
        if times:
            found["accepted_times"], found["refused_times"] = self.accepted, self.refused
        return found


class Connection(asyncio.Protocol):
    """One kept-alive connection: requests one after another."""

    def __init__(self, state: State, loop: asyncio.AbstractEventLoop) -> None:
        self._state = state
        self._loop = loop
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the transport."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        buffer = self._buffer + data if self._buffer else data
        while (end := buffer.find(_HEAD_END)) >= 0:
            head = buffer[:end]
            length = _LENGTH.search(head)
            whole = end + len(_HEAD_END) + (int(length[1]) if length else 0)
            if len(buffer) < whole:
                break
            body, buffer = buffer[end + len(_HEAD_END) : whole], buffer[whole:]
            self._answer(head, body)
        self._buffer = buffer

    def _answer(self, head: bytes, body: bytes) -> None:
        state = self._state
        if _CHUNKED.search(head):
            self._send(_reply(b"411 Length Required", b"{}"))
        elif head.startswith(b"POST /v1/"):
            key = _KEY.search(head)
            refused = state.admit(key[1] if key else b"", time.monotonic())
            if refused is not None:
                wait = refused.wait(state.rate) if state.retry_after else None
                self._send(_reply(b"429 Too Many Requests", json.dumps(REFUSAL).encode(), retry_after=wait))
            elif state.latency:
                self._loop.call_later(state.latency, self._send, state.answer)
            else:
                self._send(state.answer)
        elif head.startswith(b"GET /picture.png "):
            state.pictures += 1
            self._send(state.picture)
        elif head.startswith(b"GET /stats"):
            self._send_json(state.stats(times=head.startswith(b"GET /stats?times")))
        elif head.startswith(b"POST /limit "):
            asked = json.loads(body)
            self._send_json({"at": state.change(float(asked["rate"]), float(asked["capacity"]))})
        else:
            self._send(_reply(b"404 Not Found", b"{}"))

    def _send_json(self, value: dict[str, Any]) -> None:
        self._send(_reply(b"200 OK", json.dumps(value).encode()))

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _reply(status: bytes, body: bytes, *, kind: bytes = b"application/json", retry_after: float | None = None) -> bytes:
    more = b"" if retry_after is None else b"Retry-After: %.3f\r\n" % retry_after
    head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n"
    return head % (status, kind, len(body), more) + body


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    link = f"http://127.0.0.1:{arguments.port}/picture.png"
    state = State(
        rate=arguments.rate,
        capacity=arguments.capacity,
        latency=arguments.latency,
        retry_after=arguments.retry_after,
        answer=_reply(b"200 OK", json.dumps({"data": [{"url": link}], "created": 1}).encode()),
        picture=_reply(b"200 OK", arguments.picture.read_bytes(), kind=b"image/png"),
    )
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_server(lambda: Connection(state, loop), "127.0.0.1", arguments.port, backlog=4096)
    await stopped.wait()
    server.close()


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description="An API behind a token bucket per key.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="tokens a second for each key; 0: no limit")
    parser.add_argument("--capacity", type=float, default=1.0, help="how many tokens a bucket holds")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds from an accepted request to its answer")
    parser.add_argument("--retry-after", action="store_true", help="tell in a 429 when there is a token again")
    parser.add_argument("--picture", type=Path, required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
