"""Two folders into one, and pictures set aside: nothing is paid again, nothing is lost, and both ways can be undone."""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from batchflux.cli import cli
from batchflux.errors import FolderBusy, StorageError, UsageError
from batchflux.exports.projection import write_results
from batchflux.failpoints import VARIABLE
from batchflux.folders.merge import Merged, merge
from batchflux.folders.pictures import pictures_of
from batchflux.folders.prune import listed_no_longer, set_unlisted_aside
from batchflux.ledger.connection import reading
from batchflux.ledger.reviews import prepare_reviews
from batchflux.output.folder import FolderLock
from batchflux.planner import load_manifest, plan
from batchflux.runner import run
from tests.mirroring import mirror

if TYPE_CHECKING:
    from tests.stores import Served

HEAD = "version: 1\nprovider: {name: simulator, price: 0.5, currency: CNY, options: {latency: 0}}\njobs:\n"


def made(folder: Path, jobs: str, **changes: str) -> Path:
    """Run these jobs into `folder`."""
    path = folder.parent / f"{folder.name}.yaml"
    head = HEAD.replace("CNY", changes.get("currency", "CNY"))
    path.write_text(head + "".join(f"  - {{{job}}}\n" for job in jobs.split("; ")))
    asyncio.run(run(load_manifest(path, out=str(folder))))
    return path


def joined(tmp_path: Path) -> Merged:
    return merge(tmp_path / "a", tmp_path / "b", tmp_path / "c", write_results)


def sql(folder: Path, query: str, *values: object) -> list[Any]:
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as connection:
        return connection.execute(query, values).fetchall()


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_two_nights_become_one_that_goes_on_without_paying(tmp_path: Path) -> None:
    made(tmp_path / "a", "id: mug, prompt: a mug; id: cup, prompt: a cup")
    made(tmp_path / "b", "id: cup, prompt: a cup; id: jar, prompt: a jar")
    with closing(sqlite3.connect(tmp_path / "b" / "ledger.db")) as connection:
        prepare_reviews(connection)
        told = "INSERT INTO reviews (key, review, note, reviewed_at, revision) SELECT key, 'accept', '', 1, 1 FROM jobs"
        connection.execute(f"{told} WHERE id = 'jar'")
        connection.commit()
    merged = joined(tmp_path)
    assert (merged.jobs, merged.shared, merged.aside, merged.renamed) == (3, 1, [], [])
    found = rows(tmp_path / "c")
    assert [*found] == ["mug", "cup", "jar"]
    assert found["jar"]["review"] == "accept"
    assert found["cup"]["attempts"] == "2", "what both paid is counted"
    for row in found.values():
        assert (tmp_path / "c" / row["file_name"]).is_file()
    both = tmp_path / "both.yaml"
    jobs = ("id: mug, prompt: a mug", "id: cup, prompt: a cup", "id: jar, prompt: a jar")
    both.write_text(HEAD + "".join(f"  - {{{job}}}\n" for job in jobs))
    manifest = load_manifest(both, out=str(tmp_path / "c"))
    assert plan(manifest).calls == 0
    ended = asyncio.run(run(manifest))
    assert (ended.exit_code, ended.jobs["done"], int(ended.spent_this_run), int(ended.spent)) == (0, 3, 0, 2)
    assert len(rows(tmp_path / "a")) == 2, "what was joined stays as it was"


def test_other_jobs_of_the_same_name_keep_their_pictures_under_another(tmp_path: Path) -> None:
    made(tmp_path / "a", "id: mug, prompt: a red mug")
    made(tmp_path / "b", "id: mug, prompt: a blue mug")
    merged = joined(tmp_path)
    [(old, new)] = merged.renamed
    found = rows(tmp_path / "c")
    assert (old, [*found]) == ("mug", ["mug", new])
    assert len({(tmp_path / "c" / row["file_name"]).read_bytes() for row in found.values()}) == 2
    both = tmp_path / "both.yaml"
    both.write_text(HEAD + "  - {id: red, prompt: a red mug}\n  - {id: blue, prompt: a blue mug}\n")
    ended = asyncio.run(run(load_manifest(both, out=str(tmp_path / "c"))))
    names = sorted(path.stem for path in (tmp_path / "c" / "images").iterdir())
    assert (int(ended.spent_this_run), names) == (0, ["blue", "red"])


