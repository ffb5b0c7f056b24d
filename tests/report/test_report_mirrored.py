"""The report of a folder whose pictures are in a bucket alone: small ones in it, and links where they are asked for."""

from __future__ import annotations

import base64
import gzip
import json
import re
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from batchflux.cli.folder import report as report_command
from batchflux.folders.pictures import pictures_of
from batchflux.ledger.connection import connect, reading
from batchflux.ledger.tables import ended_numbers, set_meta
from batchflux.report.content import page_rows
from batchflux.report.thumbs import PictureUrls
from tests.exports.folders import folder, job, picture
from tests.mirroring import mirror
from tests.stores import ACCESS_KEY, DENIED

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from tests.stores import Faulty, Served


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return folder(tmp_path / "out", (job(number) for number in range(6)))


@pytest.fixture
def mirrored(out: Path, moto: Served, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four of its pictures are in the bucket alone, one is there, too, and one is not there."""
    mirror(out, moto, [f"images/j{number}.jpg" for number in range(4)])
    mirror(out, moto, ["images/j4.jpg"], keep=True)
    for name, value in moto.environ.items():
        monkeypatch.setenv(name, value)
    return out


def reported(out: Path, *options: str) -> Result:
    return CliRunner().invoke(report_command, [str(out), *options])


def rows_of(page: Path) -> list[dict[str, Any]]:
    """The rows of a small report, as its script reads them."""
    rest = re.search(r'<script type="text/plain" class="rest">(.*?)</script>', page.read_text())
    assert rest
    block = json.loads(gzip.decompress(base64.b64decode(rest[1])))
    columns = {}
    for name, column in block["columns"].items():
        of, at = column.get("of"), column.get("at")
        columns[name] = column.get("all") or [of[at[one] if at else 0] for one in range(block["count"])]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_thumbnails_are_made_of_the_bucket_once(mirrored: Path, moto: Served) -> None:
    result = reported(mirrored)
    assert result.exit_code == 0, result.output
    assert "6 jobs, 6 thumbnails made.\n" in result.stderr
    assert "cannot" not in result.stderr
    for key in moto.objects():
        moto.store().delete(key)
    assert "6 jobs, 0 thumbnails made.\n" in reported(mirrored).stderr


def test_the_page_has_addresses_and_no_signature(mirrored: Path, moto: Served) -> None:
    reported(mirrored)
    rows = rows_of(mirrored / "report.html")
    assert [row["mirror"] for row in rows[:4]] == [f"{moto.bucket}/spring/out/images/j{n}.jpg" for n in range(4)]
    assert [row["full"] for row in rows[:4]] == [""] * 4
    assert [(row["mirror"], row["full"]) for row in rows[4:]] == [(None, f"images/j{n}.jpg") for n in (4, 5)]
    text = (mirrored / "report.html").read_text() + json.dumps(rows)
    assert ACCESS_KEY not in text
    assert "X-Amz" not in text
    assert moto.endpoint not in text


def test_links_are_signed_where_they_are_asked_for(mirrored: Path, moto: Served) -> None:
    result = reported(mirrored, "--sign", "2h")
    assert result.exit_code == 0, result.output
    until = re.search(r"good until (\S+): the page is a key to them", result.stderr)
    assert until
    page = mirrored / "report.html"
    assert f'"links_until":"{until[1]}"' in page.read_text()
    assert f' file: data: {moto.endpoint}">' in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600
    rows = rows_of(page)
    assert rows[5]["full"] == "images/j5.jpg"
    with urllib.request.urlopen(rows[2]["full"]) as answer:  # noqa: S310  the test's own server
        assert answer.read() == picture(2)
    assert "X-Amz" not in result.output + "".join(
        path.read_text(errors="replace") for path in mirrored.iterdir() if path.is_file() and path != page
    )
    reported(mirrored)
    assert page.stat().st_mode & 0o777 != 0o600
    assert "X-Amz" not in page.read_text()


@pytest.mark.parametrize("text", ["8d", "169h", "0h", "soon"])
def test_what_no_link_can_be_good_for_is_refused(mirrored: Path, text: str) -> None:
    result = reported(mirrored, "--sign", text)
    assert result.exit_code == 2
    assert "allowed is a duration up to 168h, as 2h." in result.stderr
    assert not (mirrored / "report.html").exists()


def test_a_folder_without_a_bucket_has_nothing_to_sign(out: Path) -> None:
    result = reported(out, "--sign", "2h")
    assert "No picture needs a signed link.\n" in result.stderr
    assert "6 jobs, 6 thumbnails made." in result.stderr


def test_a_folder_as_a_bucket_needs_no_links(out: Path) -> None:
    bucket = out.parent / "the bucket"
    bucket.mkdir()
    (out / "images").rename(bucket / "images")
    with closing(connect(out / "ledger.db")) as connection:
        set_meta(connection, "mirror", f"file://{bucket}")
        connection.execute("INSERT INTO mirrored SELECT file_name, sha256, 0 FROM jobs")
    result = reported(out, "--sign", "2h")
    assert "No picture needs a signed link.\n" in result.stderr
    assert "6 jobs, 6 thumbnails made." in result.stderr
    (first, *_) = rows_of(out / "report.html")
    assert first["full"] == (bucket / "images/j0.jpg").as_uri()


def test_a_bucket_that_refuses_costs_its_pictures_only(
    out: Path, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(out, faulty, [f"images/j{number}.jpg" for number in range(4)])
    for name, value in faulty.environ.items():
        monkeypatch.setenv(name, value)
    faulty.front.methods, faulty.front.always = frozenset({"GET"}), DENIED
    result = reported(out)
    assert result.exit_code == 0, result.output
    assert "6 jobs, 2 thumbnails made.\n" in result.stderr
    said = "4 pictures could not be read from the mirror, and cannot be shown (first j0: s3://"
    assert said in result.stderr
    assert result.stderr.count("s3://") == 1


def test_a_page_that_is_served_gives_them_as_its_own(mirrored: Path) -> None:
    with reading(mirrored / "ledger.db") as connection:
        urls = PictureUrls(mirrored, None, served=True, pictures=pictures_of(mirrored, connection))
        rows = list(page_rows(connection, ended_numbers(connection), urls))
    assert [row["full"] for row in rows] == [f"images/j{number}.jpg" for number in range(6)]
