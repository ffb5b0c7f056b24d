"""What was paid for is kept: whole pictures that are not as ordered, and answers in which none was found."""

from __future__ import annotations

import json
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from batchflux.providers import READER
from batchflux.testing.bank import KEY, LOOKS, looking, picture_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program

DIFFERS = {"wide": "ratio", "plate": "colour", "trailing": "trailing", "moving": "animated"}
SUFFIXES = {"tiff": ".tif", **{look: f".{look}" for look in ("webp", "gif", "bmp", "avif")}}
NO_CANARY = ", canary: 0"


def jobs_of(ways: tuple[str, ...], looks: set[str] = LOOKS) -> str:
    return "".join(
        f"  - {{id: {way}-{look}, prompt: 'job {way}-{look} #{way} #{look}', output_format: png, aspect_ratio: '1:1'"
        f"}}\n"
        for way in ways
        for look in sorted(looks)
    )


def test_a_whole_picture_that_differs_is_kept_and_bought_once(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    """Of every kind, as a link and inside the answer; and `accept` takes each without a request, when it names it."""
    jobs = jobs_of(("url", "b64"))
    bank.out = program.folder / "out" / "m"
    name = manifest(jobs, limits=NO_CANARY)
    ended = program("run", name)
    assert ended.code == 1, ended.said
    posts = bank.posts.copy()
    assert set(posts.values()) == {1}
    rows = {row["id"]: row for row in program.rows()}
    assert {row["error_code"] for row in rows.values()} == {"differs"}
    for job, row in rows.items():
        look = job.partition("-")[2]
        what = DIFFERS.get(look, "format")
        assert (row["status"], row["cost"], row["possibly_billed"]) == ("failed", "0.14", "0")
        assert row["file_name"].startswith(f"rejected/{job}-")
        assert row["file_name"].endswith(SUFFIXES.get(look, ".png"))
        assert (program.out / row["file_name"]).read_bytes() == looking(look, picture_of(job))
        assert row["remarks"]
        assert f"{row['remarks']}; output.accept: [{what}] takes it" in row["error"]
        assert row["error"].endswith(f"It is kept as {row['file_name']}.")
    assert program.pictures() == set()

    plan = json.loads(program("plan", name, "--retry-failed", "--json").out)
    assert (plan["calls"], plan["counts"]["todo"]) == (0, 0)

    manifest(jobs, limits=NO_CANARY, more="output: {accept: [format, trailing]}")
    plan = json.loads(program("plan", name, "--json").out)
    assert (plan["calls"], plan["counts"]["todo"]) == (0, 12)
    assert program("run", name).code == 1
    manifest(jobs, limits=NO_CANARY, more="output: {accept: any}")
    ended = program("run", name)
    assert ended.code == 0, ended.said
    assert bank.posts == posts
    assert list((program.out / "rejected").iterdir()) == []
    for job, row in ((row["id"], row) for row in program.rows()):
        look = job.partition("-")[2]
        assert (row["status"], row["error_code"], row["error"]) == ("done", "", "")
        assert row["remarks"] == rows[job]["remarks"]
        assert row["file_name"] == f"images/{job}{SUFFIXES.get(look, '.png')}"
        assert (program.out / row["file_name"]).read_bytes() == looking(look, picture_of(job))


@pytest.mark.slow
def test_what_is_accepted_is_done_at_once_and_what_differs_is_bought_again_by_name_only(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    jobs = jobs_of(("url", "b64"), {"webp", "wide"})
    name = manifest(jobs, limits=NO_CANARY, more="output: {accept: [format]}")
    assert program("run", name).code == 1
    states = {row["id"]: (row["status"], row["remarks"]) for row in program.rows()}
    manifest(jobs, limits=NO_CANARY)
    assert program("run", name, "--retry-failed").code == 1, "nothing is lost when less is accepted"
    assert states == {row["id"]: (row["status"], row["remarks"]) for row in program.rows()}
    assert states["url-webp"] == states["b64-webp"] == ("done", "a PNG was asked for and a WEBP came")
    assert [states[f"{way}-wide"][0] for way in ("url", "b64")] == ["failed", "failed"]
    plan = json.loads(program("plan", name, "--retry-failed", "--pay-again", "--json").out)
    assert plan["calls"] == 2
    assert program("plan", name, "--pay-again").code == 2
    program("run", name, "--retry-failed", "--pay-again")
    assert bank.posts == {"url-webp": 1, "b64-webp": 1, "url-wide": 2, "b64-wide": 2}
    kept = sorted(path.name.rpartition("-")[0] for path in (program.out / "rejected").iterdir())
    assert kept == ["b64-wide", "b64-wide", "url-wide", "url-wide"], "what was paid for is never removed"


@pytest.mark.slow
def test_the_report_shows_what_differs(program: Program, bank: Bank, manifest: Callable[..., str]) -> None:
    name = manifest(jobs_of(("url",), {"avif", "wide"}), limits=NO_CANARY)
    program("run", name)
    ended = program("report", str(program.out))
    assert ended.code == 0, ended.said
    assert len(list((program.out / "thumbs").glob("*.jpg"))) == 2
    page = (program.out / "report.html").read_text(encoding="utf-8")
    assert '"differs"' in page


def test_a_file_of_somebody_else_is_not_written_over(
    program: Program, bank: Bank, manifest: Callable[..., str]
) -> None:
    """The picture is kept, and takes its place without a request once that is free; a folder is such a file too."""
    ways = {"u": "url", "b": "b64", "v": "url", "c": "b64"}
    jobs = "".join(f"  - {{id: {job}, prompt: 'job {job} #{way}', output_format: png}}\n" for job, way in ways.items())
    name = manifest(f"{jobs}  - {{id: first, prompt: 'job first #url', output_format: png}}\n", limits=NO_CANARY)
    assert program("run", name, "--only", "first").code == 0
    images = program.folder / "out" / "m" / "images"
    for folder in ("v", "c"):
        (images / f"{folder}.png").mkdir()
    for file in ("u", "b"):
        (images / f"{file}.png").write_bytes(b"mine")
    ended = program("run", name)
    assert ended.code == 1, ended.said
    rows = {row["id"]: row for row in program.rows() if row["id"] != "first"}
    assert {row["error_code"] for row in rows.values()} == {"invalid_request"}
    assert all(f"{job}.png" in row["error"] for job, row in rows.items())
    assert all((program.out / row["file_name"]).read_bytes() == picture_of(job) for job, row in rows.items())
    assert [(images / f"{file}.png").read_bytes() for file in ("u", "b")] == [b"mine", b"mine"]
    assert program("run", name).code == 1
    for folder in ("v", "c"):
        (images / f"{folder}.png").rmdir()
    for file in ("u", "b"):
        (images / f"{file}.png").unlink()
    ended = program("run", name, "--retry-failed")
    assert ended.code == 0, ended.said
    assert program.pictures() == {*ways, "first"}
    assert set(bank.posts.values()) == {1}
    assert list((program.out / "rejected").iterdir()) == []


def link_of(program: Program, job: str, bank: Bank) -> str:
    """Let the kept answer of a job say what today's reader understands."""
    (path,) = (program.out / "answers").glob(f"{job}-*.json")
    data = {"data": [{"url": f"{bank.url}/files/{job}.png"}]}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path.name


@pytest.mark.parametrize(
    "newer", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["retry-failed", "newer reader"]
)
def test_answers_are_kept_and_read_again_without_paying(
    program: Program,
    bank: Bank,
    manifest: Callable[..., str],
    newer: bool,  # noqa: FBT001  a table's column
) -> None:
    name = manifest(
        "".join(f"  - {{id: {job}, prompt: 'job {job} #quoting', output_format: png}}\n" for job in "abc"),
        limits=f"{NO_CANARY}, attempts: 1",
    )
    assert program("run", name).code == 1
    assert bank.posts == {"a": 1, "b": 1, "c": 1}
    kept = sorted((program.out / "answers").iterdir())
    assert [path.name.partition("-")[0] for path in kept] == ["a", "b", "c"]
    assert all(json.loads(path.read_text()) == {"data": [], "sent": "Bearer ***"} for path in kept)
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert {row["error_code"] for row in program.rows()} == {"no_image"}

    for job in "ab":
        link_of(program, job, bank)
        bank.prompts[job], bank._files[f"{job}.png"] = "", (job, picture_of(job))
    assert program("run", name).code == 1, "no reader is newer"
    with closing(sqlite3.connect(program.out / "ledger.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'reader'", (str(READER - newer),))
    asked = () if newer else ("--retry-failed",)
    plan = json.loads(program("plan", name, "--json", *asked).out)
    assert (plan["calls"], plan["counts"]["todo"]) == ((0, 2) if newer else (1, 3))
    assert program("run", name, *asked).code == 1
    assert program.pictures() == {"a", "b"}
    assert bank.posts == {"a": 1, "b": 1, "c": 1 if newer else 2}
    rows = {row["id"]: row for row in program.rows()}
    assert [(rows[job]["status"], rows[job]["cost"], rows[job]["attempts"]) for job in "ab"] == [
        ("done", "0.14", "1")
    ] * 2
    with Image.open(program.out / "images" / "a.png") as image:
        assert image.size == (48, 48)
    assert KEY not in "".join(path.read_text() for path in (program.out / "answers").iterdir())
