"""Choosing the best of several tries: keys on the contact sheet, pick, compare, redo of a selection, who judges."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from batchflux.ledger.reviews import verdicts, waiting_redos
from tests.browser.conftest import hears, reloaded, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.conftest import Opener

SEEDS = (30, 4, 200)  # in this order in the manifest, which is not that of their names
RATIOS = ("9:16", "1:1")


@pytest.fixture
def takes(filled: Callable[..., Path], tmp_path: Path) -> Path:
    """Two prompts, three seeds, two ratios: `0-30-9:16`, `0-30-1:1`, `0-4-9:16` and so on."""

    def take(number: int, row: dict[str, Any], spec: dict[str, Any]) -> None:
        subject, rest = divmod(number, 6)
        seed, ratio = SEEDS[rest // 2], RATIOS[rest % 2]
        row["id"] = f"{subject}-{seed}-{ratio}"
        spec |= {"prompt": f"mug {subject} on oak", "images": [], "seed": seed, "aspect_ratio": ratio}

    return filled(tmp_path / "out", count=12, failing=0, change=take)


@pytest.fixture
def review(takes: Path) -> Iterator[str]:
    with serving(takes.parent) as url:
        yield url


def said(folder: Path) -> dict[str, tuple[str, str]]:
    """What the ledger says of the pictures, and who said it, by id."""
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        names = dict(connection.execute("SELECT key, id FROM jobs").fetchall())
        found = verdicts(connection)
    return {names[key]: (verdict.review, verdict.reviewer) for key, verdict in found.items() if verdict.review}


def focused(page: Page) -> str:
    """The id of the picture of the contact sheet that has the focus."""
    name: str = page.evaluate("document.activeElement.querySelector('.unseen')?.textContent ?? ''")
    return name.removeprefix("Open ").rpartition(": ")[0]


def badges(page: Page) -> dict[str, str]:
    found: dict[str, str] = page.locator(".shot:has(.badge)").evaluate_all(
        "all => Object.fromEntries(all.map(one => [one.querySelector('.unseen').textContent,"
        " one.querySelector('.badge').textContent]))"
    )
    return {name.removeprefix("Open ").removesuffix(": "): words for name, words in found.items()}


def test_the_contact_sheet_takes_keys_and_keeps_its_focus(review: str, opened: Opener, takes: Path) -> None:
    page = opened(f"{review}#view=sheet&rows=prompt&cols=seed")
    assert page.get_by_role("columnheader").all_inner_texts()[1:] == ["30", "4", "200"]
    page.locator(".shot .open").first.focus()
    for key, name in (
        ("ArrowRight", "0-30-1:1"),  # in the same cell
        ("ArrowRight", "0-4-9:16"),
        ("ArrowDown", "1-4-9:16"),
        ("ArrowLeft", "1-30-1:1"),
        ("ArrowUp", "0-30-1:1"),
        ("ArrowUp", "0-30-1:1"),
    ):
        page.keyboard.press(key)
        assert focused(page) == name, key
    page.keyboard.press("a")
    expect(page.locator(".shot .badge")).to_have_count(1)
    assert focused(page) == "0-4-9:16"  # the next one
    page.keyboard.press("ArrowDown")
    page.keyboard.press("r")
    expect(page.locator(".shot .badge")).to_have_count(2)
    assert badges(page) == {"0-30-1:1": "✓ Accepted", "1-4-9:16": "✕ Rejected"}
    assert said(takes) == {"0-30-1:1": ("accept", ""), "1-4-9:16": ("reject", "")}
    assert focused(page) == "1-4-1:1"
    expect(page.locator("#header .figures", has_text="Verdicts").locator("dd")).to_have_text(["1", "1", "0", "10"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("heading", name="1-4-1:1")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog").get_by_role("heading", name="1-200-9:16")).to_be_visible()
    page.keyboard.press("Escape")
    assert focused(page) == "1-200-9:16"


def test_rows_are_as_high_as_their_pictures(review: str, opened: Opener) -> None:
    page = opened(f"{review}#view=sheet&rows=seed&cols=prompt&ratio=1:1", width=1600)
    shot, row = page.evaluate(
        "['.shot', '#sheet .line'].map(one => document.querySelector(one).getBoundingClientRect().toJSON())"
    )  # at one moment: a scroll bar that comes lays the sheet out anew
    assert shot["height"] == pytest.approx(shot["width"] * 80 / 120, abs=2)
    assert row["height"] < shot["height"] + 12


def test_a_pick_rejects_the_siblings_and_is_undone_in_one_step(review: str, opened: Opener, takes: Path) -> None:
    page = opened(review)
    page.locator("#gallery").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    expect(page.locator(".badge")).to_have_count(1)
    page.keyboard.press("Home")
    page.keyboard.press("p")
    expect(page.locator(".tile.current b")).to_have_text("1-30-9:16")  # past its siblings
    expect(page.locator(".badge")).to_have_text(["✓ Accepted"] + 5 * ["✕ Rejected"])
    hears(page, "0-30-9:16 accepted, 5 siblings of the same prompt and reference rejected.")
    page.locator("#news").get_by_role("button", name="Undo").click()
    expect(page.locator(".badge")).to_have_text(["✕ Rejected"])
    assert said(takes) == {"0-30-1:1": ("reject", "")}
    page.keyboard.press("z")  # and the one before it
    expect(page.locator(".badge")).to_have_count(0)
    assert said(takes) == {}


def test_selected_pictures_are_compared_side_by_side(review: str, opened: Opener, takes: Path) -> None:
    page = opened(f"{review}#view=sheet&rows=prompt&cols=seed&ratio=1:1")
    page.locator(".shot .open").first.focus()
    for key in ("x", "c"):  # one is too few
        page.keyboard.press(key)
    hears(page, "Select 2 to 4 pictures")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("c")
    dialog = page.get_by_role("dialog", name="3 pictures side by side")
    sides = dialog.get_by_role("group")
    expect(sides).to_have_count(3)
    expect(dialog.locator(".side-name b")).to_have_text(["0-30-1:1", "0-4-1:1", "1-4-1:1"])
    page.keyboard.press("2")
    page.keyboard.press("p")
    expect(dialog.locator(".badge")).to_have_text(["✕ Rejected", "✓ Accepted"])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    expect(dialog.locator(".badge")).to_have_text(["✕ Rejected", "✓ Accepted", "✓ Accepted"])
    reloaded(page)
    expect(sides).to_have_count(3)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert {name for name, (review, _) in said(takes).items() if review == "accept"} == {"0-4-1:1", "1-4-1:1"}


@pytest.mark.slow
def test_a_text_is_replaced_in_the_prompts_of_a_selection(review: str, opened: Opener, takes: Path) -> None:
    page = opened(f"{review}#ratio=1:1")
    page.locator("#gallery").focus()
    page.keyboard.press("Control+a")
    page.keyboard.press("e")
    form = page.get_by_role("dialog", name="Redo 6 pictures")
    form.get_by_label("Find in the prompts").fill("0 on oak")
    form.get_by_label("Replace with").fill("0 on marble")
    expect(form.get_by_role("status")).to_have_text("It stands in 3 of 6 prompts; only these are redone.")
    form.get_by_role("button", name="Redo").click()
    hears(page, "3 new pictures will be made by the next batchflux run")
    with closing(sqlite3.connect(takes / "ledger.db")) as connection:
        assert [one.redo.prompt for one in waiting_redos(connection)] == 3 * ["mug 0 on marble"]


@pytest.mark.slow
def test_the_name_is_asked_once_and_single_keys_and_going_on_can_be_turned_off(
    review: str, opened: Opener, takes: Path
) -> None:
    page = opened(review)
    page.get_by_label("Your name").fill("Ann 安")
    page.keyboard.press("Enter")
    expect(page.locator("#reviewer")).to_contain_text("You judge as Ann 安.")
    page.locator("#gallery").focus()
    page.keyboard.press("?")
    page.get_by_label("Go on to the next picture").uncheck()
    page.get_by_label("Keys without Ctrl").uncheck()
    page.keyboard.press("Escape")
    reloaded(page)
    expect(page.locator("#reviewer")).to_contain_text("You judge as Ann 安.")
    page.locator("#gallery").focus()
    page.keyboard.press("ArrowRight")
    for key in "ar/p?":
        page.keyboard.press(key)
    expect(page.locator(".tile.current b")).to_have_text("0-30-1:1")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Accept").click()
    panel = page.get_by_role("region", name="About this picture")
    expect(panel).to_contain_text("by Ann 安")  # and it stays open
    assert said(takes) == {"0-30-1:1": ("accept", "Ann 安")}
