"""A provider that counts what it bills, and the program as a real process that can be killed.

The provider is written from CONTRACT 7 and shares no code with batchflux or its simulator. It bills a request when it
has made the answer, whether or not anybody still listens, as real ones do. What it does is said in the prompt:
`job ID #url` answers with a link, `#b64` and `#data` with the picture itself, `#link` with a link in a stream;
`#fail` answers the first request with 500, `#drop` bills the first one and cuts it off, `#lost` does so with all.

It is also a witness: a request for a job whose picture was fetched before, or lies in the folder, is noted in `again`.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from PIL import Image

from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[3]
COLUMNS = (  # noqa: SIM905  as CONTRACT 4 has them
    "id status file_name prompt images seed aspect_ratio output_format model provider style width height bytes sha256 "
    "attempts possibly_billed cost error_code error started_at finished_at api_seconds download_seconds result_url key "
    "remarks seed_used revised_prompt"
).split()
PRICE = 0.14
KEY = "sk-canary-5f1c0ffee0ddba11"


@lru_cache(maxsize=2000)
def picture_of(name: str, side: int = 48) -> bytes:
    """Return the one picture that a job of this id gets."""
    digest = hashlib.sha256(name.encode()).digest()
    image = Image.new("RGB", (side, side), tuple(digest[:3]))
    image.paste(tuple(digest[3:6]), (0, 0, side // 2, side // 2))
    file = io.BytesIO()
    image.save(file, "PNG")
    if side > 256:  # noise, so that the file is as large as it looks
        noise = random.Random(name).randbytes(side * side * 3)
        file = io.BytesIO()
        Image.frombytes("RGB", (side, side), noise).save(file, "PNG", compress_level=0)
    return file.getvalue()


@dataclass
class Bank:
    """The provider.

    `delay` seconds (from, to) pass before an answer; its pictures are `side` pixels wide; `query` ends its links; `out`
    is the folder it looks into as a witness; `hook` is called with a job's id before it is answered.
    """

    url: str = ""
    delay: tuple[float, float] = (0.0, 0.0)
    side: int = 48
    query: str = ""
    out: Path | None = None
    posts: Counter[str] = field(default_factory=Counter)
    billed: Counter[str] = field(default_factory=Counter)
    fetched: Counter[str] = field(default_factory=Counter)
    again: list[str] = field(default_factory=list)
    hook: Callable[[str], None] | None = None
    open: int = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/images/generations", self.post)
        app.router.add_post("/v1/chat/completions", self.post)
        app.router.add_get("/files/{name}", self.file)
        return app

    async def post(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text = str(body.get("prompt") or _text(body))
        name = text.split()[1]
        self.posts[name] += 1
        if self.fetched[name] or (self.out is not None and (self.out / "images" / f"{name}.png").exists()):
            self.again.append(name)
        self.open += 1
        try:
            await asyncio.sleep(random.uniform(*self.delay))
            if self.hook is not None:
                self.hook(name)
            return await self._answer(request, text, name)
        finally:
            self.open -= 1

    async def _answer(self, request: web.Request, text: str, name: str) -> web.StreamResponse:
        if "#hang" in text:
            await asyncio.sleep(3600)
        if "#fail" in text and self.posts[name] == 1:
            return web.json_response({"error": {"message": "oops", "type": "server", "code": "x"}}, status=500)
        self.billed[name] += 1
        if ("#lost" in text or ("#drop" in text and self.posts[name] == 1)) and request.transport is not None:
            request.transport.abort()
            return web.Response()
        url = f"{self.url}/files/{name}.png{self.query}"
        data = base64.b64encode(picture_of(name, self.side)).decode()
        if request.path.endswith("generations"):
            return web.json_response({"data": [{"b64_json": data} if "#b64" in text else {"url": url}], "created": 1})
        shown = f"data:image/png;base64,{data}" if "#data" in text else url
        return await _stream(request, f"> 进度 **50%**\n\n![image]({shown})")

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"].removesuffix(".png")
        self.fetched[name] += 1
        return web.Response(body=picture_of(name, self.side), content_type="image/png")


def _text(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


async def _stream(request: web.Request, text: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for piece in (text[:20], text[20:]):
        chunk = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": piece}}]}
        await response.write(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


@pytest.fixture
def bank() -> Iterator[Bank]:
    provider = Bank()
    # Handlers are not cancelled when a client dies: what was ordered is made, and billed.
    with serving(provider.app()) as provider.url:
        yield provider


@dataclass
class Ended:
    """How a call of the program ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass
class Program:
    """batchflux in a folder of its own; `out` is where `m.yaml` puts its output."""

    folder: Path
    out: Path
    environ: dict[str, str]
    wrapper: tuple[str, ...] = ()
    preexec: Callable[[], None] | None = None

    def manifest(self, url: str, jobs: str, *, limits: str = "", more: str = "") -> None:
        photo = self.folder / "p" / "a.png"
        photo.parent.mkdir(exist_ok=True)
        photo.write_bytes(picture_of("reference"))
        (self.folder / "m.yaml").write_text(
            f"version: 1\nname: m\n"
            f"provider: {{name: tuzi, base_url: {url}, keys: [TEST_KEY], price: {PRICE}, currency: CNY}}\n"
            f"limits: {{concurrency: 6, timeout: 20s{limits}}}\noutput: {{dir: {self.out}}}\n"
            f"{more}\njobs:\n{jobs}",
            encoding="utf-8",
        )

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.wrapper, sys.executable, "-W", "error", "-m", "batchflux", *arguments],
            cwd=self.folder,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=self.preexec,  # noqa: PLW1509  limits of the child only; no thread of ours holds a lock it needs
        )

    def finish(self, process: subprocess.Popen[str]) -> Ended:
        out, err = process.communicate(timeout=100)
        assert "Traceback" not in err, err
        return Ended(process.returncode, out, err)

    def __call__(self, *arguments: str, **environ: str) -> Ended:
        return self.finish(self.start(*arguments, **environ))

    def run(self, *arguments: str, **environ: str) -> Ended:
        return self("run", "m.yaml", *arguments, **environ)

    def kill(self, process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> Ended:
        process.send_signal(number)
        return self.finish(process)

    def rows(self, *, cut: bool = False) -> list[dict[str, str]]:
        """Return the rows of results.csv, which must be well-formed; none when there is no file yet.

        With `cut` a kill may have cut its last row; it is left out then.
        """
        path = self.out / "results.csv"
        if not path.exists():
            return []
        data = path.read_bytes()
        if not data:
            return []
        assert cut or data.endswith(b"\n"), "results.csv ends with half a row"
        table = list(
            csv.reader(io.StringIO(data.decode(errors="replace" if cut else "strict"), newline=""), strict=not cut)
        )
        if cut and (len(table[-1]) < len(table[0]) or not data.endswith(b"\n")):
            table.pop()
        assert table[0][: len(COLUMNS)] == COLUMNS
        assert {len(row) for row in table} == {len(table[0])}, "results.csv has a row of another length"
        rows = [dict(zip(table[0], row, strict=True)) for row in table[1:]]
        ids = Counter(row["id"] for row in rows)
        assert not [name for name, count in ids.items() if count > 1], "results.csv has a job twice"
        return rows

    def status(self) -> dict[str, Any]:
        ended = self("status", str(self.out), "--json")
        assert ended.code == 0, ended.said
        loaded: dict[str, Any] = json.loads(ended.out)
        return loaded

    def summary(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.out / "summary.json").read_text(encoding="utf-8"))
        return loaded

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "run.log").read_text(encoding="utf-8").splitlines()]

    def ledger(self) -> dict[str, dict[str, Any]]:
        """Return the ledger's rows by id, read from a copy so that nothing of it is touched."""
        copy = self.folder / "ledger-copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in self.out.glob("ledger.db*"):
            shutil.copy(path, copy / path.name)
        with closing(sqlite3.connect(copy / "ledger.db")) as connection:
            connection.row_factory = sqlite3.Row
            return {row["id"]: dict(row) for row in connection.execute("SELECT * FROM known")}

    def pictures(self) -> set[str]:
        """Return the ids whose picture is in place; each must be whole and the right one, and nothing else there."""
        names = set()
        for path in (self.out / "images").iterdir():
            with Image.open(path) as image:
                image.load()
                side = image.width
            assert path.read_bytes() == picture_of(path.stem, side), f"{path} is not its picture"
            names.add(path.stem)
        return names

    def leftovers(self) -> list[str]:
        """Return files that do not belong into a folder whose run has ended."""
        allowed = {"images", "results.csv", "summary.json", "manifest.yaml", "ledger.db", "run.log", ".lock", ".spool"}
        top = [path.name for path in self.out.iterdir() if path.name not in allowed]
        return top + [f".spool/{path.name}" for path in (self.out / ".spool").glob("*")]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TEST_KEY": KEY}
    environ.pop("BATCHFLUX_KILL_AT", None)
    return Program(tmp_path, tmp_path / "out", environ)


@pytest.fixture
def need() -> Callable[[str, bool], None]:
    """Skip a test that this machine cannot run; in CI, where everything must be there, fail instead."""

    def check(what: str, there: bool) -> None:  # noqa: FBT001  reads as a sentence
        if there:
            return
        if os.environ.get("CI"):
            pytest.fail(f"CI needs {what}")
        pytest.skip(f"this test needs {what}")

    return check


