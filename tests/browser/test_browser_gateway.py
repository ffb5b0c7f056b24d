"""Pages of other sites in a real browser, beside a gateway on loopback: none calls it but those that are allowed."""

from __future__ import annotations

import http.server
import threading
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.testing.bank import PRICE, Bank, opened
from batchflux.testing.program import Program, program_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

MANIFEST = """version: 1
name: m
provider: {{name: tuzi, base_url: {url}, keys: [TEST_KEY], model: m, price: {price}, currency: CNY}}
output: {{dir: {out}}}
"""
CALLS = """async (url) => {
    const asked = async (path, init) => {
        try {
            const answer = await fetch(url + path, init);
            return [answer.type, answer.status, answer.headers.get("x-batchflux-cost"), await answer.text()];
        } catch {
            return null;
        }
    };
    const headers = {"Content-Type": "application/json"};
    const json = (body) => ({method: "POST", headers, body: JSON.stringify(body)});
    const form = new FormData();
    form.append("prompt", "job form");
    return {
        json: await asked("/images/generations", json({prompt: "job json", response_format: "url"})),
        chat: await asked("/chat/completions", json({stream: true, messages: [{role: "user", content: "job chat"}]})),
        models: await asked("/models", {headers: {Authorization: "Bearer x"}}),
        silent: await asked("/images/generations", {method: "POST", mode: "no-cors", body: '{"prompt": "job silent"}'}),
        form: await asked("/images/generations", {method: "POST", mode: "no-cors", body: form}),
    };
}"""
SUBMITS = """(url) => {
    const form = document.createElement("form");
    Object.assign(form, {method: "POST", enctype: "multipart/form-data", action: url + "/images/edits"});
    form.innerHTML = '<input name="prompt" value="job submitted"><input name="image" value="https://example.com/a.png">';
    document.body.append(form);
    form.submit();
}"""
SHOWS = """(link) => new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image.naturalWidth);
    image.onerror = () => done(0);
    image.src = link;
})"""


class Site(http.server.BaseHTTPRequestHandler):
    """Somebody's page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def bank() -> Iterator[Bank]:
    with opened() as made:
        yield made


@pytest.fixture
def program(tmp_path: Path, bank: Bank) -> Iterator[Program]:
    with program_in(tmp_path) as made:
        made.write("m.yaml", MANIFEST.format(url=bank.url, price=PRICE, out=made.out))
        yield made


def gateway(program: Program, *more: str) -> str:
    process = program.start("gateway", "m.yaml", "--port", "0", *more)
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_page_of_another_site_buys_and_reads_nothing(
    browser: Browser, site: str, program: Program, bank: Bank
) -> None:
    url = gateway(program)
    page = browser.new_page()
    page.goto(site)
    called: dict[str, Any] = page.evaluate(CALLS, url)
    assert called == dict.fromkeys(("json", "chat", "models", "silent", "form"))
    with page.expect_navigation():
        page.evaluate(SUBMITS, url)
    assert '"code": "other_site"' in page.content()
    assert bank.posts.total() == 0


def test_a_page_of_an_allowed_site_calls_reads_and_shows(
    browser: Browser, site: str, program: Program, bank: Bank
) -> None:
    url = gateway(program, "--allow-origin", site)
    page = browser.new_page()
    page.goto(site)
    called: dict[str, Any] = page.evaluate(CALLS, url)
    assert called["json"][:3] == ["cors", 200, str(PRICE)]
    assert called["chat"][:2] == ["cors", 200]
    assert called["chat"][3].endswith("data: [DONE]\n\n")
    assert called["models"][:2] == ["cors", 200]
    assert {*bank.billed} == {"json", "chat"}
    link = page.evaluate("(text) => JSON.parse(text).data[0].url", called["json"][3])
    assert page.evaluate(SHOWS, link) == 48
    answer = page.goto(link)
    assert answer is not None
    assert answer.status == 200
    assert page.evaluate("document.images[0].naturalWidth") == 48