def test_of_two_pictures_of_a_job_the_first_stands_and_the_other_is_kept(tmp_path: Path) -> None:
    for name in "ab":
        made(tmp_path / name, "id: mug, prompt: a mug")
    picture = next((tmp_path / "b" / "images").iterdir())
    picture.write_bytes(b"another")
    sql(tmp_path / "b", "UPDATE jobs SET sha256 = ?", "f" * 64)
    merged = joined(tmp_path)
    assert (tmp_path / "c" / merged.aside[0]).read_bytes() == b"another"
    ours, here = (tmp_path / name / "images" / picture.name for name in "ac")
    assert here.read_bytes() == ours.read_bytes() != b"another"


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_further_picture_of_one_makes_way_for_a_job_of_the_other(tmp_path: Path, order: str) -> None:
    made(tmp_path / order[0], "id: mug, prompt: a mug, output_format: png")
    (tmp_path / order[0] / "images/mug_2.png").write_bytes(b"further")
    made(tmp_path / order[1], "id: mug_2, prompt: another mug, output_format: png")
    joined(tmp_path)
    images = {path.name: path.read_bytes() for path in (tmp_path / "c" / "images").iterdir()}
    assert images["mug_2.png"] == (tmp_path / order[1] / "images/mug_2.png").read_bytes()
    assert (len(images), images["mug_3.png"]) == (3, b"further")


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_done_stands_before_what_is_not(tmp_path: Path, order: str) -> None:
    first, second = (tmp_path / name for name in order)
    made(first, "id: mug, prompt: a mug; id: jar, prompt: a jar")
    made(second, "id: mug, prompt: a mug; id: pot, prompt: a pot")
    [(number,)] = sql(second, "SELECT number FROM jobs WHERE id = 'mug'")
    sql(second, "UPDATE attempts SET state = 'authorized', billed = NULL, link = NULL WHERE job = ?", number)
    sql(second, "UPDATE jobs SET status = 'pending', file_name = NULL, sha256 = NULL WHERE number = ?", number)
    joined(tmp_path)
    found = rows(tmp_path / "c")
    assert found["mug"]["status"] == "done"
    assert (tmp_path / "c" / found["mug"]["file_name"]).is_file()
    assert (found["mug"]["cost"], found["mug"]["possibly_billed"]) == ("0.5", "1"), "it may have been paid twice"
    assert sql(tmp_path / "c", "SELECT in_flight FROM totals") == [(0,)]


HELD = "state = 'captured', billed = 'yes', link = NULL, spool = '.spool/x'"
LINKED = "state = 'captured', billed = 'yes', code = 'download', spool = NULL, link = 'https://x.example/gone.png'"
POLLED = "state = 'unknown', billed = 'maybe', code = 'unknown', link = NULL, spool = NULL"
REFUSED = "state = 'failed', billed = 'maybe', code = 'no_image', link = NULL, spool = NULL"


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (("pending", HELD), ("failed", LINKED)),
        (("unknown", POLLED), ("failed", LINKED)),
        (("unknown", POLLED), ("failed", REFUSED)),
    ],
)
def test_what_may_still_give_a_picture_unpaid_stands(
    tmp_path: Path, order: str, better: tuple[str, str], worse: tuple[str, str]
) -> None:
    for name, (status, attempt) in zip(order, (better, worse), strict=True):
        made(tmp_path / name, "id: mug, prompt: a mug")
        sql(tmp_path / name, "UPDATE jobs SET status = ?, file_name = NULL, sha256 = NULL", status)
        sql(tmp_path / name, f"UPDATE attempts SET {attempt}")  # noqa: S608  constants
        sql(tmp_path / name, "UPDATE submissions SET handle = ?", "t-1" if attempt == POLLED else None)
    joined(tmp_path)
    [found] = sql(tmp_path / "c", "SELECT status, spool, handle IS NOT NULL, link FROM known")
    held = better[1] == HELD
    assert found == (better[0], ".spool/x" if held else None, int(not held), None)


def test_files_that_are_called_after_attempts_follow_their_numbers(tmp_path: Path) -> None:
    for name, jobs in (("a", "id: mug, prompt: a mug; id: jar, prompt: a jar"), ("b", "id: cup, prompt: a cup")):
        made(tmp_path / name, jobs)
    kept = tmp_path / "b" / "rejected" / "cup-1.png"
    kept.parent.mkdir()
    next((tmp_path / "b" / "images").iterdir()).rename(kept)
    says = "UPDATE jobs SET status = 'failed', error_code = 'differs', file_name = 'rejected/cup-1.png', error = ?"
    sql(tmp_path / "b", says, "It is kept as rejected/cup-1.png.")
    joined(tmp_path)
    assert (tmp_path / "c" / "rejected" / "cup-3.png").is_file()
    assert rows(tmp_path / "c")["cup"]["error"] == "It is kept as rejected/cup-3.png."
    assert rows(tmp_path / "c")["cup"]["file_name"] == "rejected/cup-3.png"


