"""A stand-in for the real API, written from CONTRACT 7 and sharing no code with the simulator, and the program itself.

What the server does with a request is said in its prompt: `#500*2` answers the first two requests for that prompt with
500. `#link404` and the like change the picture's link instead. Anything else is answered with a picture.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from PIL import Image

from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
TOKEN = re.compile(r"#([a-z0-9_]+)(?:\*(\d+))?")
SECRET = "sk-canary-5f1c0ffee0ddba11"

ERRORS: dict[str, tuple[int, str, dict[str, Callable[[], str]]]] = {
    "500": (500, "internal_error", {}),
    "429": (429, "rate_limit_exceeded", {"Retry-After": lambda: "1"}),
    "429date": (429, "rate_limit_exceeded", {"Retry-After": lambda: formatdate(time.time() + 1, usegmt=True)}),
    "limited200": (200, "rate_limit_exceeded", {}),
    "quota": (429, "insufficient_user_quota", {}),
    "auth": (401, "invalid_api_key", {}),
    "moderated": (400, "sensitive_words_detected", {}),
    "invalid": (400, "invalid_parameter", {}),
}
TEXTS = {
    "502": (502, "<html><body>502 Bad Gateway</body></html>", "text/html"),
    "empty": (200, '{"data": [], "created": 1}', "application/json"),
    "nojson": (200, "{oops", "application/json"),
}


def picture(seed: str, *, kind: str = "JPEG", ratio: str | None = None) -> bytes:
    """Return a picture that differs by `seed` and honours the ratio."""
    wide, high = (int(part) for part in (ratio or "1:1").split(":"))
    scale = 96 / max(wide, high)
    digest = hashlib.sha256(seed.encode()).digest()
    image = Image.new("RGB", (round(wide * scale), round(high * scale)), tuple(digest[:3]))
    image.paste(tuple(digest[3:6]), (0, 0, image.width // 2, image.height // 2))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@dataclass
class Seen:
    """One request as the server saw it."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    answered: bool = False

    @property
    def text(self) -> str:
        if "prompt" in self.body:
            return str(self.body["prompt"])
        content = self.body["messages"][0]["content"]
        return content if isinstance(content, str) else str(content[0]["text"])


