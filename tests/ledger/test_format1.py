"""A folder written with ledger format 1: it is read as it is, and a run goes on with it and pays nothing twice."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from batchflux.ledger.connection import beside, reading
from batchflux.ledger.decisions import Decision, decide
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.reviews import verdicts, waiting_redos
from batchflux.ledger.summary import read_state
from batchflux.ledger.tables import COLUMNS, Known, get_meta, prepare, prepare_reading, spent
from batchflux.testing.inside import inside
from batchflux.testing.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURE = Path(__file__).parent / "fixtures" / "format1"
ROOT = Path(__file__).parents[2]
SINCE_FORMAT_2 = len(Known._field_defaults)
KILLED = "killed"  # its request was out when the old program died


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the folder as the old program left it, beside its manifest."""
    shutil.copytree(FIXTURE, tmp_path / "made")
    return tmp_path / "made" / "out"


class Api:
    """Counts what is asked of it, and answers with pictures."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.url = ""
        data = io.BytesIO()
        Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(data, "JPEG")
        self._picture = data.getvalue()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/images/generations", self._post)
        app.router.add_get("/picture.jpg", self._get)
        return app

    async def _post(self, request: web.Request) -> web.Response:
        self.asked[(await request.json())["prompt"]] += 1
        return web.json_response({"data": [{"url": f"{self.url}/picture.jpg"}]})

    async def _get(self, request: web.Request) -> web.Response:
        return web.Response(body=self._picture, content_type="image/jpeg")


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    with serving(made.app()) as url:
        made.url = url
        yield made


def rows(connection: sqlite3.Connection) -> dict[str, tuple[Any, ...]]:
    """Return what both formats know of each job."""
    found = map(Known.of, connection.execute(f"SELECT {COLUMNS} FROM known ORDER BY number"))  # noqa: S608  a constant
    return {known.id: known[:-SINCE_FORMAT_2] for known in found}


def program(*arguments: str, url: str = "http://127.0.0.1:9", kill_at: str = "") -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": str(ROOT), "STUDIO_URL": url}
    if not kill_at:
        return subprocess.CompletedProcess(arguments, *inside(Path.cwd(), environ, *arguments))
    environ |= {"BATCHFLUX_KILL_AT": kill_at}
    command = [sys.executable, "-m", "batchflux", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environ)


def run(folder: Path, api: Api, *arguments: str, kill_at: str = "") -> subprocess.CompletedProcess[str]:
    manifest = str(folder.parent / "manifest.yaml")
    return program("run", manifest, "--out", str(folder), "--yes", "--quiet", *arguments, url=api.url, kill_at=kill_at)


def link_to(folder: Path, api: Api) -> None:
    with closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
        connection.execute("UPDATE jobs SET link = ? WHERE id = 'pending-link'", (f"{api.url}/picture.jpg",))


def statuses(folder: Path) -> Counter[str]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return Counter(row["status"] for row in csv.DictReader(file))


def test_who_only_reads_sees_all_and_changes_nothing(folder: Path) -> None:
    before = hashlib.sha256((folder / "ledger.db").read_bytes()).digest()
    state = read_state(folder)
    assert (state.done, state.failed, state.unknown, state.attempts, state.possibly_billed) == (6, 7, 2, 20, 6)
    assert (format(state.spent, "f"), format(state.spent_possibly, "f")) == ("2.38", "0.84")
    for command in (["plan", str(folder.parent / "manifest.yaml"), "--out", str(folder)], ["report", str(folder)]):
        ended = program(*command)
        assert ended.returncode == 0, ended.stderr
    assert hashlib.sha256((folder / "ledger.db").read_bytes()).digest() == before
    with reading(folder / "ledger.db") as connection:
        assert get_meta(connection, "format") == "1"


def test_a_migrated_ledger_says_of_each_job_what_it_said(folder: Path) -> None:
    with reading(folder / "ledger.db") as connection:
        before, money = rows(connection), spent(connection)
        said, waiting = verdicts(connection), waiting_redos(connection)
    ledger = Ledger(folder / "ledger.db", durable=False, threaded=False)
    after = ledger.database.now(rows)
    assert ledger.database.now(verdicts) == said
    assert ledger.database.now(waiting_redos) == waiting
    assert ledger.database.now(spent) == money
    assert ledger.recovered == 1
    assert ledger.database.now(lambda c: get_meta(c, "format")) == "2"
    assert ledger.database.now(lambda c: c.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"
    ledger.close()
    killed = Known.of((*after.pop(KILLED), *[None] * SINCE_FORMAT_2))
    assert (killed.status, killed.possibly_billed, killed.maybe_cost) == ("unknown", 1, 140_000_000)
    del before[KILLED]
    assert after == before


def test_a_verdict_on_a_folder_of_format_1_leaves_it_so_and_is_kept(folder: Path) -> None:
    with closing(beside(folder / "ledger.db")) as connection:
        key = connection.execute("SELECT key FROM jobs WHERE id = 'inline-1'").fetchone()[0]
    (redo,) = decide(folder / "ledger.db", Decision(keys=(key,), review="redo", note="brighter")).asked
    assert redo.id == "inline-1-redo1"
    with reading(folder / "ledger.db") as connection:
        assert get_meta(connection, "format") == "1"
    ledger = Ledger(folder / "ledger.db", durable=False, threaded=False)
    assert ledger.database.now(verdicts)[key].note == "brighter"
    assert len(ledger.database.now(waiting_redos)) == 2
    ledger.close()


@pytest.mark.parametrize("kill_at", ["", pytest.param("commit.begun", marks=pytest.mark.slow), "commit.made"])
def test_a_run_goes_on_and_pays_for_nothing_twice(folder: Path, api: Api, kill_at: str) -> None:
    link_to(folder, api)
    if kill_at:
        assert run(folder, api, "--on-unknown", "hold", kill_at=kill_at).returncode == -9
        assert not api.asked
    ended = run(folder, api, "--on-unknown", "hold")
    assert ended.returncode == 1, ended.stderr
    assert api.asked == {"A cup that was never asked for": 1, "A black cup": 1}
    assert statuses(folder) == {"done": 10, "failed": 7, "unknown": 2}
    state = read_state(folder)
    assert (state.attempts, state.possibly_billed, format(state.spent, "f")) == (22, 6, "2.66")
    again = run(folder, api)
    assert again.returncode == 1, again.stderr
    assert api.asked.total() == 4, "the two that were unknown are sent once more each"
    assert api.asked["A lost cup"] == api.asked["A cup that was on its way"] == 1
    assert statuses(folder) == {"done": 12, "failed": 7}
    assert read_state(folder).spent == state.spent + 2 * state.spent.__class__("0.14")


AMOUNTS = st.integers(0, 10**10)


@st.composite
def old_rows(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the sums of a job as format 1 may hold them."""
    status = draw(st.sampled_from(["pending", "done", "failed", "unknown"]))
    received = status == "done" or (status != "unknown" and draw(st.booleans()))
    out = status == "pending" and not received and draw(st.booleans())
    maybe = draw(st.integers(1 if status == "unknown" else 0, 3))
    cost = draw(AMOUNTS) if received or draw(st.booleans()) else 0
    paid = int(received or cost > 0)
    return {
        "status": status,
        "attempts": draw(st.integers(0, 3)) + maybe + paid + out,
        "in_flight": draw(AMOUNTS) if out else None,
        "possibly_billed": maybe,
        "cost": cost,
        "maybe_cost": draw(AMOUNTS) if maybe else 0,
        "link": "https://cdn.example/x" if received and draw(st.booleans()) else None,
        "error_code": {"failed": "server", "unknown": "unknown"}.get(status),
    }


@settings(max_examples=25)
@given(st.lists(old_rows(), max_size=5))
def test_any_sums_of_format_1_are_those_of_the_attempts(drawn: list[dict[str, Any]]) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with closing(sqlite3.connect(FIXTURE / "out" / "ledger.db")) as source:
            source.backup(connection)
        connection.execute("DELETE FROM jobs")
        for number, row in enumerate(drawn):
            fixed = {"key": bytes([number]), "id": str(number), "position": number, "planned": "", "tags": ""}
            full = fixed | {"spec": '{"model": "m"}'} | row
            marks = ",".join("?" * len(full))
            connection.execute(f"INSERT INTO jobs ({','.join(full)}) VALUES ({marks})", list(full.values()))  # noqa: S608  constants
        prepare_reading(connection)
        before, money = rows(connection), spent(connection)
        connection.execute("DROP VIEW temp.known")
        connection.execute("DROP VIEW temp.totals")
        prepare(connection)
        assert rows(connection) == before
        assert spent(connection) == money