def test_what_cannot_be_joined_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    made(tmp_path / "a", "id: mug, prompt: a mug")
    made(tmp_path / "b", "id: cup, prompt: a cup", currency="USD")
    with pytest.raises(UsageError, match="different currencies"):
        joined(tmp_path)
    with pytest.raises(UsageError, match="are one folder"):
        merge(tmp_path / "a", tmp_path / "a", tmp_path / "c", write_results)
    with pytest.raises(UsageError, match="is no output folder"):
        merge(tmp_path / "a", tmp_path, tmp_path / "c", write_results)
    with pytest.raises(UsageError, match="is there already"):
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "b", write_results)
    lock = FolderLock(tmp_path / "b")
    lock.acquire()
    with pytest.raises(FolderBusy):
        joined(tmp_path)
    lock.release()
    assert not (tmp_path / "c").exists()


def test_a_merge_that_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    made(tmp_path / "a", "id: mug, prompt: a mug")
    made(tmp_path / "b", "id: cup, prompt: a cup")

    def dies(*_: object) -> None:
        raise StorageError("as the power went")

    (tmp_path / "c").mkdir()
    with pytest.raises(StorageError):
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "c", dies)
    assert not any((tmp_path / "c").iterdir())
    assert joined(tmp_path).jobs == 2
    assert [*rows(tmp_path / "c")] == ["mug", "cup"]
    assert not (tmp_path / ".c.merging").exists()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["commit.made", "csv.replaced"])
def test_a_merge_that_was_killed_is_made_anew(tmp_path: Path, point: str) -> None:
    made(tmp_path / "a", "id: mug, prompt: a mug")
    made(tmp_path / "b", "id: cup, prompt: a cup")
    command = [sys.executable, "-m", "batchflux", "merge", "a", "b", "-o", "c"]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run(command, cwd=tmp_path, env=environ | {VARIABLE: point}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "c").exists()
    assert subprocess.run(command, cwd=tmp_path, env=environ, check=False).returncode == 0
    assert [*rows(tmp_path / "c")] == ["mug", "cup"]
    assert [*rows(tmp_path / "a")] == ["mug"]


