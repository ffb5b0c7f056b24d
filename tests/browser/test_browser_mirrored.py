"""Pictures that are in a bucket alone, in a real browser: the review shows them, a report does where it was signed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from batchflux.report.report import write_report
from tests.browser.conftest import serving
from tests.exports.folders import folder, job
from tests.mirroring import mirror

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.conftest import Opener
    from tests.stores import Served

SEEN = "image => image.decode().then(() => image.naturalWidth)"


@pytest.fixture
def place(tmp_path: Path, moto: Served, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a folder, `out`, whose three pictures are in a bucket alone."""
    mirror(folder(tmp_path / "out", map(job, range(3)), side=400), moto)
    shutil.rmtree(tmp_path / "out/images")
    for name, value in moto.environ.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def review(place: Path) -> Iterator[str]:
    with serving(place) as url:
        yield url


def enlarge(page: Page) -> None:
    page.locator(".tile").first.click()
    expect(page.locator("#large")).to_be_visible()


def test_a_review_shows_small_and_large(review: str, opened: Opener) -> None:
    page = opened(review)
    assert page.locator(".tile img").first.evaluate(SEEN) > 0
    enlarge(page)
    shown = page.locator("#large figure img")
    assert shown.evaluate("image => new URL(image.src).pathname") == "/images/j0.jpg"
    assert shown.evaluate(SEEN) > 0
    expect(page.locator("[data-field=mirror]")).to_contain_text("spring/out/images/j0.jpg")


def test_a_report_shows_small_ones_and_says_where_the_large_are(place: Path, opened: Opener, moto: Served) -> None:
    write_report(place / "out")
    page = opened(f"file://{place}/out/report.html")
    assert page.locator(".tile img").first.evaluate(SEEN) > 0
    enlarge(page)
    caption = page.locator("#large figcaption")
    expect(caption).to_have_text(f"Preview only, the picture is in the bucket · {moto.bucket}/spring/out/images/j0.jpg")
    assert page.locator("#large figure img").evaluate("image => image.src").endswith(".jpg")
    expect(page.locator("#large figure a")).to_have_count(0)


def test_a_signed_report_shows_them_large_and_says_for_how_long(place: Path, opened: Opener, moto: Served) -> None:
    write_report(place / "out", sign=3600)
    page = opened(f"file://{place}/out/report.html")
    expect(page.locator("#header")).to_contain_text("Links to pictures in the bucket are good until")
    enlarge(page)
    shown = page.locator("#large figure img")
    assert shown.evaluate("image => image.src").startswith(moto.endpoint)
    assert shown.evaluate(SEEN) > 0
    assert page.locator("#large figure a").get_attribute("href") == shown.evaluate("image => image.src")
    assert all(not url.startswith("http") or url.startswith(moto.endpoint) for url in opened.asked)
