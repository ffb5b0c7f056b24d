"""The live page: judge, redo, run, and see the new picture arrive, without a reload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import JUDGED, ROOT, batchflux, drawn, hears, reloaded, serving_apart
from tests.ports import kept_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import Opener, Reviewed

pytestmark = pytest.mark.timeout(300)  # most start the program, some of them three times


def test_reject_redo_run_and_the_new_picture_is_there(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(reviewed.url)
    assert "token" not in page.evaluate("location.href")
    page.evaluate("window.sameAsBefore = true")
    expect(page.locator(".tile")).to_have_count(3)
    page.locator(".tile").first.click()
    dialog = page.locator("#large")
    expect(dialog.get_by_role("heading", name="cup")).to_be_visible()
    page.keyboard.press("n")
    expect(page.locator("#note")).to_be_focused()
    page.keyboard.type("too dark, a r e")
    page.locator('[data-for="close"]').focus()
    page.keyboard.press("r")
    expect(dialog.get_by_role("heading", name="bowl")).to_be_visible()  # the next one
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_role("button", name="Reject")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator(".tile").first.locator(".badge")).to_have_text("✕ Rejected")
    page.locator("#gallery").focus()
    page.keyboard.press("e")
    redo = page.get_by_role("dialog", name="Redo this picture")
    redo.get_by_label("Prompt").fill("cup on a table, bright daylight")
    redo.get_by_label("Seed").fill("99")
    redo.get_by_role("button", name="Redo").click()
    expect(redo).to_be_hidden()
    expect(page.locator(".tile").first.locator(".badge")).to_have_text("↻ Redo")
    hears(page, "cup-redo1")
    reviewed.comes_to_be({"cup": "redo"})
    assert reviewed.rows["cup"]["note"] == "too dark, a r e"

    reviewed.run("--redo")
    fresh = page.locator(".tile").filter(has=page.locator("bdi:text-is('cup-redo1')"))
    expect(fresh.locator("img")).to_be_visible()
    fresh.locator("img").evaluate("image => image.decode()")
    expect(page.locator(".tile .caption b").nth(1)).to_have_text("cup-redo1")  # right behind the one it came from
    hears(page, "cup-redo1 has been made")
    assert page.evaluate("window.sameAsBefore") is True
    fresh.click()
    expect(dialog.locator('[data-field="seed"]')).to_have_text("99")
    expect(dialog.locator(".prompt")).to_have_text("cup on a table, bright daylight")
    dialog.get_by_role("button", name="cup", exact=True).click()  # its other makings
    expect(dialog.get_by_role("heading", name="cup", exact=True)).to_be_visible()


def test_a_selection_is_judged_at_once_and_taken_back(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(reviewed.url)
    page.locator("#gallery").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    bar = page.get_by_role("region", name="Verdict on the selection")
    expect(bar.locator("b")).to_have_text("2 selected")
    page.keyboard.press("a")
    expect(page.locator(".badge")).to_have_text(["✓ Accepted", "✓ Accepted"])
    reviewed.comes_to_be({"cup": "accept", "bowl": "accept"})
    page.keyboard.press("Control+a")
    expect(bar.locator("b")).to_have_text("3 selected")
    bar.get_by_role("button", name="Clear").click()
    expect(page.locator(".badge")).to_have_count(0)
    page.locator("#gallery").focus()
    page.keyboard.press("Escape")
    expect(bar).to_be_hidden()
    page.locator(".tile").nth(2).locator(".pick").click()
    expect(bar.locator("b")).to_have_text("1 selected")
    page.keyboard.press("r")
    expect(page.locator(".tile").nth(2).locator(".badge")).to_have_text("✕ Rejected")
    page.get_by_label("Verdict", exact=True).select_option("reject")
    expect(page.locator(".tile")).to_have_count(1)


def test_new_pictures_and_counts_arrive_while_another_process_runs(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(reviewed.url)
    pictures = page.locator("#header dd").first
    expect(pictures).to_have_text("3 of 5")
    page.get_by_label("Sort").focus()  # a control in use is not torn down by what arrives
    page.get_by_label("Sort").evaluate("node => { node.mark = 1 }")
    reviewed.run()
    expect(pictures).to_have_text("5 of 5")
    expect(page.locator(".tile")).to_have_count(5)
    expect(page.locator("#count")).to_have_text("5 jobs")
    assert page.get_by_label("Sort").evaluate("node => node.mark") == 1
    edited = JUDGED.replace("vase, lamp", "lamp").replace("PHOTOS", str(ROOT / "jobs/photos"))
    (reviewed.place / "judged.yaml").write_text(edited, encoding="utf-8")
    reviewed.run()  # an edit takes a job out of the manifest: its picture leaves the page
    expect(page.locator(".tile .caption b")).to_have_text(["cup", "bowl", "lamp", "cat-marble"])


def test_a_redo_of_a_chat_job_offers_no_seed_and_shows_what_the_server_says(reviewed: Reviewed, opened: Opener) -> None:
    reviewed.run()
    page = opened(f"{reviewed.url}#open=cat-marble")
    page.keyboard.press("e")
    redo = page.get_by_role("dialog", name="Redo this picture")
    expect(redo.get_by_label("Prompt")).to_be_focused()
    assert redo.get_by_label("Seed").count() == 0
    page.locator('meta[name="batchflux-token"]').evaluate("meta => { meta.content = 'another' }")
    redo.get_by_role("button", name="Redo").click()
    expect(redo.get_by_role("alert")).to_contain_text("The page's token is missing or of an earlier review.")
    assert [line for line in opened.said if "403" not in line] == []
    opened.said.clear()


def test_the_page_says_when_the_review_is_gone(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(reviewed.url)
    expect(page.locator(".tile")).to_have_count(3)
    page.context.set_offline(True)
    page.evaluate("fetch('/api/rows').catch(() => null)")
    page.locator("#gallery").focus()
    page.keyboard.press("a")
    hears(page, "The review server cannot be reached")
    assert page.locator(".badge").count() == 0
    page.context.set_offline(False)
    page.keyboard.press("a")
    expect(page.locator(".badge")).to_have_text("✓ Accepted")
    assert [line for line in opened.said if "ERR_INTERNET_DISCONNECTED" not in line] == []
    opened.said.clear()


def test_what_arrives_disturbs_nobody_who_looks_or_writes(reviewed: Reviewed, opened: Opener) -> None:
    reviewed.run("--only", "cat-*")
    page = opened(f"{reviewed.url}", width=420, height=500)
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Sort").select_option("newest")
    tile = page.locator(".tile").last
    tile.scroll_into_view_if_needed()
    where = tile.evaluate("node => node.getBoundingClientRect().top")
    name = tile.locator("b").inner_text()
    reviewed.run("--only", "vase")
    expect(page.locator("#header dd").first).to_have_text("4 of 5")
    tile = page.locator(".tile").filter(has=page.locator(f"bdi:text-is('{name}')"))
    assert tile.evaluate("node => node.getBoundingClientRect().top") == pytest.approx(where, abs=2)

    page.goto(f"{page.url.partition('#')[0]}#open=cat-marble")
    reloaded(page)
    page.keyboard.press("3")
    drawn(page.locator(".pair img"))
    page.locator("#slider").press("End")
    page.locator("#note").fill("half a wor")
    page.locator("#note").evaluate("node => node.setSelectionRange(4, 4)")
    expect(page.locator("#large .where")).to_have_text("4 of 4")
    reviewed.run()
    expect(page.locator("#large .where")).to_have_text("5 of 5")
    assert page.locator("#slider").input_value() == "100"
    assert page.locator("#note").input_value() == "half a wor"
    assert page.locator("#note").evaluate("node => document.activeElement === node && node.selectionStart") == 4


def test_judging_goes_on_where_a_verdict_takes_the_picture_out_of_the_filter(
    reviewed: Reviewed, opened: Opener
) -> None:
    page = opened(f"{reviewed.url}#review=(none)")
    expect(page.locator(".tile")).to_have_count(3)
    page.locator("#gallery").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    expect(page.locator(".tile")).to_have_count(2)
    expect(page.locator(".tile.current b")).to_have_text("vase")
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    dialog = page.locator("#large")
    expect(dialog.get_by_role("heading", name="cup")).to_be_visible()
    page.keyboard.press("r")
    expect(dialog.get_by_role("heading", name="vase")).to_be_visible()
    expect(dialog.locator(".where")).to_have_text("1 of 1")
    page.keyboard.press("r")  # the last one: it stays, although the filter hides it now
    expect(dialog.locator(".where")).to_have_text("not among those shown")
    expect(dialog.get_by_role("button", name="Reject")).to_have_attribute("aria-pressed", "true")
    expect(dialog.get_by_role("button", name="Next")).to_be_disabled()


@pytest.mark.slow
def test_a_page_that_lost_its_server_goes_on_where_it_was(judged: Path, opened: Opener) -> None:
    with kept_port() as port:
        with serving_apart(judged, port) as url:
            page = opened(url)
            expect(page.locator(".tile")).to_have_count(3)
            page.evaluate("window.sameAsBefore = true")
        hears(page, "has ended or cannot be reached")
        batchflux("run", "judged.yaml", "--out", "out", "--quiet", "--yes", cwd=judged)
        with serving_apart(judged, port) as again:
            other = page.context.new_page()  # whoever is let in anew in this browser lets its other pages in, too
            other.goto(again)
            expect(page.locator(".tile")).to_have_count(5)  # it tries again after up to 30 s
            hears(page, "The review server is back")
            assert page.evaluate("window.sameAsBefore") is True
            page.locator("#gallery").focus()
            page.keyboard.press("a")
            hears(page, "token is missing or of an earlier review")
            page.context.close()
    assert [line for line in opened.said if "ERR_CONNECTION_REFUSED" not in line and "403" not in line] == []
    opened.said.clear()
