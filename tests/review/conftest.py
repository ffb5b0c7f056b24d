"""Output folders with a real ledger and real pictures, and a review that is served on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, ClientTimeout, CookieJar
from PIL import Image

from batchflux.errors import Code, JobError
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.tables import set_meta
from batchflux.models import Job, Link, Outcome, Reference, Status, Stored
from batchflux.review.listen import ServedReview, serve
from tests.attempts import fail, receive, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from aiohttp import ClientResponse


def picture(seed: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (640, 480), tuple(hashlib.sha256(seed.encode()).digest()[:3])).save(file, kind)
    return file.getvalue()


@dataclass
class Folder:
    """One output folder, written the way a run writes it; `base` is where its manifest would be."""

    root: Path
    base: Path
    _count: int = 0
    _open: list[Ledger] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        if not self._open:
            self.root.mkdir(parents=True, exist_ok=True)
            self._open.append(Ledger(self.root / "ledger.db", durable=False, threaded=False))
            self._open[0].database.now(lambda connection: set_meta(connection, "base", str(self.base)))
        return self._open[0]

    def job(self, name: str, **fields: Any) -> Job:
        made = Job(
            id=name,
            key=hashlib.sha256(name.encode()).hexdigest(),
            prompt=f"a {name}",
            style="standard",
            model="flux",
            provider="tuzi",
            file_name=f"images/{name}.png",
            position=self._count,
        )
        self._count += 1
        return replace(made, **fields)

    async def intend(self, name: str, **fields: Any) -> Job:
        job = self.job(name, **fields)
        await send(self.ledger, job, price=1, at=1.0)
        return job

    async def add(self, name: str, *, fails: bool = False, **fields: Any) -> Job:
        job = await self.intend(name, **fields)
        await self.end(job, fails=fails)
        return job

    async def end(self, job: Job, *, fails: bool = False) -> None:
        if fails:
            await fail(self.ledger, job, JobError(Code.SERVER, "the server broke"), counts=True)
            outcome = Outcome(status=Status.FAILED, error_code="server", error="the server broke", finished_at=2.0)
            await self.ledger.finish(job, outcome)
            return
        data = picture(job.key)
        place = self.root / job.file_name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        await receive(self.ledger, job, Link(url="https://cdn.example/x"), api_seconds=0.5)
        digest = hashlib.sha256(data).hexdigest()
        stored = Stored(file_name=job.file_name, width=640, height=480, bytes=len(data), sha256=digest)
        await self.ledger.finish(job, Outcome(status=Status.DONE, stored=stored, finished_at=2.0))

    def reference(self, name: str) -> Reference:
        """Make a local reference beside the manifest."""
        self.base.mkdir(parents=True, exist_ok=True)
        (self.base / name).write_bytes(picture(name, "JPEG"))
        return Reference(source=name, path=str(self.base / name), sha256="0" * 64, media_type="image/jpeg")

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path / "out", tmp_path / "manifest")
    yield made
    made.close()


@dataclass
class Page:
    """A browser's page of a review, as far as HTTP goes: it has the cookie and the token."""

    site: ServedReview
    session: ClientSession
    base: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Batchflux-Token": self.token, "Origin": self.base, "Content-Type": "application/json"}

    def get(self, path: str, **more: Any) -> Any:
        return self.session.get(self.base + path, allow_redirects=False, **more)

    def post(self, body: Any, headers: dict[str, str] | None = None, path: str = "/api/verdicts", **more: Any) -> Any:
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        sent = self.headers if headers is None else headers
        return self.session.post(f"{self.base}{path}", data=data, headers=sent, **more)

    async def judge(self, jobs: list[Job], review: str, **more: Any) -> dict[str, Any]:
        body = {"keys": [job.key for job in jobs], "review": review, "note": None, "redo": None, **more}
        async with self.post(body) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer

    async def rows(self, since: int = 0) -> dict[str, Any]:
        async with self.get(f"/api/rows?since={since}") as response:
            assert response.status == 200
            answer: dict[str, Any] = await response.json()
            return answer

    @asynccontextmanager
    async def events(self, since: int = 0, **headers: str) -> AsyncIterator[Events]:
        async with self.get(f"/api/events?since={since}", headers=headers) as response:
            assert response.status == 200
            yield Events(response)


class Events:
    """Reads an event stream as a browser does."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response
        self.last_id = 0
        self.header: dict[str, Any] = {}

    async def next(self) -> tuple[str, Any]:
        fields: dict[str, str] = {}
        while True:
            line = (await asyncio.wait_for(self.response.content.readline(), 60)).decode()
            if not line:
                return "end", None
            if line == "\n" and fields:
                self.last_id = int(fields.get("id", self.last_id))
                data = json.loads(fields["data"])
                if fields["event"] == "header":
                    self.header = data
                return fields["event"], data
            name, colon, value = line.rstrip("\n").partition(": ")
            if colon and name:
                fields[name] = value

    async def until(self, name: str) -> Any:
        """Return the next event of this name, past others."""
        while True:
            found, data = await self.next()
            if found == name:
                return data
            assert found != "end", f"the stream ended before {name}"

    async def standing(self, **wanted: Any) -> dict[str, Any]:
        """Return the newest header once it says this, of its counts too; it may have come before other events."""
        while {name: (self.header | self.header.get("counts", {})).get(name) for name in wanted} != wanted:
            await self.until("header")
        return self.header


@asynccontextmanager
async def opened(site: ServedReview) -> AsyncIterator[Page]:
    """Open a page of a review, by the address that was printed."""
    base, _, token = site.url.partition("/?token=")
    async with ClientSession(cookie_jar=CookieJar(unsafe=True), timeout=ClientTimeout(100)) as session:
        async with session.get(site.url, allow_redirects=False) as response:
            assert response.status == 200
            await response.read()
        yield Page(site, session, base, token)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
async def page(folder: Folder, told: list[str]) -> AsyncIterator[Page]:
    """A page of the folder's review."""
    site = await serve(folder.root, "127.0.0.1", 0, told.append)
    try:
        async with opened(site) as page:
            yield page
    finally:
        await site.stop()
