"""Object stores on loopback: servers of others (moto, nanio), stand-ins for what no server shows, each with a bucket.

`moto`, `nanio`, `oss` and `faulty` are Served: a bucket of the test's own, and what reaches it, as the settings of
`stores` or as variables. Servers start when a test first asks for one, and end with pytest, however that ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote
from xml.sax.saxutils import escape

import pytest
from aiohttp import web

from batchflux.output.stores.base import StoreSettings
from batchflux.output.stores.opening import Stores
from tests.ports import kept_port

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path
    from typing import Any

    from batchflux.output.stores.base import ObjectStore, Style

__all__ = ["Faulty", "Served", "_loop", "_moto_port", "_nanio_place", "faulty", "moto", "nanio", "oss"]

ACCESS_KEY, SECRET_KEY = "AKIDOFTHETESTS", "s3cret-of-the-bucket"
REGION = "us-east-1"
_DIES_WITH_US = (
    "import os, sys, threading\nthreading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()\n"
)


@dataclass(frozen=True, kw_only=True)
class Served:
    """A bucket, as `s3://name`, on a server; `environ` has the variables that reach it, `settings` say the same."""

    bucket: str
    endpoint: str
    style: Style = "path"
    secret_key: str = field(default=SECRET_KEY, repr=False)

    @property
    def environ(self) -> dict[str, str]:
        """The variables by which a program reaches the bucket, without `stores` in its manifest (style path)."""
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return {**keys, "AWS_REGION": REGION, "AWS_ENDPOINT_URL_S3": self.endpoint}

    @property
    def settings(self) -> StoreSettings:
        """What `stores` says of the bucket; keys are looked up by their usual names."""
        return StoreSettings(endpoint=self.endpoint, region=REGION, style=self.style)

    @property
    def yaml(self) -> str:
        """The lines of a manifest that say the same."""
        said = f"{{endpoint: '{self.endpoint}', region: {REGION}, style: {self.style}}}"
        return f"stores:\n  {self.bucket}: {said}\n"

    def stores(self) -> Stores:
        """Return who opens the bucket."""
        return Stores(look_up=self.environ.get, settings={self.bucket: self.settings})

    def store(self) -> ObjectStore:
        """Return the bucket, opened."""
        return self.stores().at(self.bucket)

    def objects(self) -> dict[str, bytes]:
        """Return what is in the bucket by key, read past our own code."""
        import obstore  # noqa: PLC0415  few tests need it
        from obstore.store import S3Store  # noqa: PLC0415

        there = S3Store(
            self.bucket.partition("://")[2],
            config={
                "endpoint": self.endpoint,
                "region": REGION,
                "access_key_id": ACCESS_KEY,
                "secret_access_key": self.secret_key,
                "virtual_hosted_style_request": self.style != "path",
            },
            client_options={"allow_http": True},
        )
        keys = [one["path"] for page in obstore.list(there) for one in page]
        with ThreadPoolExecutor(16) as threads:
            return dict(zip(keys, threads.map(lambda key: bytes(obstore.get(there, key).bytes()), keys), strict=True))


# Servers of others, each in a process that ends when its standard input does.


def _started(code: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _DIES_WITH_US + code],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return process
        time.sleep(0.02)
    _ended(process)
    raise AssertionError(f"the server did not start: {log.read_text(encoding='utf-8')[-2000:]}")


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def _fresh() -> str:
    return f"bucket-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def _moto_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with kept_port() as port:
        code = f"from moto.server import main\nmain(['-H', '127.0.0.1', '-p', '{port}'])"
        process = _started(code, port, tmp_path_factory.mktemp("moto") / "log.txt")
        yield port
        _ended(process)


def _bucket_at(port: int) -> str:
    name = _fresh()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("PUT", f"/{name}", headers={"Content-Length": "0"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
    finally:
        connection.close()
    return f"s3://{name}"


@pytest.fixture
def moto(_moto_port: int) -> Served:
    """A bucket on moto: conditions, multipart and metadata are right; signatures are not looked at."""
    return Served(bucket=_bucket_at(_moto_port), endpoint=f"http://127.0.0.1:{_moto_port}")


@pytest.fixture(scope="session")
def _nanio_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    place = tmp_path_factory.mktemp("nanio")
    data = place / "data"
    data.mkdir()
    with kept_port() as port:
        code = (
            "import os\n"
            f"os.environ.update(NANIO_ACCESS_KEY={ACCESS_KEY!r}, NANIO_SECRET_KEY={SECRET_KEY!r})\n"
            "from nanio.cli import main\n"
            f"main(['serve', '--host', '127.0.0.1', '--port', '{port}', '--data-dir', {str(data)!r}])"
        )
        process = _started(code, port, place / "log.txt")
        yield port, data
        _ended(process)


@pytest.fixture
def nanio(_nanio_place: tuple[int, Path]) -> Served:
    """A bucket on nanio: signatures and their expiry are looked at; conditions are not (it overwrites)."""
    port, data = _nanio_place
    name = _fresh()
    (data / name).mkdir()
    return Served(bucket=f"s3://{name}", endpoint=f"http://127.0.0.1:{port}")


# Stand-ins, in a thread of the tests' own.


class _Loop:
    """An event loop in a thread, for servers that tests without a loop speak to."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(60)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture(scope="session")
