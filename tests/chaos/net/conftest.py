"""A hostile network: a real server that answers byte for byte, and a real TCP proxy before it that breaks what passes.

What goes wrong is written in a job's prompt, so that one run can meet hundreds of faults at once:

- `#NAME` says what the origin answers (see WHOLE and the answers that tests add to `Origin.answers`);
- `@NAME:VALUE*TIMES` says what the proxy does to the API call, `~NAME:VALUE*TIMES` what it does to the download:
  `cut:N` ends the connection after N bytes of the answer, `reset:N` breaks it there, `half:N` goes silent there and
  leaves it open, `late:MS` holds the answer back, `drip:MS` lets one byte pass every so many ms, `body:N` ends the
  connection after N bytes of the request, of which the origin sees none. Without `*TIMES` it happens always.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import math
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from batchflux.testing.inside import inside
from tests.serving import request_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
KEY = "sk-chaos-5f1c0ffee0ddba11"
FAULT = re.compile(r"([@~])(cut|reset|half|late|drip|body):(\d+)(?:\*(\d+))?")
ANSWER = re.compile(r"#([a-z0-9]+)")


@cache
def picture(colour: tuple[int, int, int] = (200, 30, 40), kind: str = "PNG") -> bytes:
    """A whole small picture of two colours."""
    image = Image.new("RGB", (16, 16), colour)
    image.paste((10, 20, 230), (0, 0, 8, 16))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def framed(body: bytes, kind: str = "application/json", status: str = "200 OK", more: str = "") -> bytes:
    """An answer with its length."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(pieces: list[bytes], kind: str = "text/event-stream") -> bytes:
    """An answer in chunks."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def frame(text: str) -> bytes:
    """An event with a piece of a chat answer."""
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


@dataclass
class Asked:
    """One API request as the origin saw it, whole."""

    path: str
    head: str
    prompt: str
    body: dict[str, Any]


Say = Callable[["Origin", str, asyncio.StreamWriter], Coroutine[None, None, None]]


@dataclass
class Origin:
    """The server; `answers` gives an answer to a name: its bytes, or a coroutine that writes them.

    `front` is the address that links lead to. `files` are pictures by the name behind `/files/`; what is not there is
    answered with a whole picture that nobody ordered, so that a link cut short gives a wrong one.
    """

    front: str = ""
    asked: list[Asked] = field(default_factory=list)
    fetched: Counter[str] = field(default_factory=Counter)
    answers: dict[str, bytes | Say] = field(default_factory=dict)
    files: dict[str, bytes | Say] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def name_for(self, prompt: str) -> str:
        """Where the picture of a prompt lies: the faults of its download are part of the name."""
        if prompt not in self.names:
            faults = "".join(match.group() for match in FAULT.finditer(prompt) if match[1] == "~")
            self.names[prompt] = f"{len(self.names):06d}{faults}/p.png"
        return self.names[prompt]

    def link(self, prompt: str) -> str:
        return f"{self.front}/files/{self.name_for(prompt)}"

    def standard(self, prompt: str) -> bytes:
        return framed(json.dumps({"data": [{"url": self.link(prompt)}], "created": 1}).encode())

    def chat(self, prompt: str) -> bytes:
        text = ["> working **50%**\n\n", f"![image]({self.link(prompt)})", "\n\n[down](", f"{self.link(prompt)}?d=1)"]
        return chunked([*map(frame, text), b"data: [DONE]\n\n"])

    def posts(self) -> Counter[str]:
        """How many requests came whole, by prompt."""
        return Counter(asked.prompt for asked in self.asked)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head, body = await request_of(reader)
                await self._answer(head, body, writer)
                await writer.drain()
        writer.close()

    async def _answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        method, path, _ = head.split(b" ", 2)
        if method == b"GET":
            name = path.decode().removeprefix("/files/")
            self.fetched[name] += 1
            known = self.files.get(name, picture() if name in self.names.values() else picture((1, 250, 1)))
            if callable(known):
                await known(self, name, writer)
            else:
                writer.write(known if known.startswith(b"HTTP/") else framed(known, "image/png"))
            return
        asked = json.loads(body)
        prompt = asked["prompt"] if "prompt" in asked else asked["messages"][0]["content"]
        prompt = prompt[0]["text"] if isinstance(prompt, list) else prompt
        self.asked.append(Asked(path.decode(), head.decode("latin-1"), str(prompt), asked))
        asks = ANSWER.search(prompt)
        answer = self.answers.get(asks[1]) if asks else None
        if isinstance(answer, bytes):
            writer.write(answer)
        elif answer is not None:
            await answer(self, prompt, writer)
        else:
            writer.write(self.chat(prompt) if path.endswith(b"completions") else self.standard(prompt))


@dataclass
class Proxy:
    """Stands before the origin; one connection to it for each that comes in."""

    target: int = 0
    connections: int = 0
    done: Counter[str] = field(default_factory=Counter)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                await self._pass(reader, writer, up_reader, up_writer)
            finally:
                up_writer.close()
        writer.close()

    def _fault(self, head: bytes, body: bytes) -> tuple[str, int]:
        text = head.split(b"\r\n", 1)[0].decode() if head.startswith(b"GET") else body.decode()
        mark = "~" if head.startswith(b"GET") else "@"
        for match in FAULT.finditer(text):
            if match[1] == mark:
                self.done[text] += 1
                if match[4] is None or self.done[text] <= int(match[4]):
                    return match[2], int(match[3])
        return "", 0

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        answer: asyncio.Task[None] | None = None
        try:
            while True:
                head, body = await request_of(reader)
                name, value = self._fault(head, body)
                if name == "body":
                    return
                if answer is not None:  # it waits for more of an answer that is whole
                    answer.cancel()
                    await asyncio.gather(answer, return_exceptions=True)
                up_writer.write(head + body)
                answer = asyncio.ensure_future(self._back(up_reader, writer, name, value))
        finally:
            if answer is not None:
                answer.cancel()
                await asyncio.gather(answer, return_exceptions=True)

    async def _back(self, up: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, value: int) -> None:
        left = value if name in {"cut", "reset", "half"} else -1
        if name == "late":
            await asyncio.sleep(value / 1000)
        while left != 0:
            data = await up.read(1 if name == "drip" else left if left > 0 else 1 << 16)
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()
            left = left - len(data) if left > 0 else left
            if name == "drip":
                await asyncio.sleep(value / 1000)
        if name == "half":
            await asyncio.sleep(3600)
        elif name == "reset":
            await asyncio.sleep(0.02)  # what was sent before it must not be overtaken by it
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()


class Net:
    """Servers of one test, on a loop in a thread of its own; and what tests write answers with."""

    picture = staticmethod(picture)
    framed = staticmethod(framed)
    chunked = staticmethod(chunked)
    frame = staticmethod(frame)

    def __init__(self) -> None:
        self.origin = Origin()
        self.proxy = Proxy()
        self.loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.proxy.target = self.listen(self.origin.serve)
        self.port = self.listen(self.proxy.serve)
        self.origin.front = self.url = f"http://127.0.0.1:{self.port}"

    def listen(self, serve: Callable[..., Coroutine[None, None, None]], **how: Any) -> int:
        """Serve on a free port of 127.0.0.1, or of `host`; `ssl` may be given."""

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            try:
                await serve(reader, writer)
            except asyncio.CancelledError:
                writer.transport.abort()

        async def start() -> int:
            server = await asyncio.start_server(client, how.pop("host", "127.0.0.1"), how.pop("port", 0), **how)
            self._servers.append(server)
            port = server.sockets[0].getsockname()[1]
            assert isinstance(port, int)
            return port

        return asyncio.run_coroutine_threadsafe(start(), self.loop).result(60)

    def links(self, name: str, url: str) -> None:
        """Let `#name` be answered with a link to `url`."""
        self.origin.answers[name] = framed(json.dumps({"data": [{"url": url}], "created": 1}).encode())

    def gives(self, name: str, file: bytes | Say) -> None:
        """Let `#name` be answered with a link to a file: a picture's bytes, a whole HTTP answer, or what writes one."""
        self.links(name, f"{self.url}/files/{name}")
        self.origin.files[name] = file

    def tls(self, context: ssl.SSLContext) -> int:
        """Serve the origin behind TLS."""
        return self.listen(self.origin.serve, ssl=context)

    def stop(self) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            for task in [*self._tasks]:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(60)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(60)
        self.loop.close()


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net()
    yield made
    made.stop()