@dataclass
class StandIn:
    """The server: `seen` is its journal, `url` where it listens, `delay` seconds before each answer."""

    url: str = ""
    delay: float = 0.0
    link_delay: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    most_at_once: int = 0
    expired: bool = True
    _at_once: int = 0
    _counts: Counter[str] = field(default_factory=Counter)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 27)
        app.router.add_post("/v1/images/generations", self.post)
        app.router.add_post("/v1/chat/completions", self.post)
        app.router.add_get("/files/{name}", self.file)
        return app

    def answered(self) -> Counter[str]:
        """How many requests were answered with a picture, by prompt."""
        return Counter(seen.text for seen in self.seen if seen.answered)

    def _fault(self, text: str) -> str | None:
        number = self._counts[text]
        self._counts[text] += 1
        for name, times in TOKEN.findall(text):
            if name.startswith("link"):
                continue
            if not times or number < int(times):
                return str(name)
            number -= int(times)
        return None

    async def post(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request.path, await request.json(), dict(request.headers), time.monotonic())
        self.seen.append(seen)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            fault = self._fault(seen.text)
            await asyncio.sleep(self.delay)
            if fault is not None:
                return await self._bad(request, fault, seen)
            seen.answered = True
            return await self._good(request, seen)
        finally:
            self._at_once -= 1

    async def _good(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        kind = "PNG" if seen.body.get("output_format") == "png" else "JPEG"
        data = picture(json.dumps(seen.body, sort_keys=True), kind=kind, ratio=seen.body.get("aspect_ratio"))
        name = hashlib.sha256(data).hexdigest()[:24] + "".join(
            TOKEN.findall(seen.text)[0][:1] if "#link" in seen.text else ()
        )
        self.pictures[name] = data
        url = f"{self.url}/files/{name}"
        if "#linkprivate" in seen.text:
            url = "http://169.254.169.254/latest/meta-data"
        if seen.path.endswith("generations"):
            return web.json_response({"data": [{"url": url}], "created": 1})
        return await self._stream(request, f"> 进度 **50%**\n\n![image]({url})\n\n[点击下载]({url}?download=1)")

    @staticmethod
    async def _stream(request: web.Request, text: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in (text[:9], text[9:]):
            chunk = {
                "id": "c",
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": {"content": piece}}],
            }
            await response.write(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _bad(self, request: web.Request, fault: str, seen: Seen) -> web.StreamResponse:
        if fault in ERRORS:
            status, code, headers = ERRORS[fault]
            body = {"error": {"message": f"simulated {code}", "type": "api_error", "param": None, "code": code}}
            return web.json_response(body, status=status, headers={name: make() for name, make in headers.items()})
        if fault in TEXTS:
            status, text, kind = TEXTS[fault]
            return web.Response(status=status, text=text, content_type=kind)
        if fault in {"b64", "b64half"}:
            seen.answered = True
            whole = picture(seen.text)
            data = base64.b64encode(whole if fault == "b64" else whole[: len(whole) // 2]).decode()
            return web.json_response({"data": [{"b64_json": data}], "created": 1})
        if fault == "reset" and request.transport is not None:
            request.transport.abort()
            return web.Response()
        assert fault == "hang", f"no such fault: {fault}"
        await asyncio.sleep(3600)
        return web.Response()

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.links.append(name)
        count = self.links.count(name)
        await asyncio.sleep(self.link_delay)
        data = self.pictures[name]
        if "link403once" in name and self.expired:
            return web.Response(status=403)
        if "link404" in name or ("linkflaky" in name and count <= 2):
            return web.Response(status=404 if "link404" in name else 503)
        if "linkhalf" in name:
            data = data[: len(data) // 2]
        if "linkhtml" in name:
            return web.Response(text="<html>expired</html>", content_type="image/jpeg")
        return web.Response(body=data, content_type="image/jpeg")


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn()
    with serving(stand_in.app(), handler_cancellation=True) as stand_in.url:
        yield stand_in


@dataclass
class Ended:
    """How a call of the program ended."""

    code: int
    out: str
    err: str


@dataclass
class Program:
    """Calls batchflux in a folder of its own, as a user's shell would."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "TEST_KEY": SECRET, "OTHER_KEY": "sk-other"}

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "batchflux", *arguments],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> Ended:
        out, err = process.communicate(timeout=100)
        assert "Traceback" not in err, err
        return Ended(process.returncode, out, err)

    def __call__(self, *arguments: str) -> Ended:
        return self.finish(self.start(*arguments))

    def rows(self, out: str = "out/m") -> list[dict[str, str]]:
        with (self.folder / out / "results.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def summary(self, out: str = "out/m") -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / out / "summary.json").read_text(encoding="utf-8"))
        return loaded

    def kill(self, process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> None:
        process.send_signal(number)
        process.communicate(timeout=60)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def manifest(program: Program, server: StandIn) -> Callable[..., str]:
    """Write a manifest `m.yaml` for the stand-in and return its name; `jobs` is YAML, `more` goes into the top."""

    def write(jobs: str, *, style: str = "auto", provider: str = "", limits: str = "", more: str = "") -> str:
        program.write(
            "m.yaml",
            f"version: 1\nname: m\n"
            f"provider: {{name: tuzi, base_url: {server.url}, keys: [TEST_KEY], price: 0.14, currency: CNY, "
            f"style: {style}{provider}}}\n"
            f"limits: {{concurrency: 4, timeout: 5s{limits}}}\n{more}\njobs:\n{jobs}",
        )
        return "m.yaml"

    return write


@pytest.fixture
def photo(program: Program) -> Path:
    """A local photograph beside the manifest, `p/a.jpg`."""
    path = program.folder / "p" / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(picture("reference"))
    return path