def _loop() -> Iterator[_Loop]:
    loop = _Loop()
    yield loop
    loop.close()


class StandIn:
    """Objects by key behind HTTP, where clouds speak alike; what tells them apart is in the attributes.

    `create` is the header of a create, and how one is refused; `meta` begins the names of metadata's headers.
    """

    create = ("If-None-Match", "*", 409, "BlobAlreadyExists")
    meta = "x-ms-meta-"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((request.method, str(request.url), dict(request.headers)))
        body = await request.read()
        return self.refused(request) or self._done(request, self.key_of(request), body)

    def key_of(self, request: web.Request) -> str:
        return request.url.path.lstrip("/").partition("/")[2]

    def refused(self, request: web.Request) -> web.Response | None:
        return None

    def _done(self, request: web.Request, key: str, body: bytes) -> web.Response:
        if request.method == "PUT":
            return self._put(request, key, body)
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return web.Response(status=204)
        if not key:
            return self._listed(request.query.get("prefix", ""))
        if key not in self.objects:
            return _refusal(404, "NoSuchKey", "The specified key does not exist.")
        data, kept = self.objects[key]
        headers = {**kept, "ETag": _etag(data), "Last-Modified": "Mon, 30 Nov 2026 12:00:00 GMT"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(data))})
        return web.Response(body=data, headers=headers)

    def _put(self, request: web.Request, key: str, body: bytes) -> web.Response:
        header, value, status, code = self.create
        if request.headers.get(header) == value and key in self.objects:
            return _refusal(status, code, "The object already exists.")
        if (copied := request.headers.get("x-amz-copy-source")) is not None:
            source = unquote(copied).partition("/")[2]
            if source not in self.objects:
                return _refusal(404, "NoSuchKey", "The specified key does not exist.")
            self.objects[key] = self.objects[source]
            return web.Response(text="<CopyObjectResult/>", content_type="application/xml")
        kept = {name: value for name, value in request.headers.items() if name.lower().startswith(self.meta)}
        self.objects[key] = (body, {**kept, "Content-Type": request.content_type})
        headers = {"ETag": _etag(body), "Last-Modified": "Mon, 30 Nov 2026 12:00:00 GMT"}
        return web.Response(status=201 if self.meta == "x-ms-meta-" else 200, headers=headers)

    def _listed(self, prefix: str) -> web.Response:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-30T12:00:00.000Z</LastModified>"
            f"<ETag>{_etag(data)}</ETag><Size>{len(data)}</Size></Contents>"
            for key, (data, _) in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        return web.Response(text=text, content_type="application/xml")


class Google(StandIn):
    """What Google Cloud Storage does of that."""

    create = ("x-goog-if-generation-match", "0", 412, "PreconditionFailed")
    meta = "x-goog-meta-"


class Oss(StandIn):
    """What Aliyun OSS refuses: path style, If-None-Match, and its default domain where `closed`.

    A host `NAME.oss-….aliyuncs.com` is bucket NAME (its clients come by `http_proxy`), any other the one bucket's own
    domain. Once it keeps versions, the header of a create says nothing, as there.
    """

    create = ("x-oss-forbid-overwrite", "true", 409, "FileAlreadyExists")
    meta = "x-amz-meta-"
    closed = False

    def version(self) -> None:
        """Begin to keep versions."""
        self.create = ("", "", 0, "")

    def key_of(self, request: web.Request) -> str:
        return request.url.path.lstrip("/")

    def refused(self, request: web.Request) -> web.Response | None:
        host = request.url.host or ""
        if re.fullmatch(r"(s3\.)?oss-[a-z0-9-]+\.aliyuncs\.com", host):
            return _refusal(403, "SecondLevelDomainForbidden", "Please use virtual hosted style to access.")
        if self.closed and host.endswith(".aliyuncs.com"):
            return _refusal(400, "PublicEndpointForbidden", "This endpoint is not for public access.")
        if "If-None-Match" in request.headers:
            return _refusal(501, "NotImplemented", "A header implies functionality that is not there.")
        return None


