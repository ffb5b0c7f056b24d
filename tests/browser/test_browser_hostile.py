"""Text that wants to be more than text stays text, wherever the page shows it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import Made, Opener

PROMPTS = (
    "</script><script>window.harmed = 1</script>",
    "<img src=x onerror='window.harmed = 2'>",
    "<!--<script>",
    '"><svg onload=window.harmed=3>',
    "{{ 7 * 7 }} {% raw %} ${window.harmed = 4} `",
    "javascript:window.harmed=5",
    "\u202eright to left\u202c שלום עולם مرحبا",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \U0001f468\u200d\U0001f33e a\u0301\u0323",
    "line one\r\nline two\u2028line three\u2029 \u0000 \u0007 end".replace("\u0000", ""),
    "]]> <![CDATA[ &lt; &amp; &#x3c;script&#x3e; \\u003c",
    "__proto__ constructor toString",
    "a" * 5000,
)


def harm(number: int, row: dict[str, Any], spec: dict[str, Any]) -> None:
    prompt = PROMPTS[number % len(PROMPTS)]
    spec |= {"prompt": prompt, "model": prompt[:60], "images": [f"javascript:window.harmed=6//{number}"]}
    tags = {"__proto__": prompt[:80], "<b>name</b>": "=1+1", "constructor": "x"}
    row["tags"] = json.dumps(tags if number % 2 else {"<b>name</b>": "=1+1"})
    row["id"] = f"{number}-{prompt[:40]}"
    row["error"] = prompt
    row["error_code"] = row["error_code"] and "<i>code</i>"
    row["link"] = "javascript:window.harmed=7"


def test_hostile_text_does_nothing_anywhere(
    opened: Opener, report_of: Callable[[Path], Made], filled: Callable[..., Path], tmp_path: Path
) -> None:
    made = report_of(
        filled(
            tmp_path / "hostile",
            count=len(PROMPTS) * 2,
            failing=5,
            change=harm,
            meta=(("name", "<script>window.harmed = 8</script>"), ("currency", "<b>")),
        )
    )
    page = opened(made.url, height=3000)
    assert page.locator("h1").inner_text() == "<script>window.harmed = 8</script>"
    alts = page.locator(".tile img").evaluate_all("all => all.map(one => one.alt)")
    assert {prompt for prompt in PROMPTS if prompt in alts} == set(PROMPTS) - {
        PROMPTS[k] for k in range(12) if k % 5 == 4 and (k + 12) % 5 == 4
    }
    for group in ("prompt", "tag.__proto__", "model", "tag.constructor"):
        page.get_by_label("Group").select_option(group)
    assert page.locator(".heading .label").all_inner_texts() == ["no constructor", "x"]
    page.get_by_role("button", name="Contact sheet").click()
    page.get_by_role("button", name="Charts").click()
    page.get_by_role("button", name="Gallery").click()
    page.locator(".tile").first.click()
    dialog = page.locator("#large")
    for _ in range(len(PROMPTS)):
        expect(dialog.locator(".fields").first).to_be_visible()
        assert dialog.locator("a[href^='javascript']").count() == 0
        page.keyboard.press("ArrowRight")
    assert page.evaluate("window.harmed") is None
    assert page.evaluate("({}).polluted") is None
    assert page.locator("body > script, body script").count() > 0
    assert page.locator("script:not([type])").count() == 1  # the page's own


def test_hostile_filters_in_the_url_do_nothing(rich: Made, opened: Opener) -> None:
    page = opened(
        f"{rich.url}#view=<script>&group=__proto__&sort=constructor&size=toString&tag.__proto__=1&rows=x&open=nobody&seed=%00"
    )
    assert page.locator("#empty").inner_text() == "No picture passes these filters."
    page = opened(f"{rich.url}#group=constructor&sort=toString&size=constructor&constructor=1", height=4000)
    assert page.locator("#count").inner_text() == "44 jobs"
    assert page.locator(".tile .caption b").all_inner_texts() == [row["id"] for row in rich.rows]
