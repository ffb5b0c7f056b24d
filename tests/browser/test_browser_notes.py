"""What is typed as a note is kept: after a pause, with Ctrl+Enter, and when the page is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import hears

if TYPE_CHECKING:
    from tests.browser.conftest import Opener, Reviewed


def note_becomes(reviewed: Reviewed, wanted: str, name: str = "cup") -> None:
    """Wait until results.csv, which follows soon after, has the note."""
    reviewed.until(lambda: reviewed.rows[name].get("note") == wanted)


def test_a_note_is_kept_after_a_pause_and_typing_goes_on(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(f"{reviewed.url}#open=cup")
    page.keyboard.press("r")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#large").get_by_role("heading", name="cup")).to_be_visible()
    page.locator("#note").fill("too dark")
    note_becomes(reviewed, "too dark")
    expect(page.locator("#note")).to_be_focused()
    page.keyboard.type(" and blurred")
    note_becomes(reviewed, "too dark and blurred")
    assert reviewed.rows["cup"]["review"] == "reject"


@pytest.mark.parametrize("way", ["reload", "close", "leave"])
def test_a_note_outlives_the_page(reviewed: Reviewed, opened: Opener, way: str) -> None:
    page = opened(f"{reviewed.url}#open=cup")
    page.clock.install()  # the pause never ends
    page.locator("#note").fill("half a wor")
    if way == "reload":
        page.reload()
        expect(page.locator("#note")).to_have_value("half a wor")
    elif way == "close":
        page.close(run_before_unload=True)
    else:
        page.goto("data:text/html,elsewhere")
    note_becomes(reviewed, "half a wor")


def test_what_is_typed_right_behind_the_key_for_the_note_judges_nothing(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(reviewed.url)
    page.locator("#gallery").focus()
    page.keyboard.press("Home")
    page.evaluate(
        """() => {
            for (const key of "nare") document.activeElement.dispatchEvent(new KeyboardEvent("keydown",
                {key, bubbles: true, cancelable: true}));
        }"""
    )
    expect(page.locator("#note")).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.type("dim")
    page.keyboard.press("Control+Enter")
    note_becomes(reviewed, "dim")
    expect(page.get_by_role("dialog")).to_have_count(1)  # no form for a redo
    assert [row["review"] for row in reviewed.rows.values()] == ["", "", ""]


def test_control_and_enter_keeps_a_note_and_sends_a_redo(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(f"{reviewed.url}#open=cup")
    page.keyboard.press("n")
    expect(page.locator("#note")).to_be_focused()
    page.keyboard.type("brighter")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#note")).not_to_be_focused()
    note_becomes(reviewed, "brighter")
    page.keyboard.press("e")
    page.get_by_role("dialog", name="Redo this picture").get_by_label("Prompt").press("Control+Enter")
    expect(page.get_by_role("dialog", name="Redo this picture")).to_be_hidden()
    hears(page, "cup-redo1")
    reviewed.comes_to_be({"cup": "redo"})
    assert reviewed.rows["cup"]["note"] == "brighter"


def test_a_note_is_kept_when_the_picture_is_closed_or_another_is_opened(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(reviewed.url)
    page.clock.install()
    page.locator(".tile").first.click()
    page.locator("#note").fill("one")
    page.get_by_role("button", name="Next").click()
    page.get_by_role("dialog").get_by_role("heading", name="bowl").wait_for()
    page.locator("#note").fill("two")
    page.go_back()
    expect(page.locator("#large")).to_be_hidden()
    note_becomes(reviewed, "one")
    note_becomes(reviewed, "two", "bowl")