def test_what_the_ledger_knows_keeps_names_that_are_not_for_windows(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = "id: 'a:b', prompt: a mug; prompt: 杯子"
    made(out, jobs)
    [(own,)] = sql(out, "SELECT id FROM jobs WHERE id != 'a:b'")
    for before, after, name in (("a_b", "a:b", "a:b"), (own, f"job-{own[-8:]}", f"job-{own[-8:]}")):
        (out / "images" / f"{before}.jpg").rename(out / "images" / f"{after}.jpg")
        told = "UPDATE jobs SET id = ?, planned = ?, file_name = ? WHERE planned = ?"
        sql(out, told, name, *[f"images/{after}.jpg"] * 2, f"images/{before}.jpg")
    sql(out, "UPDATE meta SET value = '3' WHERE name = 'keys'")  # as a former version left it
    (out / "results.csv").unlink()
    for _ in range(2):
        path = made(out, jobs)
        assert {each.name for each in (out / "images").iterdir()} == {"a:b.jpg", f"job-{own[-8:]}.jpg"}
        assert [*rows(out)] == ["a:b", f"job-{own[-8:]}"]
    assert plan(load_manifest(path, out=str(out))).renamed == 1
    assert plan(load_manifest(path, out=str(tmp_path / "new"))).renamed_sample == "a:b.jpg -> a_b.jpg"


def test_unlisted_pictures_are_set_aside_and_come_back_unpaid(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(out, "id: mug, prompt: a mug; id: cup, prompt: a cup")
    made(out, "id: mug, prompt: a mug")
    [move] = listed_no_longer(out).moves
    assert (out / move.source).is_file(), "listing changes nothing"
    assert set_unlisted_aside(out) == ([move], 0)
    assert ((out / move.source).exists(), (out / move.target).is_file()) == (False, True)
    assert set_unlisted_aside(out) == ([], 0)
    path = made(out, "id: mug, prompt: a mug; id: cup, prompt: a cup")
    assert (out / move.source).is_file()
    assert plan(load_manifest(path, out=str(out))).spent == 1


@pytest.fixture
def keys(moto: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What both folders open their buckets by."""
    for name, value in moto.environ.items():
        monkeypatch.setenv(name, value)


def pictures(folder: Path) -> dict[str, bytes]:
    """Every picture of a folder's jobs, wherever it is, by the job's id."""
    with reading(folder / "ledger.db") as connection:
        of = pictures_of(folder, connection)
        rows = connection.execute("SELECT id, file_name, sha256, mirrored FROM known WHERE status = 'done'")
        return {name: of.read(*row) for name, *row in rows}


def test_what_the_second_has_in_another_bucket_alone_is_fetched(tmp_path: Path, moto: Served, keys: None) -> None:
    made(tmp_path / "a", "id: mug, prompt: a mug; id: cup, prompt: a cup")
    made(tmp_path / "b", "id: mug, prompt: another mug; id: jug, prompt: a jug")
    a, b = pictures(tmp_path / "a"), pictures(tmp_path / "b")
    for each in ("a", "b"):
        mirror(tmp_path / each, moto)
    objects = moto.objects()
    joined(tmp_path)
    out = tmp_path / "c"
    [(second, name)] = sql(out, "SELECT id, file_name FROM jobs WHERE id LIKE 'mug-%'")
    assert pictures(out) == {**a, "jug": b["jug"], second: b["mug"]}
    here = {path.relative_to(out).as_posix() for path in (out / "images").rglob("*.*")}
    assert here == {"images/jug.jpg", name}, "the first's are where they were"
    assert moto.objects() == objects
    assert (pictures(tmp_path / "a"), pictures(tmp_path / "b")) == (a, b)


def test_what_both_have_in_one_bucket_stays_there(tmp_path: Path, moto: Served, keys: None) -> None:
    made(tmp_path / "a", "id: mug, prompt: a mug")
    mirror(tmp_path / "a", moto)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    made(tmp_path / "b", "id: jug, prompt: a jug")
    before = pictures(tmp_path / "b")
    address = mirror(tmp_path / "b", moto, ["images/jug.jpg"], at="a")
    joined(tmp_path)
    assert pictures(tmp_path / "c") == before
    assert not list((tmp_path / "c/images").iterdir())
    assert sql(tmp_path / "c", "SELECT value FROM meta WHERE name = 'mirror'") == [(address,)]


def test_a_bucket_that_does_not_give_them_leaves_nothing(tmp_path: Path, moto: Served, keys: None) -> None:
    made(tmp_path / "a", "id: mug, prompt: a mug")
    made(tmp_path / "b", "id: jug, prompt: a jug")
    mirror(tmp_path / "b", moto)
    moto.store().delete("spring/b/images/jug.jpg")
    with pytest.raises(StorageError, match=r"jug\.jpg is not there, nor are its bytes at s3://"):
        joined(tmp_path)
    assert not (tmp_path / "c").exists()


def test_a_further_picture_of_the_second_makes_way_for_one_that_the_first_has_in_a_bucket(
    tmp_path: Path, moto: Served, keys: None
) -> None:
    made(tmp_path / "a", "id: mug_2, prompt: a mug")
    before = pictures(tmp_path / "a")
    mirror(tmp_path / "a", moto)
    made(tmp_path / "b", "id: jug, prompt: a jug")
    (tmp_path / "b/images/mug_2.jpg").write_bytes(b"a further one")
    joined(tmp_path)
    assert pictures(tmp_path / "c")["mug_2"] == before["mug_2"]
    assert not (tmp_path / "c/images/mug_2.jpg").exists()
    assert (tmp_path / "c/images/mug_3.jpg").read_bytes() == b"a further one"


def test_unlisted_pictures_in_a_bucket_stay_there_and_come_back_unpaid(
    tmp_path: Path, moto: Served, keys: None
) -> None:
    out = tmp_path / "out"
    made(out, "id: mug, prompt: a mug; id: cup, prompt: a cup; id: jug, prompt: a jug")
    before = pictures(out)
    made(out, "id: mug, prompt: a mug")
    mirror(out, moto, ["images/cup.jpg"])
    objects = moto.objects()
    result = CliRunner().invoke(cli, ["prune", str(out), "--yes"])
    assert result.stdout == "images/jug.jpg\n"
    assert "1 more picture of such jobs in the mirror alone; nothing moves there.\n" in result.stderr
    assert moto.objects() == objects
    path = made(out, "id: mug, prompt: a mug; id: cup, prompt: a cup; id: jug, prompt: a jug")
    assert pictures(out) == before
    assert plan(load_manifest(path, out=str(out))).spent == Decimal("1.5")
