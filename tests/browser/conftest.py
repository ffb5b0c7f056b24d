"""A real browser (Debian's chromium, driven by Playwright), and pages that must stay silent.

Playwright's sync API holds an event loop while it is open, so its fixture lives as long as a module: pytest ends it
before the next module's tests, which may be coroutines, begin.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect, sync_playwright

from batchflux.report.report import write_report
from batchflux.review.listen import WatchServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Locator, Page, ViewportSize

PATIENCE = 60_000  # milliseconds; machines are slow at times, and nothing waits that long when all is well
expect.set_options(timeout=PATIENCE)
# What a page says in passing is gone some seconds later, when a slow machine has not looked yet: it is written down.
HEARS = """
window.heard = [];
new MutationObserver(changes => {
    for (const { target, addedNodes } of changes)
        if (target.id === "news") for (const node of addedNodes) window.heard.push(node.textContent);
}).observe(document, { childList: true, subtree: true });
"""
ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MANIFEST = """
version: 1
name: rich
provider:
  name: simulator
  price: 0.14
  currency: CNY
  options: {latency: [0.01, 0.2], seed: 5, size: 96, faults: {bad_json: 0.1, moderated: 0.1}}
limits: {concurrency: 8, attempts: 2, budget: 20, max_consecutive_failures: 100}
jobs:
  - prompt: "{{ subject }}, {{ light }}"
    matrix:
      subject: [A lighthouse on a cliff, A fox in the snow]
      light: [morning light, at night]
      seed: {range: [1, 5]}
      aspect_ratio: [1:1, 16:9]
    tags: {light: "{{ light }}"}
  - prompt: Put it on a marble table
    matrix:
      image: {glob: PHOTOS/*.jpg}
    id: "{{ image.stem }}-marble"
    tags: {kind: edit}
"""

JUDGED = """
version: 1
name: judged
provider: {name: simulator, options: {latency: [0.01, 0.05], size: 96}}
jobs:
  - prompt: "{{ thing }} on a table"
    id: "{{ thing }}"
    matrix: {thing: [cup, bowl, vase, lamp], seed: [7]}
  - prompt: Put it on a marble table
    id: "cat-marble"
    images: [PHOTOS/cat-cushion.jpg]
"""


def batchflux(*arguments: str | Path, cwd: Path = ROOT, codes: tuple[int, ...] = (0, 1)) -> str:
    """Run the program; return its stdout."""
    command = [sys.executable, "-m", "batchflux", *map(str, arguments)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode in codes, done.stderr
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Made:
    """An output folder with its report, and what results.csv and summary.json say."""

    folder: Path

    @property
    def url(self) -> str:
        return f"file://{self.folder}/report.html"

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "results.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def summary(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return data


@dataclass(kw_only=True)
class Opener:
    """Opens pages and keeps what they said and asked for."""

    browser: Browser
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __call__(self, url: str, *, width: int = 1280, height: int = 900, scheme: Any = "light") -> Page:
        size: ViewportSize = {"width": width, "height": height}
        context = self.browser.new_context(viewport=size, color_scheme=scheme, locale="en-GB", timezone_id="UTC")
        context.add_init_script(HEARS)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(url)
        ready(page)
        return page


def ready(page: Page) -> None:
    """Wait until the page takes keys and has read all its rows."""
    page.wait_for_selector("html[data-ready]", state="attached")


def reloaded(page: Page) -> None:
    page.reload()
    ready(page)


def hears(page: Page, words: str) -> None:
    """Wait until the page has said this in passing, whatever it has said since."""
    said = "words => window.heard.some(said => said.includes(words))"
    page.wait_for_function(said, arg=words, polling=100)  # of a page behind another no frames may be drawn


def drawn(images: Locator) -> None:
    """Wait until all of these pictures are there, as large as they will be."""
    images.last.wait_for(state="attached")
    images.evaluate_all("all => Promise.all(all.map(one => one.decode()))")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        sentence = "There is no chromium: install it (Debian: apt-get install chromium) and run the tests again."
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opener]:
    """Opens pages; at the end of the test none of them may have said a word or asked anybody else for anything."""
    opener = Opener(browser=browser)
    yield opener
    for context in browser.contexts:
        context.close()
    assert opener.said == []
    assert [url for url in opener.asked if not url.startswith(("file://", "http://127.0.0.1:", "data:"))] == []


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A real run on the simulator, with failures, a budget, ratios, seeds, tags and references; 44 jobs."""
    place = tmp_path_factory.mktemp("rich")
    (place / "rich.yaml").write_text(MANIFEST.replace("PHOTOS", str(ROOT / "jobs/photos")), encoding="utf-8")
    batchflux("run", "rich.yaml", "--out", "out", "--quiet", "--yes", cwd=place)
    write_report(place / "out")
    return Made(folder=place / "out")


@pytest.fixture
def report_of() -> Callable[[Path], Made]:
    """Writes the report of a folder."""

    def make(folder: Path) -> Made:
        write_report(folder)
        return Made(folder=folder)

    return make


@dataclass(frozen=True, kw_only=True)
class Reviewed:
    """A folder under review: its manifest's folder and the address that lets in."""

    place: Path
    url: str

    def run(self, *arguments: str) -> None:
        batchflux("run", "judged.yaml", "--out", "out", "--quiet", "--yes", *arguments, cwd=self.place)

    def comes_to_be(self, wanted: dict[str, str], column: str = "review") -> None:
        """Wait until results.csv, which follows the verdicts soon after, has these ones."""
        self.until(lambda: {name: row[column] for name, row in self.rows.items() if row.get(column)} == wanted)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until results.csv is so."""
        wait_until(condition, pause=0.05, seen=lambda: f"for what results.csv does not have: {self.rows}")

    @property
    def rows(self) -> dict[str, dict[str, str]]:
        with (self.place / "out/results.csv").open(encoding="utf-8", newline="") as file:
            return {row["id"]: row for row in csv.DictReader(file)}


@contextmanager
def serving(place: Path) -> Iterator[str]:
    """Serve the review of `place`/out from a thread of this process; give the address that lets in."""
    told: list[str] = []
    server = WatchServer(place / "out", told.append)
    server.start()
    try:
        yield told[0].split()[-1]
    finally:
        server.stop()


@contextmanager
def serving_apart(place: Path, port: int = 0) -> Iterator[str]:
    """Serve the review of `place`/out with the program, which ends with SIGTERM; give the address that lets in."""
    command = [sys.executable, "-u", "-m", "batchflux", "review", "out", "--port", str(port)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    said = place / "review.err"
    with (
        said.open("w") as errors,
        subprocess.Popen(command, cwd=place, env=environ, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), said.read_text()
            yield url
        finally:
            server.send_signal(signal.SIGTERM)


@pytest.fixture(scope="session")
def judged_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("judged")
    (place / "judged.yaml").write_text(JUDGED.replace("PHOTOS", str(ROOT / "jobs/photos")), encoding="utf-8")
    batchflux("run", "judged.yaml", "--out", "out", "--quiet", "--limit", "3", cwd=place)
    return place


@pytest.fixture
def judged(judged_once: Path, tmp_path: Path) -> Path:
    """A folder with JUDGED, of which three jobs have been run into `out`."""
    return shutil.copytree(judged_once, tmp_path / "judged")


@pytest.fixture
def reviewed(judged: Path) -> Iterator[Reviewed]:
    """The same, with a review of it being served. Name it before `opened`, so that the pages are closed first."""
    with serving(judged) as url:
        yield Reviewed(place=judged, url=url)