def _etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _error(code: str, message: str) -> str:
    return (
        f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message><RequestId>65A</RequestId></Error>'
    )


def _refusal(status: int, code: str, message: str) -> web.Response:
    return web.Response(status=status, text=_error(code, message), content_type="application/xml")


@dataclass(frozen=True, kw_only=True)
class ServedOss(Served):
    """A bucket behind a domain of its own at the stand-in of OSS; `http_proxy` has the stand-in as proxy, too."""

    server: Oss

    @property
    def http_proxy(self) -> str:
        """What `http_proxy` must hold so that `http://NAME.oss-….aliyuncs.com` comes to the stand-in."""
        return self.endpoint


@contextmanager
def standing_in(loop: _Loop, server: StandIn) -> Iterator[str]:
    """Let a stand-in listen; yield its address."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{key:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None)

    async def begin() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        assert isinstance(port, int)
        return port

    yield f"http://127.0.0.1:{loop.run(begin())}"
    loop.run(runner.cleanup())


@pytest.fixture
def oss(_loop: _Loop) -> Iterator[ServedOss]:
    """A bucket on a stand-in for Aliyun OSS."""
    server = Oss()
    with standing_in(_loop, server) as endpoint:
        yield ServedOss(bucket=f"oss://{_fresh()}", endpoint=endpoint, style="domain", server=server)


class Fault(NamedTuple):
    """What becomes of a request: it is answered so, or cut in its body, once it was done or half answered; or late."""

    answer: bytes = b""
    cut: str = ""
    pause: float = 0


def _answering(status: int, code: str, more: str = "") -> Fault:
    body = _error(code, "no").encode()
    head = f"HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return Fault(answer=head.encode() + body)


SLOW_DOWN = _answering(503, "SlowDown")
BROKEN = _answering(500, "InternalError")
EXPIRED = _answering(400, "ExpiredToken")
DENIED = _answering(403, "AccessDenied")
FULL = _answering(507, "XMinioStorageFull")
OVER_QUOTA = _answering(403, "QuotaExceeded")
CUT_EARLY = Fault(cut="body")
CUT_LATE = Fault(cut="answer")
CUT_SHORT = Fault(cut="half")
SLOW = Fault(pause=0.3)


@dataclass
class Front:
    """Stands before a server: the next requests of `methods` have `faults`, one each, then all have `always`."""

    to: int
    faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None
    methods: frozenset[str] = frozenset({"PUT"})
    seen: list[str] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._one(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.tasks.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target = head.split(b" ", 2)[:2]
        self.seen.append(f"{method.decode()} {target.decode()}")
        fault = self._fault(method.decode())
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if fault.cut == "body":
            await reader.readexactly(size // 2)
            writer.transport.abort()
            return
        body = await reader.readexactly(size)
        await asyncio.sleep(fault.pause)
        answer = fault.answer or await self._passed_on(head, body)
        if fault.cut == "answer":
            writer.transport.abort()
            return
        writer.write(answer[: len(answer) // 2] if fault.cut == "half" else answer)
        await writer.drain()

    def _fault(self, method: str) -> Fault:
        if method not in self.methods:
            return Fault()
        return self.faults.popleft() if self.faults else self.always or Fault()

    async def _passed_on(self, head: bytes, body: bytes) -> bytes:
        lines = [line for line in head.split(b"\r\n")[:-2] if not line.lower().startswith(b"connection:")]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.to)
        try:
            writer.write(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
            return await reader.read()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@dataclass(frozen=True, kw_only=True)
class Faulty(Served):
    """A bucket on moto behind a front that has faults: `faulty.front.faults.extend([SLOW_DOWN, CUT_LATE])`."""

    front: Front
    behind: Served

    def objects(self) -> dict[str, bytes]:
        return self.behind.objects()


@pytest.fixture
def faulty(moto: Served, _moto_port: int, _loop: _Loop) -> Iterator[Faulty]:
    """A bucket on moto, behind faults."""
    front = Front(_moto_port)
    server: asyncio.Server = _loop.run(asyncio.start_server(front.serve, "127.0.0.1", 0, limit=1 << 20))
    port = server.sockets[0].getsockname()[1]
    yield Faulty(bucket=moto.bucket, endpoint=f"http://127.0.0.1:{port}", front=front, behind=moto)

    async def end() -> None:
        server.close()
        for task in front.tasks:
            task.cancel()
        await asyncio.gather(*front.tasks, return_exceptions=True)

    _loop.run(end())
