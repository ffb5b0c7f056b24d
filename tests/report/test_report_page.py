"""The page itself: one file, its own script only, and everything that came from outside is data."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from html.parser import HTMLParser
from typing import Any

from batchflux.report.page import FIRST, INDEX, build_page, content_security_policy, script, style

HEADER: dict[str, Any] = {"name": "</title><script>alert(1)</script>", "counts": {}}


def page(rows: list[dict[str, Any]] | None = None, **live: Any) -> str:
    return b"".join(build_page(rows or [], HEADER, **live)).decode()


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
    text = page(token='t"<x', sequence=7)
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


class Plain(HTMLParser):
    """What the page holds for browsers without JavaScript."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.tags: set[str] = set()
        self.pictures: list[dict[str, str | None]] = []
        self.links: list[str | None] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.inside:
            self.tags.add(tag)
        if self.inside and tag == "img":
            self.pictures.append(dict(attrs))
        if self.inside and tag == "a":
            self.links.append(dict(attrs)["href"])
        self.inside = self.inside or tag == "noscript"

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "noscript"

    def handle_data(self, data: str) -> None:
        self.text += data if self.inside else ""


def test_without_javascript_the_first_pictures_are_there_and_text_is_text() -> None:
    prompt = '"><script>alert(1)</script></noscript><img src=x onerror=alert(2)>'
    rows = [
        dict.fromkeys(INDEX) | {"id": f"j{number}", "prompt": prompt, "full": f"images/{number}.png", "error": None}
        for number in range(FIRST + 5)
    ]
    rows[0] |= {"thumb": "thumbs/0.jpg"}
    rows[1] |= {"full": "", "status": "failed", "error": "moderated: <b>no</b>"}
    plain = Plain()
    plain.feed(page(rows))
    assert plain.tags == {"p", "ul", "li", "a", "img"}
    assert len(plain.pictures) == FIRST - 1
    assert plain.pictures[0] == {"src": "thumbs/0.jpg", "alt": prompt, "loading": "lazy"}
    assert plain.links[1] == "images/2.png"
    assert "failed, moderated: <b>no</b>" in plain.text
