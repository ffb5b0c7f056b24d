"""What holds for all tests, and what tests of several folders share.

No example of hypothesis fails for being slow: a busy machine is no fault of ours; examples share their fixtures. In
CI they are the same each time, so that what changed nothing breaks nothing there; new ones are found here. `filled`
makes output folders of any size, through the ledger's own table.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from batchflux.ledger.ledger import Ledger
from batchflux.ledger.tables import nanos, set_meta
from batchflux.models import Job
from tests.stores import _loop, _moto_port, _nanio_place, faulty, moto, nanio, oss

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["_loop", "_moto_port", "_nanio_place", "faulty", "moto", "nanio", "oss"]

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the programs that tests start are compiled once, not by each anew

settings.register_profile(
    "house",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("house")

collect_ignore = ["outside"]  # a package of its own, with tests of its own

SOURCES = 40  # different pictures; all others are further names of them
BEGAN = 1_795_000_000.0
COLUMNS = (  # noqa: SIM905  reads like the table
    "number key id position planned tags spec status file_name width height bytes sha256 error_code error started_at "
    "finished_at api_seconds download_seconds"
).split()
ATTEMPT_COLUMNS = "job model state price billed counts link".split()  # noqa: SIM905  reads like the table


class MakeJob(Protocol):
    def __call__(self, name: str = "mug", /, **fields: Any) -> Job: ...


class Start(Protocol):
    def __call__(self, code: str, *arguments: object) -> subprocess.Popen[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """What goes into a folder: `count` jobs, one in `failing` failed; `thumbs` makes their thumbnails, too.

    `change` may alter the row and the spec of each job, by its number.
    """

    count: int
    failing: int = 25
    thumbs: bool = False
    change: Callable[[int, dict[str, Any], dict[str, Any]], None] | None = None
    meta: tuple[tuple[str, str], ...] = ()


def fill(folder: Path, filling: Filling) -> Path:
    """Make an output folder as a run would leave it; the pictures are hard links to a few."""
    (folder / "images").mkdir(parents=True)
    ledger = Ledger(folder / "ledger.db", durable=False)

    def write(connection: sqlite3.Connection) -> None:
        for row in _rows(folder, filling):
            _insert(connection, "jobs", {name: row[name] for name in COLUMNS})
            for attempt in _attempts(row):
                _insert(connection, "attempts", dict(zip(ATTEMPT_COLUMNS, attempt, strict=True)))
        notes = {"total": str(filling.count), "currency": "CNY", "name": "filled", **dict(filling.meta)}
        for name, value in notes.items():
            set_meta(connection, name, value)

    try:
        ledger.database.now(write)
    finally:
        ledger.close()
    return folder


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))  # noqa: S608  constants and marks


def _attempts(row: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield attempts that come to what the row says."""
    maybe = row["possibly_billed"]
    for _ in range(maybe):
        yield row["number"], "m", "failed", row["maybe_cost"] // maybe, "maybe", 1, None
    last = ("captured", row["cost"], "yes") if row["cost"] or row["link"] else ("failed", 0, "no")
    for index in range(row["attempts"] - maybe):
        final = index == row["attempts"] - maybe - 1
        yield row["number"], "m", *(last if final else ("failed", 0, "no")), 1, row["link"] if final else None