SITE = """
import atexit, logging, os
if "CHAOS_PEAK" in os.environ:
    def peak():
        with open("/proc/self/status") as status, open(os.environ["CHAOS_PEAK"], "w") as file:
            file.write(next(line.split()[1] for line in status if line.startswith("VmHWM")))
    atexit.register(peak)
if "CHAOS_DEBUG" in os.environ:
    logging.basicConfig(level=logging.DEBUG)
if "CHAOS_CRASH" in os.environ:
    import batchflux.transport.client as client
    async def crash(self, *_, **__):
        raise RuntimeError("a bug")
    client.Transport.exchange = crash
"""


@dataclass
class Ended:
    """How a call of the program ended; `peak` is the most memory a process took, in MiB (0 where that is not known)."""

    code: int
    out: str
    err: str
    peak: float = math.nan


@dataclass
class Program:
    """Calls batchflux in a folder of its own: within this process, or `apart`, as a user's shell would.

    Apart for what holds for a whole process: its peak of memory, its umask, what it reads as it starts.
    """

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    crashes: bool = False
    apart: bool = False

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def __call__(self, *arguments: str, umask: int = -1, **environ: str) -> Ended:
        """Call it; `environ` is added to its environment."""
        known = {**os.environ, "TEST_KEY": KEY, **self.environ, **environ}
        if not self.apart and umask < 0:
            return Ended(*inside(self.folder, known, *arguments))
        site, peak = self.write("site/sitecustomize.py", SITE), self.folder / "site" / "peak"
        known["PYTHONPATH"] = f"{site.parent}:{ROOT}"
        if Path("/proc/self/status").exists():
            known["CHAOS_PEAK"] = str(peak)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "batchflux", *arguments],
            cwd=self.folder,
            env=known,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            umask=umask,
        )
        assert self.crashes or "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr, int(peak.read_text()) / 1024 if peak.exists() else 0)

    def run(
        self,
        base_url: str,
        jobs: Sequence[str | dict[str, Any]],
        *arguments: str,
        style: str = "standard",
        **limits: Any,
    ) -> Ended:
        """Run a manifest with a job for each prompt or mapping of fields; ids are j0, j1, j2, ...

        Faults are met by all jobs at once, so none waits for another's picture or is held back for another's failure.
        """
        known = {"concurrency": 32, "timeout": "20s", "attempts": 5, "max_consecutive_failures": 100_000, "canary": 0}
        known |= limits
        provider = {"name": "tuzi", "base_url": base_url, "keys": ["TEST_KEY"], "price": 0.14, "currency": "CNY"}
        listed = [
            {"id": f"j{number}", **({"prompt": job} if isinstance(job, str) else job)}
            for number, job in enumerate(jobs)
        ]
        manifest = {
            "version": 1,
            "name": "m",
            "provider": {**provider, "style": style},
            "limits": known,
            "defaults": {"output_format": "png"} if style == "standard" else {},
            "jobs": listed,
        }
        self.write("m.yaml", json.dumps(manifest))  # JSON is YAML too
        return self("run", "m.yaml", "--no-progress", *arguments)

    def rows(self) -> list[dict[str, str]]:
        """The rows of results.csv in the order of the manifest."""
        with (self.folder / "out/m/results.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def held(self, ended: Ended, jobs: int) -> set[str]:
        """See that a run stopped by its patience: all jobs are pending, and nothing is spent.

        Return what its requests met, as run.log has it.
        """
        assert (ended.code, self.rows()) == (3, []), ended.out + ended.err
        assert "The provider has not been there for" in ended.out
        assert "no job has failed for it" in ended.out
        summary = json.loads((self.folder / "out/m/summary.json").read_text())
        said = [summary["reason"], summary["jobs"]["pending"], summary["spent"], summary["possibly_billed"]]
        assert said == ["failures", jobs, "0", 0]
        lines = [json.loads(line) for line in (self.folder / "out/m/run.log").read_text().splitlines()]
        return {line["message"] for line in lines if line["event"] == "attempt_failed"}

    def images(self) -> list[Path]:
        return sorted(path for path in (self.folder / "out/m/images").rglob("*") if path.is_file())


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)
