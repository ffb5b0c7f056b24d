"""Accessible: axe-core finds no serious fault in any view, light and dark, wide and narrow; focus is led well."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Made, Opener, Reviewed

AXE = Path(__file__).with_name("axe.min.js").read_text(encoding="utf-8")


def faults(page: Page) -> list[str]:
    page.evaluate(AXE)
    found: dict[str, Any] = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{fault['impact']}: {fault['id']}: {[node['target'] for node in fault['nodes'][:3]]}"
        for fault in found["violations"]
        if fault["impact"] in {"serious", "critical"}
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_axe_finds_no_serious_fault(rich: Made, opened: Opener, scheme: str, width: int) -> None:
    edit = next(row["id"] for row in rich.rows if row["images"] and row["status"] == "done")
    failed = next(row["id"] for row in rich.rows if row["status"] == "failed")
    for view in ("", "#group=seed_ratio&size=s", "#view=sheet", "#view=charts", f"#open={edit}", f"#open={failed}"):
        page = opened(f"{rich.url}{view}", width=width, scheme=scheme)
        if view.startswith("#open"):
            page.locator("#large .panel").wait_for()
        assert faults(page) == [], view
    page.keyboard.press("3")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()
    assert faults(page) == []


@pytest.mark.slow
def test_axe_finds_no_serious_fault_in_the_review(reviewed: Reviewed, opened: Opener) -> None:
    page = opened(reviewed.url)
    page.locator("#gallery").focus()
    page.keyboard.press("a")
    page.keyboard.press("x")
    expect(page.get_by_role("region", name="Verdict on the selection")).to_be_visible()
    expect(page.locator(".badge")).to_have_count(1)
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("Space")
    expect(page.locator("#note")).to_be_visible()
    assert faults(page) == []
    page.keyboard.press("e")
    expect(page.locator("#redo-prompt")).to_be_focused()
    assert faults(page) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "width", "language"), [("light", 1440, "en"), ("dark", 900, "zh"), ("light", 390, "zh")]
)
def test_axe_finds_no_serious_fault_on_the_contact_sheet(
    reviewed: Reviewed, opened: Opener, scheme: str, width: int, language: str
) -> None:
    page = opened(f"{reviewed.url}&lang={language}#view=sheet", scheme=scheme, width=width)
    page.locator(".shot .open").first.focus()
    for key in ("a", "r", "x", "Shift+ArrowUp"):
        page.keyboard.press(key)
    expect(page.locator("#judging")).to_be_visible()
    expect(page.locator(".badge")).to_have_count(2)
    assert faults(page) == []
    for key, shows in (("c", ".side"), ("e", "#redo h2"), ("?", "#help h2")):
        page.keyboard.press(key)
        page.locator(shows).first.wait_for()
        assert faults(page) == [], key
        if key != "c":
            page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_focus_stays_in_the_dialog_and_comes_back(rich: Made, opened: Opener) -> None:
    page = opened(rich.url)
    page.locator("#gallery").focus()
    page.keyboard.press("Enter")
    page.locator("#large .panel").wait_for()
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        where = page.evaluate("document.activeElement.closest('#large') ? 'in' : document.activeElement.tagName")
        seen.add(where)
    assert seen <= {"in", "BODY"}  # the browser's own bar lies between the last and the first
    page.keyboard.press("Escape")
    page.locator("#large").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.id") == "gallery"


def test_the_order_of_focus_is_that_of_the_page(rich: Made, opened: Opener) -> None:
    page = opened(rich.url)
    order = []
    for _ in range(40):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate(
                "(document.activeElement.dataset.for ?? document.activeElement.id) || document.activeElement.tagName"
            )
        )
        if order[-1] == "gallery":
            break
    assert order[0] == "skip"
    wanted = [name for name in order if name in {"view-gallery", "search", "status-", "gallery"}]
    assert wanted == ["view-gallery", "search", "status-", "gallery"]
    page.keyboard.press("ArrowRight")
    active = page.locator("#gallery").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("class") == "tile done current"


def test_a_phone_scrolls_down_only(rich: Made, opened: Opener) -> None:
    for view in ("", "#view=sheet", "#view=charts"):
        page = opened(f"{rich.url}{view}", width=390, height=844)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