MOUNT, UMOUNT = "/bin/mount", "/bin/umount"


@pytest.fixture(scope="session")
def mounting(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where the system gives no right to mount: that is nothing that could be installed."""
    place = tmp_path_factory.mktemp("mounted")
    if (
        os.geteuid()
        or not Path(MOUNT).exists()
        or subprocess.run([MOUNT, "-t", "tmpfs", "tmpfs", str(place)], check=False).returncode
    ):
        pytest.skip("this test needs the right to mount a file system (root, and no sandbox that forbids it)")
    subprocess.run([UMOUNT, str(place)], check=True)


@pytest.fixture
def strace(need: Callable[[str, bool], None]) -> str:
    """Return strace; skip where the system lets no process trace another."""
    found = shutil.which("strace")
    need("strace (apt-get install strace)", found is not None)
    if subprocess.run([str(found), "-f", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this test needs the right to trace a process, which this system does not give")
    return str(found)


@dataclass
class Scene:
    """A provider and a program that runs against it, and the verdict on what a kill left behind."""

    program: Program
    bank: Bank

    @staticmethod
    def jobs(each: int) -> str:
        """Write so many jobs of each of the four ways in which a picture can come, in turn."""
        ways = (
            ("u", "url", ", output_format: png"),
            ("b", "b64", ", output_format: png"),
            ("c", "link", ", style: chat"),
            ("d", "data", ", image: p/a.png"),
        )
        return "".join(
            f"  - {{id: {letter}{number}, prompt: 'job {letter}{number} #{way}'{more}}}\n"
            for number in range(1, each + 1)
            for letter, way, more in ways
        )

    @staticmethod
    def picture(name: str) -> bytes:
        """Return the picture that the provider makes for this job."""
        return picture_of(name)

    @staticmethod
    def names(each: int) -> set[str]:
        """Return the ids that `jobs` gives."""
        return {f"{letter}{number}" for letter in "ubcd" for number in range(1, each + 1)}

    @staticmethod
    def wait(condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until the condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.002)

    def settle(self) -> None:
        """Wait until the provider is through with what was ordered, also by a client that died."""
        self.wait(lambda: self.bank.open == 0)

    def after_kill(self) -> None:
        """The folder as a dead process left it: rows of results.csv and pictures whole, nothing paid again."""
        self.settle()
        self.program.rows(cut=True)
        if (self.program.out / "images").exists():
            self.program.pictures()
        assert not self.bank.again, f"paid again although their picture had been fetched: {self.bank.again}"

    def at_the_end(self, names: set[str], kills: int, at_once: int = 6) -> None:
        """All jobs done, and only what was in flight at a kill paid twice."""
        rows = {row["id"]: row for row in self.program.rows()}
        assert set(rows) == names
        assert {row["status"] for row in rows.values()} == {"done"}
        assert self.program.pictures() == names
        for row in rows.values():
            assert row["sha256"] == hashlib.sha256((self.program.out / row["file_name"]).read_bytes()).hexdigest()
        assert not self.bank.again
        more = {name: count - 1 for name, count in self.bank.billed.items() if count != 1}
        for name, count in more.items():
            assert 0 < count <= int(rows[name]["possibly_billed"]), f"{name} was billed {count + 1} times unnoticed"
        assert sum(more.values()) <= kills * at_once
        marked = sum(int(row["possibly_billed"]) for row in rows.values())
        assert marked <= kills * at_once, "more is called possibly billed than can have been in flight"
        summary = self.program.summary()
        assert float(summary["spent"]) >= self.bank.billed.total() * PRICE - 1e-6
        assert summary["jobs"]["done"] == len(names)
        assert self.program.leftovers() == []


@pytest.fixture
def scene(program: Program, bank: Bank) -> Scene:
    bank.out = program.out
    return Scene(program, bank)


@pytest.fixture
def seed() -> int:
    """The seed of a random test, printed with its failure; BATCHFLUX_CHAOS_SEED repeats it."""
    number = int(os.environ.get("BATCHFLUX_CHAOS_SEED") or random.SystemRandom().randrange(10**9))
    print(f"BATCHFLUX_CHAOS_SEED={number}")  # noqa: T201  pytest shows it when the test fails
    return number


POINT = re.compile(r"\breach\(\"([a-z_.]+)\"\)")


@pytest.fixture(scope="session")
def points_in_code() -> set[str]:
    """The points that the program really passes."""
    found: set[str] = set()
    for path in (ROOT / "batchflux").rglob("*.py"):
        found |= set(POINT.findall(path.read_text(encoding="utf-8")))
    return found
