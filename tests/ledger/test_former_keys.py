"""A folder whose jobs have the keys of a version that counted signatures, blanks and dropped fields: nothing is new."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from batchflux.exports.results_csv import Results
from batchflux.ledger.bookkeeping import Books
from batchflux.ledger.connection import reading
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.reconcile import Selection
from batchflux.ledger.survey import survey_jobs
from batchflux.ledger.tables import empty_ledger, known_as, known_by_key, prepare
from batchflux.manifest import load_manifest
from batchflux.providers import capabilities
from batchflux.testing.serving import serving
from tests.ledger.test_format1 import FIXTURE, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAD = """\
version: 1
provider: {name: studio, base_url: "${STUDIO_URL}", price: 0.14, currency: CNY, params: drop}
"""
A, B = "https://h.example/a.png?w=1&", "https://h.example/b.png?"
OLD = "X-Amz-Date=20260101T000000Z&X-Amz-Signature=old"
NEW = "X-Amz-Date=20260102T000000Z&X-Amz-Signature=new"


def jobs(signature: str) -> str:
    """Each way in which a key has changed, and those of whom nothing has."""
    return f"""\
jobs:
  - {{prompt: A plain cup}}
  - {{prompt: A signed cup, images: ["{A}{signature}"], file_name_is: x}}
  - prompt: |
      A cup in a block
  - {{prompt: "{A}{signature} {B}{signature} P1 beside P2"}}
  - {{prompt: "{B}{signature}"}}
  - {{id: mine, prompt: " A cup with an id ", style: chat, seed: 9, tags: {{a: b}}}}
  - {{prompt: A cup by chat, style: chat, matrix: {{seed: [1, 2, 3]}}}}
""".replace(", file_name_is: x", "")


# By the rules of before: prompt and images as written, seed, style.
BEFORE: list[tuple[str, list[str], int | None, str]] = [
    ("A plain cup", [], None, "standard"),
    ("A signed cup", [A + OLD], None, "standard"),
    ("A cup in a block\n", [], None, "standard"),
    (f"{A}{OLD} {B}{OLD} P1 beside P2", [], None, "standard"),
    (f"{B}{OLD}", [], None, "standard"),
    (" A cup with an id ", [], 9, "chat"),
    ("A cup by chat", [], 1, "chat"),
    ("A cup by chat", [], 3, "chat"),
]


def former_key(prompt: str, images: list[str], seed: int | None, style: str) -> str:
    fields = [1, "studio", "flux-kontext-pro", style, prompt, images, seed, None, None, None, None, 1]
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An output folder as the old program left it, with a picture for each job of BEFORE."""
    shutil.copytree(FIXTURE, tmp_path / "made")
    out = tmp_path / "made/out"
    with closing(sqlite3.connect(out / "ledger.db")) as connection, connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM jobs WHERE id = 'link-1'").fetchone())
        picture = (out / row["file_name"]).read_bytes()
        connection.execute("DELETE FROM jobs")
        for number, (prompt, images, seed, style) in enumerate(BEFORE):
            key = former_key(prompt, images, seed, style)
            name = "mine" if "an id" in prompt else f"before{number}-{key[:8]}"
            spec = {"prompt": prompt, "images": images, "model": "flux-kontext-pro", "provider": "studio"}
            new: dict[str, Any] = {
                "number": number,
                "key": bytes.fromhex(key),
                "id": name,
                "position": number,
                "tags": "",
            }
            new |= {"planned": f"images/{name}.jpg", "file_name": f"images/{name}.jpg"}
            new |= {"spec": json.dumps({**spec, "style": style, "seed": seed})}
            full = row | new
            marks = ",".join("?" * len(full))
            connection.execute(f"INSERT INTO jobs ({','.join(full)}) VALUES ({marks})", list(full.values()))  # noqa: S608  constants
            (out / f"images/{name}.jpg").write_bytes(picture)
    return out


