"""The Night view, of two runs of one folder, against what `nights` says of them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from batchflux.ledger.connection import reading
from batchflux.ledger.nights.night import nights
from batchflux.report.report import write_report
from tests.browser.conftest import batchflux, reloaded, serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import Opener

MANIFEST = """
version: 1
name: twice
provider: {name: simulator, price: 0.14, currency: CNY, options: {size: 64, faults: {moderated: 0.2}}}
limits: {concurrency: 4, attempts: 1, deadline: 3h}
jobs: [{prompt: "a cup, {{ n }}", matrix: {n: {range: [1, 12]}}}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nights")
    (place / "m.yaml").write_text(MANIFEST, encoding="utf-8")
    for more in (("--set", "limits.budget_per_run=0.7"), ()):
        batchflux("run", "m.yaml", "--out", "out", "--quiet", "--yes", *more, cwd=place, codes=(0, 1, 3))
    lines = [  # of an outage and a key that died, as a run tells of them
        {
            "event": "away",
            "place": "provider",
            "message": "03:10:00 provider not reachable: <b>refused</b>; probing, next",
        },
        {"event": "key_refused", "message": "The key in K was refused (401): this run goes on without it."},
    ]
    log = (place / "out/run.log").read_text(encoding="utf-8").splitlines(keepends=True)
    at = json.loads(log[-2])["at"]
    log[-1:-1] = [json.dumps({"at": at, **line}) + "\n" for line in lines]
    (place / "out/run.log").write_text("".join(log), encoding="utf-8")
    write_report(place / "out")
    return place


def told(place: Path) -> list[dict[str, Any]]:
    with reading(place / "out/ledger.db") as connection:
        return [night.as_json() for night in nights(place / "out", connection, time.time(), running=False)]


def test_the_page_tells_of_the_last_run_and_of_those_before(place: Path, opened: Opener) -> None:
    first, last = told(place)
    page = opened(f"file://{place}/out/report.html")
    page.get_by_role("button", name="Night").click()
    page.locator('[data-chart="pace"] summary').click()
    counts = page.locator('[data-chart="pace"] tbody td').all_text_contents()
    assert sum(map(int, counts)) == last["done"]
    assert f"{float(last['spent']):.2f} CNY spent, 0.14 CNY a picture." in page.locator("#night .message").inner_text()
    assert ": met, with " in page.locator("#night .message").inner_text()
    expect(page.locator('[data-chart="trouble"] .says')).to_have_text(f"{last['failures']['moderated']} moderated.")
    events = page.locator('[data-chart="events"] tbody tr').all_inner_texts()
    assert [text.split("\t")[-1].split(":")[0].split(",")[0] for text in events] == [
        "The run began",
        "outage of the provider",
        "The key in K was refused (401)",
        last["message"].split(":")[0].split(",")[0],
    ]
    assert "<b>refused</b>" in events[1]
    assert page.locator('[data-chart="lanes"] rect.outage').count() == 1
    page.locator('[data-chart="nights"] tbody button').click()
    expect(page.locator("#night .message")).to_contain_text(f"{float(first['spent']):.2f} CNY spent of 0.70 CNY a run")
    assert page.locator('[data-chart="money"] .limit').count() == 1
    reloaded(page)
    expect(page.locator("#night .message")).to_contain_text("of 0.70 CNY a run")
    page.keyboard.press("g")
    expect(page.locator("#gallery")).to_be_visible()
    page.keyboard.press("t")
    expect(page.locator("#night")).to_be_visible()


def test_a_review_shows_it_too_and_in_chinese(place: Path, opened: Opener) -> None:
    with serving(place) as url:
        page = opened(f"{url}&lang=zh" if "?" in url else f"{url}?lang=zh")
        page.get_by_role("button", name="夜间").click()
        expect(page.locator("#night h3").first).to_have_text("每分钟图片数")
        page.context.close()