def _rows(folder: Path, filling: Filling) -> Iterator[dict[str, Any]]:
    pictures = _pictures(folder, filling)
    for number in range(filling.count):
        row, spec = _job(number)
        if filling.failing and number % filling.failing == filling.failing - 1:
            codes = ("moderated", "bad_answer", "timeout")
            row |= {"status": "failed", "error_code": codes[number // filling.failing % 3], "error": "it said no"}
        else:
            row |= {"cost": nanos_of("0.14"), "bytes": 1234, "width": 120, "height": 80, "link": _link(number)}
            row["file_name"] = f"images/{row['id']}.jpg"
            row["sha256"] = hashlib.sha256(str(number % SOURCES).encode()).hexdigest()
        if filling.change is not None:
            filling.change(number, row, spec)
        row["spec"] = json.dumps(spec, ensure_ascii=False)
        if row["file_name"] is not None:
            _link_picture(folder, row, pictures[number % SOURCES], thumbs=filling.thumbs)
        yield row


def _job(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    scene = ("on marble", "on oak", "in the rain", "by a window", "at night")[number % 5]
    spec: dict[str, Any] = {
        "prompt": f"Product number {number // 10}, a cup with a saucer, {scene}, soft light, product photograph",
        "images": [],
        "model": "flux-kontext-pro",
        "provider": "tuzi",
        "style": "standard",
        "seed": number % 10,
        "aspect_ratio": ("1:1", "16:9", "9:16")[number % 3],
    }
    began = BEGAN + number * 0.2
    row: dict[str, Any] = dict.fromkeys((*COLUMNS, "link")) | {"number": number + 1}
    row |= {"key": hashlib.sha256(f"key {number}".encode()).digest(), "id": f"job-{number:06}", "position": number}
    row |= {"planned": f"images/job-{number:06}.jpg", "tags": json.dumps({"sku": f"S-{number // 10}", "scene": scene})}
    row |= {"status": "done", "attempts": 1, "possibly_billed": 0, "cost": 0, "maybe_cost": 0}
    row |= {"started_at": began, "finished_at": began + 3 + number % 7 / 10, "api_seconds": 2 + number % 100 / 50}
    return row, spec


def nanos_of(text: str) -> int:
    """Return an amount in the ledger's unit."""
    return nanos(Decimal(text))


def _link(number: int) -> str:
    """Return a link as long and random as the simulator's."""
    digests = b"".join(hashlib.sha256(f"{number} {part}".encode()).digest() for part in range(6))
    return f"http://simulator.localhost/v1/files/{base64.urlsafe_b64encode(digests).decode()}.jpg"


def _pictures(folder: Path, filling: Filling) -> list[Path]:
    made = []
    sources = folder / ".sources"
    sources.mkdir()
    for number in range(min(SOURCES, filling.count)):
        path = sources / f"{number}.jpg"
        Image.new("RGB", (120, 80), (number * 6 % 256, 120, 255 - number * 6 % 256)).save(path)
        made.append(path)
    return made


def _link_picture(folder: Path, row: dict[str, Any], source: Path, *, thumbs: bool) -> None:
    target = folder / row["file_name"]
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)
    if thumbs:
        (folder / "thumbs").mkdir(exist_ok=True)
        os.link(source, folder / "thumbs" / f"{row['key'].hex()[:16]}-{row['sha256'][:12]}.jpg")


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


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what batchflux remembers from folder to folder out of the user's home, and each test's apart."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / f"state-{uuid.uuid4().hex}"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / f"cache-{uuid.uuid4().hex}"))


@pytest.fixture(scope="session")
def filled() -> Callable[..., Path]:
    """Makes an output folder: `filled(path, count=1000, thumbs=True)`; see Filling."""

    def make(folder: Path, **filling: Any) -> Path:
        return fill(folder, Filling(**filling))

    return make


@pytest.fixture(scope="session")
def make_job() -> MakeJob:
    """Make a job; its key follows from its name."""

    def make(name: str = "mug", /, **fields: Any) -> Job:
        job = Job(
            id=name,
            key=hashlib.sha256(name.encode()).hexdigest(),
            prompt=f"a {name}",
            style="standard",
            model="flux-kontext-pro",
            provider="tuzi",
            file_name=f"images/{name}.png",
            position=0,
        )
        return replace(job, **fields)

    return make


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python programs; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()},  # noqa: PTH109  for the child
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def numbered_job(number: int, **fields: Any) -> Job:
    """Make the n-th job; `fields` replace its own."""
    name = f"j{number}"
    job = Job(
        id=name,
        key=hashlib.sha256(name.encode()).hexdigest(),
        prompt=name,
        style="standard",
        model="m",
        provider="tuzi",
        file_name=f"images/{name}.png",
        position=number,
    )
    return replace(job, **fields)


@pytest.fixture(scope="session")
def job_number() -> Callable[..., Job]:
    """Make the n-th job."""
    return numbered_job
