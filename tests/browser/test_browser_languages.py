"""The page speaks English and Chinese, and mixes them nowhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from batchflux.report.report import write_report
from tests.browser.conftest import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.conftest import Opener

# Keys, names of formats and of the program, the other language's own name, and what is data here.
ALLOWED = frozenset(
    re.findall(
        r"\w+",
        "Space Enter Home End Esc Shift Ctrl English batchflux run redo log SHA jpeg jpg images job csv "
        "CNY standard moderated server timeout bad_answer",
    )
)
SAYS = """() => {
    const said = [document.title];
    const walk = node => {
        if (node.nodeType === Node.TEXT_NODE) said.push(node.textContent);
        if (node.nodeType !== Node.ELEMENT_NODE || node.matches("script, style, noscript, [data-field]")) return;
        for (const name of ["aria-label", "title", "placeholder", "aria-valuetext"]) said.push(node.getAttribute(name));
        for (const child of node.childNodes) walk(child);
    };
    walk(document.body);
    return said.filter(Boolean);
}"""


@pytest.fixture
def folder(filled: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder in which all data is Chinese, but what the program itself writes in English."""

    def name(number: int, row: dict[str, Any], spec: dict[str, Any]) -> None:
        row |= {"id": f"图-{number}", "error": row["error"] and "出错", "tags": '{"货号": "一"}'}
        spec |= {"prompt": f"杯子 {number % 2}", "images": [], "model": "模型", "provider": "商", "seed": number}

    meta = (("name", "春季"), ("currency", "CNY"))
    return filled(tmp_path / "out", count=8, failing=4, change=name, meta=meta)


def english(page: Page) -> set[str]:
    words = {word for text in page.evaluate(SAYS) for word in re.findall(r"[A-Za-z_]{3,}", text)}
    return words - ALLOWED


@pytest.mark.slow
def test_every_string_is_chinese_where_chinese_is_asked_for(folder: Path, opened: Opener) -> None:
    with serving(folder.parent) as url:
        page = opened(f"{url}&lang=zh")
        assert page.locator("html").get_attribute("lang") == "zh-CN"
        page.locator("#gallery").focus()
        for key in ("ArrowRight", "r", "Home", "x", "Shift+ArrowRight", "a"):
            page.keyboard.press(key)
        expect(page.locator(".badge").first).to_have_text("✓ 已采用")
        assert english(page) == set()
        seen = 0
        for keys, shows in (
            ("e", "#redo h2"),
            ("Escape n", "#noting h2"),
            ("Escape c", ".side"),
            ("Escape ?", "#help h2"),
            ("Escape Escape s", ".shot"),
            ("Enter", "#large .panel"),
            ("e", "#redo h2"),
            ("Escape Escape c", ".chart"),
        ):
            for key in keys.split():
                page.keyboard.press(key)
            page.locator(shows).first.wait_for()
            assert english(page) == set(), keys
            seen += len(page.evaluate(SAYS))
        assert seen > 300
        page.context.close()


def test_the_language_is_the_browsers_or_the_one_that_was_asked_for(folder: Path, opened: Opener) -> None:
    write_report(folder)
    report = f"file://{folder}/report.html"
    page = opened(report)
    expect(page.get_by_role("button", name="Contact sheet")).to_be_visible()
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_role("button", name="对照表")).to_be_visible()
    assert english(page) == set()
    for locale, name in (("zh-TW", "对照表"), ("fr-FR", "Contact sheet")):
        other = opened.browser.new_context(locale=locale).new_page()
        other.goto(report)
        expect(other.get_by_role("button", name=name)).to_be_visible()
