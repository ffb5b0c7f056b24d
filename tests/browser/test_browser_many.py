"""Fifty thousand pictures: the page has few elements at any time, shows the first at once and finds any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.conftest import Made, Opener

COUNT = 50_000
MOST_ELEMENTS = 1500


def elements(page: Page) -> int:
    count: int = page.evaluate("document.querySelectorAll('body *').length")
    return count


@pytest.mark.slow
@pytest.mark.timeout(600)  # makes 100,000 files and a page of 18 MB; a busy machine takes its time
def test_fifty_thousand_pictures(
    opened: Opener, report_of: Callable[[Path], Made], filled: Callable[..., Path], tmp_path: Path
) -> None:
    page = opened(report_of(filled(tmp_path / "out", count=COUNT, thumbs=True)).url)
    expect(page.locator("#count")).to_have_text("50,000 jobs")
    scrolls_through_all_with_few_elements(page)
    keys_reach_the_end(page)
    search_and_groups_go_through_all(page)
    details_come_from_any_block(page)


def scrolls_through_all_with_few_elements(page: Page) -> None:
    counts = []
    for share in (0, 0.1, 0.37, 0.5, 0.81, 1):
        page.evaluate("share => scrollTo(0, share * document.documentElement.scrollHeight)", share)
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        counts.append(elements(page))
        in_the_window = page.evaluate(
            "[...document.querySelectorAll('.tile')].some(tile => { const box = tile.getBoundingClientRect();"
            " return box.bottom > innerHeight / 2 && box.top < innerHeight })"
        )
        assert in_the_window, share
    assert max(counts) < MOST_ELEMENTS
    assert page.locator(".tile .caption b").last.inner_text() == "job-049999"


def keys_reach_the_end(page: Page) -> None:
    page.locator("#gallery").focus()
    page.keyboard.press("Home")
    page.keyboard.press("End")
    assert page.locator(".tile.current .caption b").inner_text() == "job-049999"
    for _ in range(40):
        page.keyboard.press("ArrowUp")
    expect(page.locator(".tile.current")).to_be_in_viewport()
    assert elements(page) < MOST_ELEMENTS


def search_and_groups_go_through_all(page: Page) -> None:
    page.get_by_label("Search prompts").fill("number 4999,")
    expect(page.locator("#count")).to_have_text("10 of 50,000 jobs")
    page.get_by_label("Search prompts").fill("")
    expect(page.locator("#count")).to_have_text("50,000 jobs")
    page.get_by_label("Group").select_option("prompt")
    expect(page.locator(".heading .label").first).to_contain_text("Product number 0")
    assert elements(page) < MOST_ELEMENTS


def details_come_from_any_block(page: Page) -> None:
    page.get_by_label("Search prompts").fill("job-047111")
    expect(page.locator("#count")).to_have_text("1 of 50,000 jobs")
    page.locator(".tile").click()
    expect(page.locator('[data-field="result_url"]')).to_contain_text("http://simulator.localhost/v1/files/")


def test_a_picture_opened_right_behind_closing_another_stays_open(
    opened: Opener, report_of: Callable[[Path], Made], filled: Callable[..., Path], tmp_path: Path
) -> None:
    """The event of closing comes late, while the fields of the picture that was opened since are being unpacked."""
    page = opened(report_of(filled(tmp_path / "out", count=2200, thumbs=True)).url)
    page.locator("#gallery").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.locator("#large .panel").wait_for()
    page.evaluate(
        """() => {
            const unpack = Response.prototype.json;
            Response.prototype.json = async function () {
                await new Promise(done => setTimeout(done, 50));
                return unpack.call(this);
            };
            const press = key => document.activeElement.dispatchEvent(new KeyboardEvent("keydown",
                {key, bubbles: true, cancelable: true}));
            press(" ");
            press("End");
            press("Enter");
        }"""
    )
    expect(page.get_by_role("dialog").get_by_role("heading", name="job-002199")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()
