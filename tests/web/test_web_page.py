"""The page itself: one file, its own script only, and everything that came from outside is data."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from typing import Any

from batchflux.web.page import Live, build_page, content_security_policy, script, style

HEADER: dict[str, Any] = {"name": "</title><script>alert(1)</script>", "counts": {}}


def page(rows: list[dict[str, Any]] | None = None, live: Live | None = None) -> str:
    return b"".join(build_page(rows or [], HEADER, live=live)).decode()


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_its_policy_allows_its_own_script_and_style_and_nothing_else() -> None:
    text = page()
    match = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert match
    policy = html.unescape(match[1])
    (own,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (sheet,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert f"script-src {digest(own)};" in policy
    assert f"style-src {digest(sheet)};" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_a_served_page_has_its_policy_in_the_header_and_its_token_in_a_meta_element() -> None:
    text = page(live=Live(token='t"<x', sequence=7))
    assert "Content-Security-Policy" not in text
    assert 'name="batchflux-token" content="t&#34;&lt;x"' in text
    assert '"live":{"sequence":7}' in text
    policy = content_security_policy(live=True)
    assert "frame-ancestors 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "file:" not in policy


def test_a_report_has_no_token() -> None:
    assert 'batchflux-token"' not in page().replace(script(), "")
    assert '"live":null' in page()


def test_the_name_is_text() -> None:
    text = page()
    assert "<script>alert" not in text
    assert "<title>&lt;/title&gt;&lt;script&gt;" in text


def test_script_and_style_cannot_end_their_elements_and_ask_nobody() -> None:
    assert "</" not in script().replace("</bdi>", "")
    assert "</" not in style()
    for text in (script(), style()):
        found = set(re.findall(r"https?://[^\s\"'`)\\]+", text))
        assert found <= {"http://www.w3.org/2000/svg"}
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser"):
        assert way not in script()
    assert "@import" not in style()
    assert "url(" not in style()