@pytest.fixture
def asked() -> Iterator[tuple[str, list[Any]]]:
    """The address of an API that refuses all, and what it was asked for."""
    seen: list[Any] = []

    async def post(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.json_response({"error": {"message": "no", "code": "prompt_blocked"}}, status=400)

    app = web.Application()
    app.router.add_post("/{path:.*}", post)
    with serving(app) as url:
        yield url, seen


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_nothing_is_paid_again_and_names_stay(folder: Path, asked: tuple[str, list[Any]]) -> None:
    url, seen = asked
    names = sorted(path.name for path in (folder / "images").iterdir())
    keys = [former_key(*one) for one in BEFORE]
    manifest = folder.parent / "manifest.yaml"
    for text in (jobs(OLD), jobs("X-Amz-Signature=third&X-Amz-Date=20260103T000000Z")):
        manifest.write_text(HEAD + text, encoding="utf-8")
        planned = json.loads(program("plan", str(manifest), "--out", str(folder), "--json", url=url).stdout)
        assert (planned["counts"]["done"], planned["calls"], planned["counts"]["unlisted"]) == (8, 0, 0)
        ended = program("run", str(manifest), "--out", str(folder), "--yes", "--quiet", url=url)
        assert (ended.returncode, ended.stderr, seen) == (0, "", [])
        assert sorted(path.name for path in (folder / "images").iterdir()) == names
        made = rows(folder)
        assert [row["key"] for row in made] == keys
        assert all(row["file_name"] == f"images/{row['id']}.jpg" for row in made)
        assert made[5]["id"] == "mine"
    assert planned["counts"]["merged"] == 1, "the seed that was never made asks for the same as its neighbours"
    told = (folder / "results.csv").read_text(encoding="utf-8")
    assert "X-Amz" not in told
    assert [row["prompt"] for row in made[3:5]] == ["P1 beside P2", ""]


def test_a_renamed_provider_is_paid_nothing_again_and_a_simulated_one_has_keys_of_its_own(
    folder: Path, asked: tuple[str, list[Any]]
) -> None:
    url, seen = asked
    manifest = folder.parent / "manifest.yaml"
    manifest.write_text(HEAD + jobs(OLD), encoding="utf-8")
    first = program("run", str(manifest), "--out", str(folder), "--yes", "--quiet", url=url)
    manifest.write_text(HEAD.replace("name: studio", "name: shop") + jobs(NEW), encoding="utf-8")
    renamed = program("run", str(manifest), "--out", str(folder), "--yes", "--quiet", url=url)
    assert (first.returncode, renamed.returncode, renamed.stderr, seen) == (0, 0, "", [])
    assert [row["key"] for row in rows(folder)] == [former_key(*one) for one in BEFORE[:-1]], (
        "the last is the same again"
    )
    planned = program("plan", str(manifest), "--out", str(folder), "--provider", "simulator", "--json", url=url)
    assert json.loads(planned.stdout)["counts"]["done"] == 0


def test_references_in_front_and_in_their_field_are_the_same_job(folder: Path, asked: tuple[str, list[Any]]) -> None:
    url, seen = asked
    manifest = folder.parent / "manifest.yaml"
    written = f'jobs:\n  - {{prompt: P1 beside P2, images: ["{A}{NEW}", "{B}{NEW}"]}}\n'
    for text in (jobs(OLD), written):
        manifest.write_text(HEAD + text, encoding="utf-8")
        assert program("run", str(manifest), "--out", str(folder), "--quiet", url=url).returncode == 0
    assert (seen, [row["key"] for row in rows(folder)]) == ([], [former_key(*BEFORE[3])])


def test_another_seed_is_another_job_where_it_is_carried(folder: Path) -> None:
    """An edit of what was dropped, or of what counts, is told from one that does not."""
    manifest = folder.parent / "manifest.yaml"
    changed = jobs(OLD).replace("A signed cup", "A sealed cup").replace("seed: 9", "seed: 10").replace("w=1", "w=2")
    manifest.write_text(HEAD + changed, encoding="utf-8")
    made = load_manifest(manifest, out=str(folder), environ={"STUDIO_URL": "http://127.0.0.1:9"}, offers=capabilities())
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as connection:
        prepare(connection)
        survey = survey_jobs(made, connection, Selection(), apply=False)
    assert (survey.done, survey.new, survey.changed) == (5, 2, 1)


def test_a_redo_of_before_is_not_made_again(folder: Path, asked: tuple[str, list[Any]]) -> None:
    url, seen = asked
    manifest = folder.parent / "manifest.yaml"
    manifest.write_text(HEAD + jobs(OLD), encoding="utf-8")
    root, redone = former_key(*BEFORE[2]), former_key("A cup in a block\n", [], None, "standard")[::-1]
    with closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
        connection.execute("DELETE FROM redos")
        connection.execute(
            "INSERT INTO redos VALUES (1, :root, 1, :root, NULL, NULL, 2, :key, 1.0)",
            {"root": bytes.fromhex(root), "key": bytes.fromhex(redone)},
        )
        connection.execute("UPDATE jobs SET key = ? WHERE number = 7", (bytes.fromhex(redone),))
    assert program("run", str(manifest), "--out", str(folder), "--quiet", url=url).returncode == 0
    assert seen == [], "the picture of number 7 is the redo's now, and what it was asks for the same as number 6"
    assert next(row["id"] for row in rows(folder) if row["key"] == redone).endswith("-redo1")
    with reading(folder / "ledger.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM aliases").fetchone()[0] == 7


def test_jobs_made_a_second_time_are_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more jobs than are kept a run makes each again, beside the thread that writes the ledger."""
    monkeypatch.setattr("batchflux.ledger.survey.KEPT_JOBS", 1)
    manifest = folder.parent / "manifest.yaml"
    manifest.write_text(
        HEAD + jobs(NEW).replace("id: mine, ", "") + jobs(OLD).removeprefix("jobs:\n"), encoding="utf-8"
    )
    made = load_manifest(manifest, out=str(folder), environ={"STUDIO_URL": "http://127.0.0.1:9"}, offers=capabilities())
    results = Results(folder / "results.csv", ())
    with closing(Ledger(folder / "ledger.db", durable=False, threaded=False)) as ledger, closing(results):
        books = Books(made, ledger, results, 1.0)
        survey = books.survey(Selection())
        again = list(books.jobs(lambda fault: pytest.fail(str(fault))))
        known = ledger.database.now(lambda connection: known_by_key(connection, [job.key for job in again]))
    assert (survey.total, survey.calls, survey.done) == (len(again), 3, 8), "three are listed before what they are like"
    assert {job.key for job in again} & set(known) == {former_key(*one) for one in BEFORE}


@pytest.mark.parametrize("done", [0, 1])
def test_of_a_job_that_a_merged_folder_has_by_both_keys_the_picture_counts(done: int) -> None:
    keys = ["11" * 32, "22" * 32]
    with closing(empty_ledger()) as connection:
        connection.execute("DELETE FROM meta WHERE name = 'keys'")
        for number, key in enumerate(keys):
            status = "done" if number == done else "failed"
            row = (bytes.fromhex(key), f"job{number}", number, "images/x.png", "", "{}", status)
            connection.execute(
                "INSERT INTO jobs (key, id, position, planned, tags, spec, status) VALUES (?, ?, ?, ?, ?, ?, ?)", row
            )
        find = known_as(connection)
        assert find is not None
        for key, former in (keys, keys[::-1]):
            assert find(key, partial(str, former), None) == (keys[done], f"job{done}")
