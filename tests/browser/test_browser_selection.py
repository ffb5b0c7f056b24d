"""Verdicts and notes on a selection: on all of it, however large, and on nothing that nobody sees."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import hears, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page, Route

    from tests.browser.conftest import Opener, Reviewed

MANY = 4100  # more than the server takes at once


def sent(page: Page) -> list[dict[str, Any]]:
    """The bodies of the verdicts that the page sends from now on."""
    bodies: list[dict[str, Any]] = []
    page.on(
        "request",
        lambda request: bodies.append(json.loads(request.post_data or "")) if "verdicts" in request.url else None,
    )
    return bodies


def search(page: Page, words: str, count: str) -> None:
    page.get_by_label("Search prompts").fill(words)
    expect(page.locator("#count")).to_have_text(count)
    page.locator("#gallery").focus()


@pytest.mark.slow
def test_a_large_selection_is_judged_in_parts_and_what_fails_is_said_in_a_sentence(
    opened: Opener, filled: Callable[..., Path], tmp_path: Path
) -> None:
    filled(tmp_path / "out", count=MANY, failing=1)
    with serving(tmp_path) as url:
        page = opened(url)
        bodies = sent(page)
        page.locator("#gallery").focus()
        page.keyboard.press("Control+a")
        page.keyboard.press("r")
        expect(page.get_by_label("Verdict", exact=True).locator("option", has_text="Rejected (4,100)")).to_be_attached()
        assert [len(body["keys"]) for body in bodies] == [2000, 2000, 100]
        assert len({key for body in bodies for key in body["keys"]}) == MANY

        def fail_the_second(route: Route) -> None:
            if len(bodies) == 5:
                route.fulfill(status=503, json={"error": "The disk is full."})
            else:
                route.continue_()

        page.route("**/api/verdicts", fail_the_second)
        page.keyboard.press("a")
        hears(page, "Kept for 2,000 of 4,100 pictures only: The disk is full.")
        assert len(bodies) == 5
        expect(page.get_by_label("Verdict", exact=True).locator("option", has_text="Accepted (2,000)")).to_be_attached()
        page.context.close()
    assert [line for line in opened.said if "503" not in line] == []
    opened.said.clear()


def test_nothing_hidden_by_a_filter_is_judged(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(reviewed.url)
    bar = page.get_by_role("region", name="Verdict on the selection")
    bodies = sent(page)
    search(page, "cup", "1 of 3 jobs")
    page.keyboard.press("Control+a")
    search(page, "bowl", "1 of 3 jobs")
    expect(bar.locator("b")).to_have_text("1 selected, 1 hidden by filters")
    expect(bar.get_by_role("button", name="Reject")).to_be_disabled()
    page.keyboard.press("r")
    hears(page, "All selected pictures are hidden by filters; Esc deselects them.")
    page.keyboard.press("n")
    page.keyboard.press("x")
    expect(bar.locator("b")).to_have_text("2 selected, 1 hidden by filters")
    page.keyboard.press("r")
    expect(page.locator(".badge")).to_have_text("✕ Rejected")
    search(page, "", "3 jobs")
    expect(bar.locator("b")).to_have_text("2 selected")
    expect(page.locator(".badge")).to_have_count(1)
    assert len(bodies) == 1
    reviewed.comes_to_be({"bowl": "reject"})


def test_what_a_verdict_takes_out_of_the_filter_is_not_selected_any_more(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(f"{reviewed.url}#review=(none)")
    page.locator("#gallery").focus()
    page.keyboard.press("Home")
    page.keyboard.press("x")
    page.keyboard.press("a")
    expect(page.locator(".tile")).to_have_count(2)
    expect(page.get_by_role("region", name="Verdict on the selection")).to_be_hidden()
    page.keyboard.press("r")  # the next one, which is the current one
    expect(page.locator(".tile")).to_have_count(1)
    reviewed.comes_to_be({"cup": "accept", "bowl": "reject"})


def test_a_note_is_for_all_of_a_selection_and_leaves_its_verdicts(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(reviewed.url)
    page.locator("#gallery").focus()
    page.keyboard.press("Home")
    page.keyboard.press("r")
    expect(page.locator(".badge")).to_have_text("✕ Rejected")
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("n")
    dialog = page.get_by_role("dialog", name="Note on 2 pictures")
    expect(dialog.get_by_label("Note")).to_be_focused()
    page.keyboard.type("crop, a r e")
    page.keyboard.press("Control+Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator(".badge")).to_have_text("✕ Rejected")
    page.get_by_role("region", name="Verdict on the selection").get_by_role("button", name="Note").click()
    expect(dialog.get_by_label("Note")).to_have_value("crop, a r e")
    page.keyboard.press("Escape")
    reviewed.comes_to_be({"cup": "crop, a r e", "bowl": "crop, a r e"}, "note")
    reviewed.comes_to_be({"cup": "reject"})


def test_what_is_said_does_not_cover_the_bar(reviewed: Reviewed, opened: Opener) -> None:
    for width in (1440, 390):
        page = opened(reviewed.url, width=width)
        page.locator("#gallery").focus()
        page.keyboard.press("Control+a")
        page.keyboard.press("e")
        page.get_by_role("dialog").get_by_role("button", name="Redo").click()
        news = page.locator("#news p")
        expect(news).to_contain_text("will be made by the next batchflux run")
        said, bar = news.bounding_box(), page.locator("#judging").bounding_box()
        assert said is not None
        assert bar is not None
        assert said["y"] + said["height"] <= bar["y"]
        assert said["x"] >= 0
        page.context.close()
