"""The report says what pictures carry: it is read as their thumbnails are made, and not again."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from batchflux.ledger.connection import reading
from batchflux.ledger.tables import ended_numbers
from batchflux.provenance import MARKS, marked
from batchflux.report.content import page_rows
from batchflux.report.report import write_report
from batchflux.report.thumbs import PictureUrls, shrink
from tests.exports.folders import folder, job, put
from tests.provenance.pictures import about, picture, signed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made = folder(tmp_path / "out", (job(number) for number in range(5)))
    put(made, "images/j1.jpg", signed("jpeg"))
    put(made, "images/j2.jpg", marked(picture("jpeg"), ("iptc", "tc260"), about()).data)
    put(made, "images/j3.jpg", marked(picture("lossy"), tuple(MARKS), about()).data)
    put(made, "images/j4.jpg", b"\xff\xd8\xff rubbish")
    return made


def header(out: Path) -> dict[str, Any]:
    found = re.search(r'id="setup">(.*?)</script>', (out / "report.html").read_text(encoding="utf-8"))
    assert found
    said: dict[str, Any] = json.loads(found[1])["header"]
    return said


def rows(out: Path) -> list[str | None]:
    with reading(out / "ledger.db") as connection:
        urls = PictureUrls(out, None)
        return [row["carries"] for row in page_rows(connection, ended_numbers(connection), urls)]


def test_a_report_counts_what_pictures_carry_and_says_it_of_each(out: Path) -> None:
    write_report(out)
    counts = {"c2pa": 1, "iptc": 2, "parameters": 1, "tc260": 2}
    carried = [None, "c2pa", "iptc tc260", "iptc parameters tc260", None]
    assert (header(out)["carries"], rows(out)) == (counts, carried)
    for path in (out / "images").iterdir():
        path.unlink()
    write_report(out)
    assert (header(out)["carries"], rows(out)) == (counts, carried)


def test_thumbnails_of_before_say_nothing(out: Path) -> None:
    write_report(out)
    for path in (out / "thumbs").glob("*.jpg"):
        with Image.open(path) as small:
            small.load()
            small.save(path, "JPEG", comment=b"")
    write_report(out)
    assert (header(out)["carries"], set(rows(out))) == ({}, {None})


def test_a_thumbnail_repeats_no_words_of_its_picture(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(marked(picture("png"), tuple(MARKS), about(prompt="a secret mug")).data)
    assert shrink(tmp_path / "x.png", tmp_path / "small.jpg", 320)
    data = (tmp_path / "small.jpg").read_bytes()
    assert b"batchflux: carries iptc parameters tc260;" in data
    assert b"secret" not in data
